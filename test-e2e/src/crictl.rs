//! The real `crictl`, built once from the Go module beside this crate and kept in the target
//! directory.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::built;

/// Where `crictl` is, or why there is none: no Go on this machine.
///
/// # Errors
/// The reason, to be printed by the test that skips. With `CI=true` there is no skipping.
///
/// # Panics
/// When it cannot be built, or with `CI=true` when Go is missing.
pub fn crictl() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("CRISP_CRICTL") {
        return Ok(path.into());
    }
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("crictl");
    let binary = built::directory().join("crictl");
    let has_go = Command::new("go")
        .arg("version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !has_go && !binary.is_file() {
        assert!(
            env::var_os("CI").is_none_or(|ci| ci != "true"),
            "CI needs Go, to build crictl"
        );
        return Err("Go is not installed, so there is no crictl to run".to_owned());
    }
    if has_go {
        // Go's own cache makes this a look-up when nothing has changed.
        let built = Command::new("go")
            .args(["build", "-o"])
            .arg(&binary)
            .arg("sigs.k8s.io/cri-tools/cmd/crictl")
            .current_dir(module)
            .output()
            .expect("go runs");
        assert!(
            built.status.success(),
            "building crictl: {}",
            String::from_utf8_lossy(&built.stderr)
        );
    }
    Ok(binary)
}
