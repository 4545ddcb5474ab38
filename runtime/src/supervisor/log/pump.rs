//! The control thread's handle on the log writers.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::slot::LogSlot;
use super::tap::Tap;
use super::writer::{COMMANDS_MAX, Command, Queues, Report, Writer};
use crate::supervisor::poll::Bell;

/// Most containers of one pod that can have a log at once.
pub(crate) const MAX_LOGS: usize = 128;
/// Stack of a writer thread in bytes: its buffers are elsewhere.
const STACK: usize = 64 * 1024;

/// The log writers: as many as there are containers, at most as many as there were at once.
///
/// Before the first container the supervisor must have one thread: it creates the pod's namespaces around itself.
#[derive(Debug)]
pub(crate) struct LogPump {
    reported: Bell,
    reports: Receiver<Report>,
    reporting: SyncSender<Report>,
    writers: Vec<Handle>,
}

/// A writer, seen from here. Its thread ends with the process.
#[derive(Debug)]
struct Handle {
    commands: SyncSender<Command>,
    called: Bell,
    /// Key of the container whose slot it has, or will have; none when it is idle.
    serving: Option<u32>,
    /// Commands that found the queue full; sent before any other.
    backlog: VecDeque<Command>,
}

impl LogPump {
    /// A pump without a writer yet.
    pub(crate) fn new() -> io::Result<LogPump> {
        // Each slot comes back once, and each may report a fault before.
        let (reporting, reports) = sync_channel(2 * MAX_LOGS);
        Ok(LogPump {
            reported: Bell::new()?,
            reports,
            reporting,
            writers: Vec::new(),
        })
    }

    /// Readable when there are reports.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.reported.as_fd()
    }

    /// Whether so many more containers can have a log.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        self.serving() + more <= MAX_LOGS
    }

    /// Containers whose slot a writer has.
    pub(crate) fn serving(&self) -> usize {
        self.writers
            .iter()
            .filter(|writer| writer.serving.is_some())
            .count()
    }

    /// Sees to it that so many logs can be opened without a thread to start.
    ///
    /// # Errors
    /// Those of epoll_create, eventfd and clone.
    pub(crate) fn ensure_idle(&mut self, wanted: usize) -> io::Result<()> {
        while self.writers.len() - self.serving() < wanted {
            let writer = self.start()?;
            self.writers.push(writer);
        }
        Ok(())
    }

    /// Starts a writer; returns when its thread has done all that it will ever allocate.
    fn start(&self) -> io::Result<Handle> {
        let (commands, obeyed) = sync_channel(COMMANDS_MAX);
        let (called, started) = (Bell::new()?, Bell::new()?);
        let queues = Queues {
            commands: obeyed,
            called: called.share()?,
            reports: self.reporting.clone(),
            reported: self.reported.share()?,
        };
        let mut writer = Writer::new(queues)?;
        let ready = started.share()?;
        std::thread::Builder::new()
            .name("log".into())
            .stack_size(STACK)
            .spawn(move || {
                ready.ring();
                writer.run()
            })?;
        started.wait();
        Ok(Handle {
            commands,
            called,
            serving: None,
            backlog: VecDeque::new(),
        })
    }

    /// Lends a slot to a writer.
    ///
    /// # Errors
    /// As [`ensure_idle`](LogPump::ensure_idle), which makes sure beforehand that there are none.
    pub(crate) fn open(&mut self, slot: Box<LogSlot>) -> io::Result<()> {
        self.ensure_idle(1)?;
        if let Some(idle) = self.writers.iter_mut().find(|writer| writer.serving.is_none()) {
            idle.serving = Some(slot.key);
            idle.send(Command::Open(slot));
        }
        Ok(())
    }

    /// Gives a container's log a new file.
    pub(crate) fn reopen(&mut self, key: u32, file: OwnedFd) {
        self.tell(key, Command::Reopen(file));
    }

    /// Copies a container's streams to these as well.
    pub(crate) fn attach(&mut self, key: u32, taps: [Option<Tap>; 2]) {
        self.tell(key, Command::Attach(taps));
    }

    /// A container has ended: its slot comes back as a report once its pipes are empty.
    pub(crate) fn finish(&mut self, key: u32) {
        self.tell(key, Command::Finish);
    }

    /// Asks for all slots back. A writer that sleeps in a write answers when it wakes up.
    pub(crate) fn surrender(&mut self) {
        for writer in self.writers.iter_mut().filter(|writer| writer.serving.is_some()) {
            writer.send(Command::Surrender);
        }
    }

    /// A container whose slot is here already has nobody to be told.
    fn tell(&mut self, key: u32, command: Command) {
        if let Some(writer) = self.writers.iter_mut().find(|writer| writer.serving == Some(key)) {
            writer.send(command);
        }
    }

    /// The bell has rung.
    pub(crate) fn hush(&mut self) {
        self.reported.hush();
        for writer in &mut self.writers {
            writer.send_backlog();
        }
    }

    /// The next report.
    pub(crate) fn next_report(&mut self) -> Option<Report> {
        let report = self.reports.try_recv().ok()?;
        if let Report::Finished(slot) | Report::Surrendered(slot) = &report {
            for writer in &mut self.writers {
                writer.serving = writer.serving.filter(|key| *key != slot.key);
            }
        }
        Some(report)
    }
}

impl Handle {
    fn send(&mut self, command: Command) {
        self.backlog.push_back(command);
        self.send_backlog();
    }

    fn send_backlog(&mut self) {
        if self.backlog.is_empty() {
            return;
        }
        while let Some(command) = self.backlog.pop_front() {
            if let Err(TrySendError::Full(command) | TrySendError::Disconnected(command)) =
                self.commands.try_send(command)
            {
                self.backlog.push_front(command);
                break;
            }
        }
        self.called.ring();
    }
}
