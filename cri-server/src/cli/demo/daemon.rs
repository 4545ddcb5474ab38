//! A daemon for the demo's time: this binary again, on the effective configuration.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::super::{CliError, Result};
use super::file_error;
use crate::config::Config;

/// Far more than a start takes: 50 ms is the aim.
const READY: Duration = Duration::from_secs(30);
const STOPPED: Duration = Duration::from_secs(20);

/// The child process and its log.
pub(super) struct OwnDaemon {
    child: Child,
    pid: Pid,
    log: PathBuf,
}

impl OwnDaemon {
    /// Starts it, and waits until it says READY=1 as it would to systemd.
    pub(super) async fn start(config: &Config, scratch: &Path) -> Result<Self> {
        let settings = scratch.join("config.toml");
        fs::write(&settings, config.to_toml()).map_err(|source| file_error(&settings, source))?;
        let log = scratch.join("daemon.log");
        let output = File::create(&log).map_err(|source| file_error(&log, source))?;
        let notify = scratch.join("notify");
        let notified = UnixDatagram::bind(&notify).and_then(|socket| {
            socket.set_nonblocking(true)?;
            tokio::net::UnixDatagram::from_std(socket)
        });
        let notified = notified.map_err(|source| file_error(&notify, source))?;

        let failed = |source: io::Error| problem(format!("cannot be started: {source}"));
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .arg("--config")
            .arg(&settings)
            .arg("serve")
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            // A Ctrl-C on the terminal is for the demo, which then stops the daemon in order.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .map(Pid::from_raw);
        let pid = pid.ok_or_else(|| problem("has no process id".into()))?;
        let ready = tokio::select! {
            ready = timeout(READY, wait_ready(&notified)) => match ready {
                Ok(ready) => ready.map_err(failed),
                Err(_) => Err(problem("did not get ready in time".into())),
            },
            status = child.wait() => Err(match status {
                Ok(status) => problem(format!("ended with {status}")),
                Err(error) => failed(error),
            }),
        };
        let mut daemon = Self { child, pid, log };
        if let Err(error) = ready {
            let _ = daemon.stop().await;
            eprint!("{}", daemon.last_words(super::LOG_LINES));
            return Err(error);
        }
        Ok(daemon)
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// SIGTERM, and its end awaited; SIGKILL when it does not come.
    pub(super) async fn stop(&mut self) -> Result<()> {
        if self.child.id().is_none() {
            return Ok(());
        }
        // The child is ours and not yet reaped, so the number means nobody else.
        kill(self.pid, Signal::SIGTERM).map_err(|errno| problem(format!("cannot be stopped: {errno}")))?;
        match timeout(STOPPED, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(problem(format!("ended with {status}"))),
            Ok(Err(error)) => Err(problem(format!("cannot be waited for: {error}"))),
            Err(_) => {
                let _ = self.child.kill().await;
                Err(problem("did not stop on SIGTERM, and was killed".into()))
            }
        }
    }

    /// The end of its log.
    pub(super) fn last_words(&self, lines: usize) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let skipped = text.lines().count().saturating_sub(lines);
        text.lines()
            .skip(skipped)
            .map(|line| format!("  daemon: {line}\n"))
            .collect()
    }
}

async fn wait_ready(socket: &tokio::net::UnixDatagram) -> io::Result<()> {
    let mut message = [0; 512];
    loop {
        let length = socket.recv(&mut message).await?;
        if message[..length]
            .split(|byte| *byte == b'\n')
            .any(|line| line == b"READY=1")
        {
            return Ok(());
        }
    }
}

fn problem(problem: String) -> CliError {
    CliError::Demo {
        step: "daemon",
        problem,
    }
}
