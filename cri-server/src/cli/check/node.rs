//! What else is on the node: our own supervisor, and other runtimes.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Finding, Host};

const AREA: &str = "node";
/// For `crisp-pod --version`, which only prints.
const PATIENCE: Duration = Duration::from_secs(5);
const OTHERS: &[(&str, &str)] = &[
    ("containerd", "/run/containerd/containerd.sock"),
    ("CRI-O", "/run/crio/crio.sock"),
    ("cri-dockerd", "/run/cri-dockerd.sock"),
];

pub(super) fn supervisor(path: &Path) -> Finding {
    const WHAT: &str = "supervisor";
    let shown = path.display();
    let effect = "no pod can be started";
    let remedy = "install crisp-pod beside crisp, or name it in supervisor.path";
    match fs::metadata(path) {
        Err(error) => {
            return Finding::lacks(AREA, WHAT, format!("{shown}: {error}"), effect, remedy).essential();
        }
        Ok(metadata) if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 => {
            return Finding::lacks(AREA, WHAT, format!("{shown}: cannot be executed"), effect, remedy)
                .essential();
        }
        Ok(_) => {}
    }
    match version(path) {
        Some(version) if version == env!("CARGO_PKG_VERSION") => {
            Finding::has(AREA, WHAT, format!("{shown}, {version}"))
        }
        other => Finding::lacks(
            AREA,
            WHAT,
            format!("{shown}: version {}", other.as_deref().unwrap_or("unknown")),
            format!(
                "crisp {} speaks to a supervisor of another build",
                env!("CARGO_PKG_VERSION")
            ),
            "install both binaries of one build",
        ),
    }
}

/// The last word of what `--version` prints.
fn version(binary: &Path) -> Option<String> {
    let mut command = Command::new(binary);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let started = Instant::now();
    let status = loop {
        match child.try_wait().ok()? {
            Some(status) => break status,
            None if started.elapsed() > PATIENCE => {
                child.kill().ok()?;
                break child.wait().ok()?;
            }
            None => thread::sleep(Duration::from_millis(2)),
        }
    };
    let mut text = String::new();
    child.stdout.take()?.take(4096).read_to_string(&mut text).ok()?;
    status
        .success()
        .then(|| text.split_whitespace().next_back().map(str::to_owned))?
}

/// Kubelet follows one socket only; kubeadm refuses to guess between two.
pub(super) fn neighbours(host: &Host, own: &Path) -> Vec<Finding> {
    let mut findings = vec![match UnixStream::connect(host.path(own)) {
        Ok(_) => Finding::has(AREA, "daemon", format!("answers on {}", own.display())),
        Err(_) => Finding::has(AREA, "daemon", format!("does not run on {}", own.display())),
    }];
    for (name, socket) in OTHERS {
        if UnixStream::connect(host.path(socket)).is_ok() {
            findings.push(Finding::lacks(
                AREA,
                "only runtime",
                format!("{name} answers on {socket}"),
                "kubeadm and crictl may choose the other one",
                format!("stop {name}, or name crisp's socket: criSocket in kubeadm's configuration, runtime-endpoint in /etc/crictl.yaml"),
            ));
        }
    }
    findings
}
