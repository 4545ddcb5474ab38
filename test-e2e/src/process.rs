//! A child process held by pidfd, its exit awaited on a thread of its own.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::watch;

/// A child; dropping it leaves it running.
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Takes over a child that nobody has waited for yet.
    ///
    /// # Panics
    /// When the kernel has no pidfds (before 5.3).
    pub fn watch(mut child: Child) -> Self {
        let pid = child.id();
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .expect("a child's pid is positive");
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).expect("a pidfd of our own child");
        let (exited, exit) = watch::channel(None);
        std::thread::spawn(move || {
            let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0xff00));
            let _ = exited.send(Some(status));
        });
        Self { pid, pidfd, exit }
    }

    /// Its pid; stale once it has exited.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal; nothing happens when it has exited.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Waits for its exit.
    ///
    /// # Panics
    /// Never: the waiting thread always reports.
    pub async fn exited(&mut self) -> ExitStatus {
        let status = self
            .exit
            .wait_for(Option::is_some)
            .await
            .expect("the waiting thread reports");
        status.expect("just checked")
    }
}
