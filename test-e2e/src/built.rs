//! Where the programs under test are: beside the test binary, or where the environment says.

use std::env;
use std::path::PathBuf;

/// The daemon: `$CRISP_BIN`, else `crisp` in the directory cargo built this test into.
///
/// # Panics
/// With the remedy, when it has not been built.
pub fn crisp() -> PathBuf {
    program("crisp", "CRISP_BIN")
}

/// The probe that goes into test images (`src/bin/probe.rs`); `$CRISP_PROBE` overrides.
///
/// # Panics
/// With the remedy, when it has not been built.
pub fn probe() -> PathBuf {
    program("probe", "CRISP_PROBE")
}

/// The directory cargo puts finished programs into: the parent of `deps/`, where tests are.
///
/// # Panics
/// When the running program has no path, which Linux does not allow.
pub fn directory() -> PathBuf {
    let test = env::current_exe().expect("/proc/self/exe names the running test");
    let deps = test.parent().expect("a program lies in a directory");
    if deps.ends_with("deps") {
        deps.parent().unwrap_or(deps).to_owned()
    } else {
        deps.to_owned()
    }
}

fn program(name: &str, variable: &str) -> PathBuf {
    let path = env::var_os(variable).map_or_else(|| directory().join(name), PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing: build it first (`cargo build --workspace`, which `make test` does), or set {variable}",
        path.display(),
    );
    path
}
