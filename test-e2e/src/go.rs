//! Programs of the Go modules beside this crate, built once and kept in the target directory.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::built;

/// The program `name`, made of a package of a module; or why there is none: no Go on this machine.
///
/// # Errors
/// The reason, to be printed by the test that skips. With `CI=true` there is no skipping.
///
/// # Panics
/// When it cannot be built, or with `CI=true` when Go is missing.
pub fn program(name: &str, module: &str, package: &str) -> Result<PathBuf, String> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join(module);
    let binary = built::directory().join(name);
    let has_go = Command::new("go")
        .arg("version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !has_go {
        if binary.is_file() {
            return Ok(binary);
        }
        assert!(
            env::var_os("CI").is_none_or(|ci| ci != "true"),
            "CI needs Go, to build {name}"
        );
        return Err(format!("Go is not installed, so there is no {name}"));
    }
    // Go's own cache makes this a look-up when nothing has changed.
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&binary)
        .arg(package)
        .current_dir(module)
        .output()
        .expect("go runs");
    assert!(
        built.status.success(),
        "building {name}: {}",
        String::from_utf8_lossy(&built.stderr)
    );
    Ok(binary)
}
