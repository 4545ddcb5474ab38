//! stub
use super::{Result, Settings};
use crate::config::Config;
use std::process::ExitCode;
pub(super) async fn run(_: &Config, _: &Settings) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
pub(super) async fn workload() -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
