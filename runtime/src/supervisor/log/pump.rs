//! The control thread's handle on the log writer.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use super::slot::LogSlot;
use super::writer::{Command, Queues, Report, Writer};
use crate::supervisor::poll::Bell;

/// Most containers of one pod that can have a log at once.
pub(crate) const MAX_LOGS: usize = 128;

/// Stack of the writer thread in bytes: its buffers are elsewhere.
const STACK: usize = 64 * 1024;

/// The log writer, which runs from the first container on.
///
/// Before that the supervisor must have one thread: it creates the pod's namespaces around itself.
#[derive(Debug)]
pub(crate) struct LogPump {
    reported: Bell,
    running: Option<Running>,
    /// Containers whose slot the writer has, or will have.
    open: usize,
    /// Commands that found the queue full; sent before any other.
    backlog: VecDeque<Command>,
}

#[derive(Debug)]
struct Running {
    commands: SyncSender<Command>,
    called: Bell,
    reports: Receiver<Report>,
    thread: JoinHandle<()>,
}

impl LogPump {
    /// A pump without a writer yet.
    pub(crate) fn new() -> io::Result<LogPump> {
        Ok(LogPump {
            reported: Bell::new()?,
            running: None,
            open: 0,
            backlog: VecDeque::new(),
        })
    }

    /// Readable when there are reports.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.reported.as_fd()
    }

    /// Whether one more container can have a log.
    pub(crate) fn has_room(&self) -> bool {
        self.open < MAX_LOGS
    }

    /// Starts the writer if it does not run, so that opening a log cannot fail later.
    ///
    /// Returns when the thread has done all that it will ever allocate.
    ///
    /// # Errors
    /// Those of epoll_create, eventfd and clone.
    pub(crate) fn ensure_running(&mut self) -> io::Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let (commands, obeyed) = sync_channel(MAX_LOGS);
        // Each slot comes back once, and each may report a fault before.
        let (reporting, reports) = sync_channel(MAX_LOGS + MAX_LOGS / 2);
        let (called, started) = (Bell::new()?, Bell::new()?);
        let queues = Queues {
            commands: obeyed,
            called: called.share()?,
            reports: reporting,
            reported: self.reported.share()?,
        };
        let mut writer = Writer::new(queues)?;
        let ready = started.share()?;
        let thread = std::thread::Builder::new()
            .name("log".into())
            .stack_size(STACK)
            .spawn(move || {
                ready.ring();
                writer.run();
            })?;
        started.wait();
        self.running = Some(Running {
            commands,
            called,
            reports,
            thread,
        });
        Ok(())
    }

    /// Lends a slot to the writer.
    pub(crate) fn open(&mut self, slot: Box<LogSlot>) {
        self.open += 1;
        self.send(Command::Open(slot));
    }

    /// Gives a container's log a new file.
    pub(crate) fn reopen(&mut self, key: u32, file: OwnedFd) {
        self.send(Command::Reopen(key, file));
    }

    /// Copies a container's streams to these as well.
    pub(crate) fn attach(&mut self, key: u32, taps: [Option<OwnedFd>; 2]) {
        self.send(Command::Attach(key, taps));
    }

    /// A container has ended: its slot comes back as a report once its pipes are empty.
    pub(crate) fn finish(&mut self, key: u32) {
        self.send(Command::Finish(key));
    }

    /// Asks for all slots back; the last report will be `Suspended`.
    pub(crate) fn suspend(&mut self) {
        self.send(Command::Suspend);
    }

    /// Whether there is a writer to suspend.
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    fn send(&mut self, command: Command) {
        self.backlog.push_back(command);
        self.send_backlog();
    }

    fn send_backlog(&mut self) {
        let Some(running) = &self.running else { return };
        while let Some(command) = self.backlog.pop_front() {
            if let Err(refused) = running.commands.try_send(command) {
                use std::sync::mpsc::TrySendError::{Disconnected, Full};
                let (Full(command) | Disconnected(command)) = refused;
                self.backlog.push_front(command);
                break;
            }
        }
        running.called.ring();
    }

    /// The bell has rung.
    pub(crate) fn hush(&mut self) {
        self.reported.hush();
        self.send_backlog();
    }

    /// The next report.
    pub(crate) fn next_report(&mut self) -> Option<Report> {
        let report = match self.running.as_ref()?.reports.try_recv() {
            Ok(report) => report,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => return None,
        };
        match &report {
            Report::Finished(_) | Report::Surrendered(_) => self.open -= 1,
            Report::Suspended => {
                if let Some(running) = self.running.take() {
                    // It has nothing left to do but to return; a panic there would have ended the process.
                    let _ = running.thread.join();
                }
            }
            Report::Fault { .. } => {}
        }
        Some(report)
    }
}
