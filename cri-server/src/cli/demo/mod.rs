//! `crisp demo`: one pod's life on this machine, timed, with nothing installed and no network needed.
//!
//! ```text
//!  traces of the host ── daemon (ours, if none answers) ── files of the store
//!         │                    │                                │
//!         │        import · run · create · start · log · exec · stop · remove
//!         │                    │                                │
//!  the same traces? ◄─ daemon stopped ◄──────────────── the same files?
//! ```
//!
//! The image is made on the spot from this very binary, whose hidden command [`workload`] is the container's process.
//! The demo calls CRI as kubelet does, so what it times is what kubelet gets. Every way out cleans up: a failed step,
//! and Ctrl-C, too.

mod archive;
mod daemon;
mod life;
mod timeline;
mod traces;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::client::Daemon;
use super::output;
use super::{CliError, Result};
use crate::config::Config;
use daemon::OwnDaemon;
use life::Life;
use timeline::Timeline;
use traces::{Place, Traces};

pub(super) use workload::workload;

/// Shown of a daemon's log when the demo fails.
const LOG_LINES: usize = 12;
/// Given to a daemon to finish behind its answers.
const SETTLING: Duration = Duration::from_secs(5);

pub(super) async fn run(config: &Config) -> Result<ExitCode> {
    let scratch = Scratch::create()?;
    let found = Daemon::connect(&config.socket).await;
    let left = match found {
        Ok(daemon) => {
            output::print(&format!(
                "A crisp answers on {}: the demo is its guest.\n\n",
                config.socket.display()
            ))?;
            as_guest(config, &daemon, &scratch).await?
        }
        Err(CliError::Down { .. }) => with_own_daemon(config, &scratch).await?,
        Err(error) => return Err(error),
    };
    if left.is_empty() {
        output::print(
            "\nNothing is left behind: mounts, namespaces, links, cgroups, processes and files are as before.\n",
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines: String = left.iter().map(|trace| format!("  {trace}\n")).collect();
    output::print(&format!("\nLEFT BEHIND:\n{lines}"))?;
    Ok(ExitCode::FAILURE)
}

/// On a daemon with pods of its own, only what bears a name of ours counts.
async fn as_guest(config: &Config, daemon: &Daemon, scratch: &Scratch) -> Result<Vec<String>> {
    let places = Place::all(config);
    let before = Traces::take(&places);
    let mut life = Life::new(daemon, scratch.path.join("logs"));
    let mut timeline = Timeline::new();
    let lived = live(&mut life, &mut timeline).await;
    let names = life.end().await;
    lived?;
    timeline.print_total()?;
    let ours = |trace: &String| names.iter().any(|name| trace.contains(name));
    Ok(settled(|| {
        Traces::take(&places)
            .beyond(&before)
            .into_iter()
            .filter(ours)
            .collect()
    })
    .await)
}

/// What is left once the daemon has had time for what it does behind its answers: emptying its trash.
async fn settled(left: impl Fn() -> Vec<String>) -> Vec<String> {
    let patience = Instant::now() + SETTLING;
    loop {
        let left = left();
        if left.is_empty() || Instant::now() > patience {
            return left;
        }
        tokio::time::sleep(SETTLING / 100).await;
    }
}

async fn with_own_daemon(config: &Config, scratch: &Scratch) -> Result<Vec<String>> {
    output::print("No crisp runs here: the demo brings its own.\n\n")?;
    let new_directories: Vec<&Path> = [config.state_dir.as_path(), &config.data_dir]
        .into_iter()
        .filter(|path| !path.exists())
        .collect();
    let before = Traces::take(&Place::of_host(config));
    let mut timeline = Timeline::new();
    let mut daemon = timeline
        .step("daemon ready", OwnDaemon::start(config, &scratch.path))
        .await?;
    timeline.note(&format!("process {}", daemon.pid()))?;

    let outcome = with_daemon(config, scratch, &mut timeline).await;
    let stopped = timeline.step("daemon stopped", daemon.stop()).await;
    timeline.end_line()?;
    let mut left = Traces::take(&Place::of_host(config)).beyond(&before);
    if left.is_empty() {
        // Directories that were not there before the demo go with it, now that nothing is mounted in them.
        for directory in new_directories.into_iter().filter(|directory| directory.exists()) {
            std::fs::remove_dir_all(directory).map_err(|source| file_error(directory, source))?;
        }
    }
    match outcome.and_then(|left| stopped.map(|()| left)) {
        Ok(files) => left.extend(files),
        Err(error) => {
            eprint!("{}", daemon.last_words(LOG_LINES));
            return Err(error);
        }
    }
    timeline.print_total()?;
    Ok(left)
}

/// The pod's life, and what it left in the daemon's directories.
async fn with_daemon(config: &Config, scratch: &Scratch, timeline: &mut Timeline) -> Result<Vec<String>> {
    let daemon = Daemon::connect(&config.socket).await?;
    let places = Place::of_store(config);
    let before = Traces::take(&places);
    let mut life = Life::new(&daemon, scratch.path.join("logs"));
    let lived = live(&mut life, timeline).await;
    life.end().await;
    lived?;
    Ok(settled(|| Traces::take(&places).beyond(&before)).await)
}

/// Lives the pod's life, or ends it early on Ctrl-C.
async fn live(life: &mut Life<'_>, timeline: &mut Timeline) -> Result<()> {
    let listen = |kind| signal(kind).map_err(CliError::Threads);
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        lived = life.live(timeline) => lived,
        _ = interrupt.recv() => Err(CliError::Demo { step: "demo", problem: "interrupted".into() }),
        _ = terminate.recv() => Err(CliError::Demo { step: "demo", problem: "terminated".into() }),
    }
}

/// A directory of the demo's own, for logs and the daemon's configuration.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn create() -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("crisp-demo-{}", std::process::id()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| file_error(&path, source))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn file_error(path: &Path, source: std::io::Error) -> CliError {
    CliError::File {
        name: path.display().to_string(),
        source,
    }
}
