//! Programs that a test writes for others to execute.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Writes a program. Copied by another process: what is open for writing cannot be executed, and what this one has open
/// another test's child may have for a moment.
///
/// # Panics
/// When it cannot be written.
pub fn write(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).expect("writing a program");
    let mut install = Command::new("install");
    let installed = install.args(["-m", "755"]).args([&draft, path]).status();
    assert!(installed.expect("install runs").success());
    fs::remove_file(draft).expect("removing the draft");
}
