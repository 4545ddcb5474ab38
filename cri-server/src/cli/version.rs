//! `crisp version`.

use std::process::ExitCode;

use serde::Serialize;

use super::Result;
use super::output::{self, Format};

#[derive(Serialize)]
struct Version {
    version: &'static str,
    cri: &'static str,
    architecture: &'static str,
}

const OURS: Version = Version {
    version: env!("CARGO_PKG_VERSION"),
    cri: "v1",
    architecture: std::env::consts::ARCH,
};

pub(super) fn run(format: Format) -> Result<ExitCode> {
    match format {
        Format::Text => output::print(&format!(
            "crisp {} (CRI {}, {})\n",
            OURS.version, OURS.cri, OURS.architecture
        ))?,
        Format::Json => output::print_json(&OURS)?,
    }
    Ok(ExitCode::SUCCESS)
}
