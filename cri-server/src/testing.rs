//! What tests of several modules share.

use std::path::Path;
use std::process::Command;

/// Makes an executable copy, by another process: what is open for writing cannot be executed, and what this one has open
/// another test's child may have for a moment.
pub(crate) fn install(from: &Path, to: &Path) {
    let installed = Command::new("install")
        .args(["-m", "755"])
        .args([from, to])
        .status();
    assert!(installed.expect("install runs").success());
}
