//! What runs in the demo's container: says who and where it is, then lives until it is told to go.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use tokio::signal::unix::{SignalKind, signal};

use super::super::{CliError, Result, output};

pub(in crate::cli) async fn workload() -> Result<ExitCode> {
    // Before the first word: whoever reads it may send the signal at once, and a pid 1 without a handler ignores it.
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::Threads)?;
    let began = Instant::now();
    let hostname = nix::unistd::gethostname().unwrap_or_default();
    output::print(&format!(
        "I am process {} on {}\n",
        std::process::id(),
        hostname.display()
    ))?;
    output::print(&format!("my addresses: {}\n", addresses().join(" ")))?;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = tick.tick() => output::print(&format!("up {} s\n", began.elapsed().as_secs()))?,
            _ = terminate.recv() => break,
        }
    }
    output::print("SIGTERM: bye\n")?;
    Ok(ExitCode::SUCCESS)
}

fn addresses() -> Vec<String> {
    let found = getifaddrs().into_iter().flatten();
    found
        .filter_map(|interface| {
            let address = interface.address?;
            let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => v4.ip().to_string(),
                (_, Some(v6)) => v6.ip().to_string(),
                _ => return None,
            };
            Some(format!("{}={ip}", interface.interface_name))
        })
        .collect()
}
