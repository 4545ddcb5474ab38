//! The real `crictl`, and scripts that walk through a server with it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::go;
use crate::harness::Server;

/// Where `crictl` is, or why there is none.
///
/// # Errors
/// As [`go::program`].
pub fn crictl() -> Result<PathBuf, String> {
    match env::var_os("CRISP_CRICTL") {
        Some(path) => Ok(path.into()),
        None => go::program("crictl", "crictl", "sigs.k8s.io/cri-tools/cmd/crictl"),
    }
}

/// Runs `crictl/NAME.sh` against a server; it ends by saying so.
///
/// # Panics
/// With all that it said, when it fails.
pub async fn walk(server: &Server, crictl: &Path, name: &str, image: &str) {
    let mut script = Command::new("sh");
    script
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("crictl/{name}.sh")))
        .env("CRICTL", crictl)
        .env("ENDPOINT", format!("unix://{}", server.socket().display()))
        .env("IMAGE", image)
        .env("CGROUP_PARENT", format!("/{}/kubepods", server.cgroup_root()))
        .env("WORK", server.directory());
    let output = server.output(script, Vec::new()).await;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    assert!(said.contains(": done"), "{said}");
}
