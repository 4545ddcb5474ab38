//! The writer thread: a loop over whatever pipe has bytes, one read each in turn.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use super::pump::MAX_LOGS;
use super::slot::{Buffers, LogSlot, Pumped, StreamName};
use crate::supervisor::poll::{Bell, Poll, Ready};

/// How long the writer goes on reading after a container's end, when somebody still writes.
const DRAIN: Duration = Duration::from_secs(2);
/// Pause before a report is tried again that found the control thread's queue full.
const RETRY: Duration = Duration::from_millis(10);
/// How long the writer keeps the memory of its buffers after the last bytes.
const COOL_DOWN: Duration = Duration::from_secs(1);
/// Token of the eventfd that announces commands; streams have `key << 2 | stream`, taps `key << 2 | TAPS`.
const COMMANDS: u64 = u64::MAX;
const TAPS: u64 = 2;

/// What the control thread tells the writer.
#[derive(Debug)]
pub(super) enum Command {
    /// Write this container's log from now on.
    Open(Box<LogSlot>),
    /// Go on in another file.
    Reopen(u32, OwnedFd),
    /// Copy its streams to these as well.
    Attach(u32, [Option<OwnedFd>; 2]),
    /// The container's init has ended: write what is in the pipes and give the slot back.
    Finish(u32),
    /// Give all slots back and leave.
    Suspend,
}

/// What the writer tells the control thread.
#[derive(Debug)]
pub(crate) enum Report {
    /// A slot comes back, its streams written out.
    Finished(Box<LogSlot>),
    /// A slot comes back as it stands, because of `Suspend`.
    Surrendered(Box<LogSlot>),
    /// All slots are back and the writer has left.
    Suspended,
    /// A write failed, for the first time in this file.
    Fault {
        /// The container's key.
        key: u32,
        /// What the write answered.
        errno: i32,
    },
}

/// All that the writer thread has.
pub(super) struct Writer {
    poll: Poll,
    called: Bell,
    commands: Receiver<Command>,
    reports: SyncSender<Report>,
    reported: Bell,
    buffers: Buffers,
    /// Has room for [`MAX_LOGS`], so that it never grows.
    entries: Vec<Entry>,
}

/// The writer's ends of the two queues, each with the bell that announces it.
pub(super) struct Queues {
    pub(super) commands: Receiver<Command>,
    pub(super) called: Bell,
    pub(super) reports: SyncSender<Report>,
    pub(super) reported: Bell,
}

/// A container's log in the writer's hands.
struct Entry {
    slot: Box<LogSlot>,
    /// Set once the container has ended: when to stop reading at the latest.
    finish_by: Option<Instant>,
}

enum Going {
    On,
    Leave,
}

impl Writer {
    /// Allocates all that the writer will ever need.
    pub(super) fn new(queues: Queues) -> io::Result<Writer> {
        let poll = Poll::new()?;
        poll.add(queues.called.as_fd(), COMMANDS)?;
        Ok(Writer {
            poll,
            called: queues.called,
            commands: queues.commands,
            reports: queues.reports,
            reported: queues.reported,
            buffers: Buffers::new(),
            entries: Vec::with_capacity(MAX_LOGS),
        })
    }

    /// Runs until `Suspend`.
    pub(super) fn run(&mut self) {
        let mut ready: Ready = Default::default();
        // Whether the buffers have been used since they were last given back.
        let mut warm = false;
        loop {
            let draining = self.entries.iter().any(|entry| entry.finish_by.is_some());
            let pause = match (draining, warm) {
                // While a container's last bytes are being read there is always something to do.
                (true, _) => Some(Duration::ZERO),
                (false, true) => Some(COOL_DOWN),
                (false, false) => None,
            };
            let tokens = self.poll.wait(&mut ready, pause);
            if tokens.is_empty() && !draining {
                self.buffers.release();
            }
            warm = !tokens.is_empty() || draining;
            for &token in tokens {
                if token != COMMANDS {
                    self.pump(token);
                    continue;
                }
                self.called.hush();
                if let Going::Leave = self.obey() {
                    return;
                }
            }
            if draining {
                self.drain();
            }
        }
    }

