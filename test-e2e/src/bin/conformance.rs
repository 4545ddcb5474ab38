//! `make conformance`: the Kubernetes project's cases against a `crisp` started for them.
//!
//! Environment: `RUNS` (how often in a row, against the same daemon; 1), `PROCS` (how many cases at once; 1), `FOCUS`
//! (a regular expression of names), `FLAGS` (more flags for the cases, as `-websocket-exec`), `CASES` (another build
//! of the cases), `SYSTEMD` (if not empty, systemd makes the cgroups). With `--build` it stops when all that is needed has been built. The daemon's log and ginkgo's report of the last run stay beside this program.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use test_e2e::built;
use test_e2e::conformance::cases::{Cases, Choice};
use test_e2e::conformance::images::{self, HOSTS};
use test_e2e::conformance::parts::Parts;
use test_e2e::layout::{REGISTRY_PORT, Settings};

#[tokio::main]
async fn main() -> ExitCode {
    let choice = Choice {
        processes: number("PROCS"),
        focus: env::var("FOCUS").ok().filter(|focus| !focus.is_empty()),
        flags: env::var("FLAGS")
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
    };
    let (parts, cases) = (Parts::make(), Cases::build());
    if env::args().nth(1).as_deref() == Some("--build") {
        return ExitCode::SUCCESS;
    }
    let server = settings().start().await;
    images::publish(&server.registry, &parts);

    let mut failed = false;
    for run in 1..=number("RUNS") {
        let tally = cases.run(&server, &choice).await;
        println!("\nrun {run}, {} at once\n{tally}\n", choice.processes);
        failed |= tally.is_failure();
    }
    let log = built::directory().join("conformance.log");
    fs::write(&log, server.log()).expect("the daemon's log is kept");
    if failed {
        println!("the daemon's log: {}", log.display());
    }
    server.close().await;
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// A positive number from the environment; 1 unless set.
fn number(variable: &str) -> usize {
    env::var(variable)
        .ok()
        .filter(|text| !text.is_empty())
        .map_or(1, |text| {
            let number = text.parse().ok().filter(|number| *number > 0);
            number.unwrap_or_else(|| panic!("{variable}={text}: a positive number is needed"))
        })
}

/// All hosts of the cases' images mirrored by our registry, and System V memory of their own: cases make segments
/// "on the host" and leave them there.
fn settings() -> Settings {
    let mut config = "[registry.mirrors]\n".to_owned();
    for host in HOSTS {
        let _ = writeln!(config, "\"{host}\" = [\"http://127.0.0.1:{REGISTRY_PORT}\"]");
    }
    Settings {
        config,
        prepare: Some(Box::new(|_| {
            unshare(CloneFlags::CLONE_NEWIPC).expect("an IPC namespace of the host's own");
        })),
        systemd: env::var("SYSTEMD").is_ok_and(|wanted| !wanted.is_empty()),
        ..Settings::default()
    }
}
