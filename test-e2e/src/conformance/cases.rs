//! The cases as a program: built once from `conformance/`, run on the host of the server that they judge.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::report::{LEFT_OUT_BY_NAME, Tally};
use crate::built;
use crate::harness::Server;
use crate::process::Process;

/// The cases and the program that spreads them over processes.
pub struct Cases {
    program: PathBuf,
    ginkgo: PathBuf,
}

/// How to run them.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// How many at once.
    pub processes: usize,
    /// Only those whose names match this regular expression.
    pub focus: Option<String>,
    /// More flags of the cases' own (`-websocket-exec`).
    pub flags: Vec<String>,
}

impl Cases {
    /// Builds both from the Go module; Go's own cache makes this a look-up when nothing has changed. Where the module is
    /// not (in another machine), those that were brought along are taken. `CASES` names a program of one's own instead:
    /// the cases of another version.
    ///
    /// # Panics
    /// When Go is missing or refuses.
    pub fn build() -> Self {
        let (program, ginkgo) = (
            built::directory().join("conformance.test"),
            built::directory().join("ginkgo"),
        );
        go(&["build", "-o"], &ginkgo, "github.com/onsi/ginkgo/v2/ginkgo");
        if let Some(other) = std::env::var_os("CASES") {
            return Self {
                program: other.into(),
                ginkgo,
            };
        }
        go(&["test", "-c", "-o"], &program, ".");
        Self { program, ginkgo }
    }

    /// Runs them against `server`, their output on ours.
    ///
    /// # Panics
    /// When no report comes out: they did not run at all.
    pub async fn run(&self, server: &Server, choice: &Choice) -> Tally {
        // Where the cases put pods' logs and volumes: goes with the server.
        let scratch = server.directory().join("cases");
        fs::create_dir_all(&scratch).expect("a directory for the cases");
        let report = built::directory().join("conformance.json");
        let _ = fs::remove_file(&report);
        let endpoint = format!("unix://{}", server.socket().display());
        let mut command = Command::new(&self.ginkgo);
        command
            .env("TMPDIR", &scratch)
            .args([
                "--no-color",
                "--timeout=1h",
                "--randomize-all",
                "--poll-progress-after=2m",
            ])
            .arg(format!("--procs={}", choice.processes))
            .arg(format!("--json-report={}", name(&report)))
            .arg(format!("--output-dir={}", built::directory().display()))
            .args(LEFT_OUT_BY_NAME.iter().map(|(case, _)| format!("--skip={case}")))
            .args(choice.focus.iter().map(|focus| format!("--focus={focus}")))
            .arg(&self.program)
            .args(["--", "-config=/dev/null"])
            .arg(format!("-runtime-endpoint={endpoint}"))
            .arg(format!("-image-endpoint={endpoint}"))
            .args(&choice.flags);
        let started = server.host.enter(move || command.spawn()).await;
        let mut process = Process::watch(started.expect("the program is there"));
        let status = process.exited().await;
        let text =
            fs::read(&report).unwrap_or_else(|error| panic!("the cases left no report ({status}): {error}"));
        Tally::read(&text, choice.focus.is_some())
    }
}

fn name(path: &Path) -> String {
    path.file_name().expect("a file has a name").display().to_string()
}

fn go(verb: &[&str], output: &Path, package: &str) {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    if !module.exists() && output.exists() {
        return;
    }
    let status = Command::new("go")
        .args(verb)
        .arg(output)
        .arg(package)
        .current_dir(module)
        .status()
        .unwrap_or_else(|error| panic!("go, which builds the cases: {error} (https://go.dev/dl)"));
    assert!(status.success(), "go {} {package}: {status}", verb.join(" "));
}
