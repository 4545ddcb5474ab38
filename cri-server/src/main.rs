//! The program `crisp`; everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    cri_server::cli::run()
}