    fn obey(&mut self) -> Going {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Open(slot) => self.open(slot),
                Command::Reopen(key, file) => {
                    if let Some(entry) = self.find(key) {
                        entry.slot.file.succeed_by(file);
                        entry.slot.pass_on();
                    }
                }
                Command::Attach(key, taps) => self.attach(key, taps),
                Command::Finish(key) => {
                    if let Some(entry) = self.find(key) {
                        entry.finish_by = Some(Instant::now() + DRAIN);
                    }
                    self.drain();
                }
                Command::Suspend => {
                    self.surrender();
                    return Going::Leave;
                }
            }
        }
        Going::On
    }

    fn find(&mut self, key: u32) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.slot.key == key)
    }

    fn open(&mut self, slot: Box<LogSlot>) {
        debug_assert!(self.entries.len() < MAX_LOGS);
        for name in StreamName::ALL {
            if let Some(fd) = slot.fd(name) {
                // A stream that finds no room in the set is still read when its container ends.
                let _ = self.poll.add(fd, token(slot.key, name));
            }
            slot.source(name).taps().watch(&self.poll, taps_token(slot.key));
        }
        self.entries.push(Entry {
            slot,
            finish_by: None,
        });
    }

    fn attach(&mut self, key: u32, taps: [Option<OwnedFd>; 2]) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.slot.key == key) else {
            return;
        };
        for (name, tap) in StreamName::ALL.into_iter().zip(taps) {
            // A stream that has ended has nothing to copy: dropping the tap tells the client.
            if let Some(tap) = tap.filter(|_| entry.slot.fd(name).is_some()) {
                let taps = entry.slot.source_mut(name).taps_mut();
                taps.add(tap, &self.poll, taps_token(key));
            }
        }
    }

    fn pump(&mut self, token: u64) {
        let wanted = |entry: &&mut Entry| u64::from(entry.slot.key) == token >> 2;
        let Some(entry) = self.entries.iter_mut().find(wanted) else {
            return;
        };
        if token & TAPS != 0 {
            for name in StreamName::ALL {
                entry.slot.source_mut(name).taps_mut().sweep();
            }
            return;
        }
        let name = StreamName::ALL[usize::from(token & 1 == 1)];
        if entry.slot.pump(name, &mut self.buffers) == Pumped::Ended {
            end(&self.poll, &mut entry.slot, name, &mut self.buffers);
        }
        if let Some(errno) = entry.slot.file.take_fault() {
            if self
                .reports
                .try_send(Report::Fault {
                    key: entry.slot.key,
                    errno,
                })
                .is_err()
            {
                entry.slot.file.keep_fault(errno);
            }
            self.reported.ring();
        }
    }

    /// One read of each stream of each container that has ended; gives back the slots that are empty.
    fn drain(&mut self) {
        let mut index = 0;
        while index < self.entries.len() {
            let Entry {
                slot,
                finish_by: Some(finish_by),
            } = &mut self.entries[index]
            else {
                index += 1;
                continue;
            };
            let reads = StreamName::ALL.map(|name| slot.pump(name, &mut self.buffers));
            if reads.contains(&Pumped::Bytes) && Instant::now() < *finish_by {
                index += 1;
                continue;
            }
            for name in StreamName::ALL {
                end(&self.poll, slot, name, &mut self.buffers);
            }
            let finish_by = *finish_by;
            let entry = self.entries.swap_remove(index);
            if let Some(Report::Finished(slot)) = self.report(Report::Finished(entry.slot)) {
                // The control thread is behind; the slot must not be freed here.
                self.entries.push(Entry {
                    slot,
                    finish_by: Some(finish_by),
                });
                std::thread::sleep(RETRY);
                return;
            }
        }
    }

    fn surrender(&mut self) {
        while let Some(entry) = self.entries.pop() {
            self.insist(Report::Surrendered(entry.slot));
        }
        self.insist(Report::Suspended);
    }

    /// Reports, however long that takes.
    fn insist(&self, report: Report) {
        let mut pending = Some(report);
        while let Some(report) = pending {
            pending = self.report(report);
            if pending.is_some() {
                std::thread::sleep(RETRY);
            }
        }
    }

    /// Hands a report to the control thread; gives it back when the queue is full.
    fn report(&self, report: Report) -> Option<Report> {
        let refused = self.reports.try_send(report).err();
        self.reported.ring();
        match refused {
            Some(TrySendError::Full(report) | TrySendError::Disconnected(report)) => Some(report),
            None => None,
        }
    }
}

fn token(key: u32, name: StreamName) -> u64 {
    u64::from(key) << 2 | name as u64
}

fn taps_token(key: u32) -> u64 {
    u64::from(key) << 2 | TAPS
}

/// Ends a stream. It leaves the epoll set first: a pty's master has a second descriptor, in the control thread, which
/// would keep it there.
fn end(poll: &Poll, slot: &mut LogSlot, name: StreamName, buffers: &mut Buffers) {
    if let Some(fd) = slot.fd(name) {
        poll.remove(fd);
    }
    slot.end(name, buffers);
}
