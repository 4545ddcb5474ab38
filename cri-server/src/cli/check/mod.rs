//! `crisp check`: what this host offers and lacks, before a pod finds out.
//!
//! ```text
//!   Host (a root directory) ─► kernel · cgroup · privilege · network · storage · node ─► findings ─► text, JSON, exit code
//!                                                                 probes that only a real system call can answer
//! ```
//!
//! Each finding is something that is there, or a lack with its effect and its remedy. Only what no pod could run
//! without is essential and makes the exit code 1. The areas read files below an injected root, so that a test can
//! present any host; what needs a system call on the running kernel is in [`probe`]. Nothing on the host is changed.

mod cgroup;
mod kernel;
mod network;
mod node;
mod privilege;
mod probe;
mod storage;

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::Result;
use super::output::{self, Format};
use crate::config::Config;

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Which part of the host.
    area: &'static str,
    /// What was looked for.
    what: String,
    /// What was found, in a few words.
    detail: String,
    #[serde(flatten)]
    verdict: Verdict,
}

/// Whether it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
enum Verdict {
    /// It is.
    Has,
    /// It is not, and something works less well.
    Lacks { effect: String, remedy: String },
    /// It is not, and no pod can run.
    LacksEssential { effect: String, remedy: String },
}

impl Finding {
    fn has(area: &'static str, what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            area,
            what: what.into(),
            detail: detail.into(),
            verdict: Verdict::Has,
        }
    }

    fn lacks(
        area: &'static str,
        what: impl Into<String>,
        detail: impl Into<String>,
        effect: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let verdict = Verdict::Lacks {
            effect: effect.into(),
            remedy: remedy.into(),
        };
        Self {
            area,
            what: what.into(),
            detail: detail.into(),
            verdict,
        }
    }

    /// The same lack, but no pod can run with it.
    fn essential(mut self) -> Self {
        if let Verdict::Lacks { effect, remedy } = self.verdict {
            self.verdict = Verdict::LacksEssential { effect, remedy };
        }
        self
    }

    fn is_essential(&self) -> bool {
        matches!(self.verdict, Verdict::LacksEssential { .. })
    }
}

/// The host as seen through its files, below some root.
#[derive(Debug, Clone)]
struct Host {
    root: PathBuf,
}

impl Host {
    fn running() -> Self {
        Self { root: "/".into() }
    }

    fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        self.root
            .join(absolute.as_ref().strip_prefix("/").unwrap_or(absolute.as_ref()))
    }

    fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// A file's content without its last newline.
    fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        fs::read_to_string(self.path(path)).map(|text| text.trim_end().to_owned())
    }

    /// Names in a directory, sorted; none when there is no such directory.
    fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

pub(super) fn run(config: &Config, format: Format) -> Result<ExitCode> {
    let findings = findings(config);
    match format {
        Format::Text => output::print(&text(&findings))?,
        Format::Json => output::print_json(&findings)?,
    }
    let essential = findings.iter().any(Finding::is_essential);
    Ok(if essential {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Everything about the running host, area by area.
fn findings(config: &Config) -> Vec<Finding> {
    let host = Host::running();
    let mut findings = kernel::findings(&host);
    findings.extend(probe::findings());
    findings.extend(cgroup::findings(&host));
    findings.extend(cgroup::service_manager());
    findings.extend(privilege::findings(&host));
    findings.extend(network::findings(&host, &config.network));
    findings.push(probe::netfilter());
    findings.extend(storage::findings(&config.data_dir));
    let stackable = kernel::stacks_images(&host);
    findings.push(storage::layers(config.image.layer_format, stackable));
    findings.push(node::supervisor(&config.supervisor.path));
    findings.extend(node::neighbours(&host, &config.socket));
    findings
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut area = "";
    let width = findings
        .iter()
        .map(|finding| finding.what.chars().count())
        .max()
        .unwrap_or(0);
    for finding in findings {
        if finding.area != area {
            area = finding.area;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{area}");
        }
        let mark = match finding.verdict {
            Verdict::Has => "ok   ",
            Verdict::Lacks { .. } => "lacks",
            Verdict::LacksEssential { .. } => "FAILS",
        };
        let line = format!("  {mark}  {:<width$}  {}", finding.what, finding.detail);
        let _ = writeln!(text, "{}", line.trim_end());
        if let Verdict::Lacks { effect, remedy } | Verdict::LacksEssential { effect, remedy } =
            &finding.verdict
        {
            let _ = writeln!(text, "         effect: {effect}\n         remedy: {remedy}");
        }
    }
    let lacks = findings
        .iter()
        .filter(|finding| finding.verdict != Verdict::Has)
        .count();
    let essential = findings.iter().filter(|finding| finding.is_essential()).count();
    let verdict = match (essential, lacks) {
        (0, 0) => "crisp runs here, nothing is lacking".into(),
        (0, lacks) => format!("crisp runs here; lacking: {lacks}, none of it essential"),
        (essential, _) => format!("crisp cannot run pods here: {essential} essential"),
    };
    let _ = writeln!(text, "\n{verdict}");
    text
}

#[cfg(test)]
mod tests;
