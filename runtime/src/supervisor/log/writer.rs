//! A writer thread: one container's log at a time.
//!
//! ```text
//!              Open                       the file takes no more
//!   Idle ──────────────► Flowing ◄──────────────────────────────► Stuck: nothing is read, tried again now and then
//!    ▲                      │ Finish: read what is in the pipes       │ Finish: until DRAIN is over
//!    └── slot back ─────────┴─────────────────────────────────────────┘
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use super::buffers::READ;
use super::flow::{Flow, NAP};
use super::slot::{Flushed, LogSlot, Pumped, StreamName};
use super::tap::Tap;
use crate::supervisor::poll::{Bell, Poll, Ready};

/// How long the writer goes on after a container's end, when somebody still writes or the file takes no more.
const DRAIN: Duration = Duration::from_secs(2);
/// Pause before a file that took no more is tried again, and before a report is that found the queue full.
const RETRY: Duration = Duration::from_millis(100);
/// How long the writer keeps the memory of its buffers after the last bytes.
const COOL_DOWN: Duration = Duration::from_secs(1);

/// Commands on their way to one writer.
pub(super) const COMMANDS_MAX: usize = 16;
/// Token of the eventfd that announces commands; streams have their number.
const COMMANDS: u64 = u64::MAX;
const TAPS: u64 = 2;

/// What the control thread tells a writer. All but `Open` are about the slot that it has.
#[derive(Debug)]
pub(super) enum Command {
    /// Write this container's log from now on.
    Open(Box<LogSlot>),
    /// Go on in another file.
    Reopen(OwnedFd),
    /// Copy its streams to these as well.
    Attach([Option<Tap>; 2]),
    /// The container's init has ended: write what is in the pipes and give the slot back.
    Finish,
    /// Give the slot back as it stands.
    Surrender,
}

/// What a writer tells the control thread.
#[derive(Debug)]
pub(crate) enum Report {
    /// A slot comes back, its streams written out.
    Finished(Box<LogSlot>),
    /// A slot comes back as it stands, because of `Surrender`.
    Surrendered(Box<LogSlot>),
    /// A write failed, for the first time in this file.
    Fault {
        /// The container's key.
        key: u32,
        /// What the write answered.
        errno: i32,
    },
}

/// All that a writer thread has of its own.
pub(super) struct Writer {
    poll: Poll,
    called: Bell,
    commands: Receiver<Command>,
    reports: SyncSender<Report>,
    reported: Bell,
}

/// The writer's ends of the two queues, each with the bell that announces it.
pub(super) struct Queues {
    pub(super) commands: Receiver<Command>,
    pub(super) called: Bell,
    pub(super) reports: SyncSender<Report>,
    pub(super) reported: Bell,
}

/// A container's log in the writer's hands.
struct Serving {
    slot: Box<LogSlot>,
    /// Set once the container has ended: when to stop at the latest.
    finish_by: Option<Instant>,
    /// The buffers have been used since their memory was last given back.
    warm: bool,
    flow: Flow,
    /// The stream whose turn it is while both are drained.
    next: StreamName,
}

/// What becomes of a slot after a turn.
enum Turn {
    Goes(Serving),
    Comes(Report),
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
        })
    }

    /// Runs as long as the process. The slot that it has lives on this thread's stack, as a box that is never freed here.
    pub(super) fn run(&mut self) -> ! {
        let mut serving = None;
        loop {
            let turn = match serving.take() {
                None => self.idle(),
                Some(serving) => self.serve(serving),
            };
            match turn {
                Turn::Goes(going) => serving = Some(going),
                Turn::Comes(report) => self.insist(report),
            }
        }
    }

    fn idle(&mut self) -> Turn {
        loop {
            self.called.wait();
            self.called.hush();
            // Whatever else is said to an idle writer was meant for a slot that it has just given back.
            while let Ok(command) = self.commands.try_recv() {
                if let Command::Open(slot) = command {
                    // The commands behind it are announced, too.
                    self.called.ring();
                    return Turn::Goes(self.open(slot));
                }
            }
        }
    }

    fn open(&mut self, slot: Box<LogSlot>) -> Serving {
        for name in StreamName::ALL {
            if let Some(fd) = slot.fd(name) {
                // A stream that finds no room in the set is still read when its container ends.
                let _ = self.poll.add(fd, name as u64);
            }
            slot.source(name).taps().watch(&self.poll, TAPS);
        }
        Serving {
            slot,
            finish_by: None,
            warm: true,
            flow: Flow::default(),
            next: StreamName::Stdout,
        }
    }

    /// Writes what is pending, and when there is nothing pending, reads.
    fn serve(&mut self, mut serving: Serving) -> Turn {
        if serving.slot.flush() == Flushed::Stuck {
            return self.wait_for_room(serving);
        }
        match serving.finish_by {
            Some(by) => self.finish(serving, by),
            None => self.listen(serving),
        }
    }

    /// The file takes no more: the container's pipes fill, and the container waits. It alone.
    fn wait_for_room(&mut self, mut serving: Serving) -> Turn {
        self.report_fault(&mut serving.slot);
        if serving.finish_by.is_some_and(|by| by <= Instant::now()) {
            self.unwatch(&serving.slot, &StreamName::ALL);
            serving.slot.give_up();
            return Turn::Comes(Report::Finished(serving.slot));
        }
        match self.called.wait_at_most(RETRY) {
            true => self.obey(serving),
            false => Turn::Goes(serving),
        }
    }

    /// The container has ended: one read of each stream, until there is nothing left, or no time.
    fn finish(&mut self, mut serving: Serving, by: Instant) -> Turn {
        let open = |name: &StreamName| serving.slot.fd(*name).is_some();
        let order = [serving.next, serving.next.other()];
        let Some(name) = order.into_iter().find(open) else {
            return Turn::Comes(Report::Finished(serving.slot));
        };
        serving.next = name.other();
        let ended = Instant::now() >= by || !matches!(serving.slot.read(name), Pumped::Bytes(_));
        if ended {
            self.end(&mut serving, name);
        }
        Turn::Goes(serving)
    }

    fn listen(&mut self, mut serving: Serving) -> Turn {
        let mut ready: Ready = Default::default();
        let still = serving.flow.is_still();
        let patience = match still {
            true => serving.warm.then_some(COOL_DOWN),
            false => Some(Duration::ZERO),
        };
        let tokens = self.poll.wait(&mut ready, patience);
        if tokens.contains(&COMMANDS) {
            return self.obey(serving);
        }
        if tokens.is_empty() && still {
            serving.slot.buffers.release();
            serving.warm = false;
        }
        if tokens.contains(&TAPS) {
            for name in StreamName::ALL {
                serving.slot.source_mut(name).taps_mut().sweep();
            }
        }
        for name in StreamName::ALL {
            if serving.flow.look(name, tokens.contains(&(name as u64))) {
                self.unwatch_stream(&serving.slot, name);
            }
        }
        if serving.flow.rests() {
            std::thread::sleep(NAP);
        }
        for name in StreamName::ALL {
            // What one stream has brought is written before the other has its turn.
            if serving.flow.moves(name) && self.pump(&mut serving, name) == Flushed::Stuck {
                break;
            }
        }
        Turn::Goes(serving)
    }

    /// Reads what there is, as much as can be written at once, and writes it.
    fn pump(&self, serving: &mut Serving, name: StreamName) -> Flushed {
        serving.warm = true;
        let mut brought = 0;
        let ended = loop {
            match serving.slot.read(name) {
                Pumped::Bytes(length) => {
                    brought += length;
                    // Less than there was room for is all that there was.
                    if length < READ || !serving.slot.takes_more() {
                        break false;
                    }
                }
                Pumped::Empty => {
                    self.still(serving, name);
                    break false;
                }
                Pumped::Ended => break true,
            }
        };
        serving.flow.brought(brought);
        let flushed = serving.slot.flush();
        if ended && flushed == Flushed::All {
            self.end(serving, name);
        }
        flushed
    }

    /// A stream is empty: from now on it calls.
    fn still(&self, serving: &mut Serving, name: StreamName) {
        if serving.flow.is_unwatched(name)
            && let Some(fd) = serving.slot.fd(name)
            && self.poll.add(fd, name as u64).is_err()
        {
            // No room in the set: it is looked at after each nap.
            return;
        }
        serving.flow.stills(name);
    }

    fn obey(&mut self, mut serving: Serving) -> Turn {
        self.called.hush();
        let mut obeyed = 0;
        while let Ok(command) = self.commands.try_recv() {
            obeyed += 1;
            if obeyed == COMMANDS_MAX {
                // There may be more that found no room.
                self.reported.ring();
            }
            match command {
                Command::Reopen(file) => serving.slot.file.succeed_by(file),
                Command::Attach(taps) => self.attach(&mut serving.slot, taps),
                Command::Finish => serving.finish_by = Some(Instant::now() + DRAIN),
                Command::Surrender => {
                    self.unwatch(&serving.slot, &StreamName::ALL);
                    return Turn::Comes(Report::Surrendered(serving.slot));
                }
                // The control thread opens a slot only where there is none; should it ever, better two boxes than a free.
                Command::Open(slot) => std::mem::forget(slot),
            }
        }
        Turn::Goes(serving)
    }

    fn attach(&self, slot: &mut LogSlot, taps: [Option<Tap>; 2]) {
        for (name, tap) in StreamName::ALL.into_iter().zip(taps) {
            // A stream that has ended has nothing to copy: dropping the tap tells the client.
            if let Some(tap) = tap.filter(|_| slot.fd(name).is_some()) {
                slot.source_mut(name).taps_mut().add(tap, &self.poll, TAPS);
            }
        }
    }

    /// Ends a stream, which may still have something to be written. It leaves the epoll set first: a pty's master has a
    /// second descriptor, in the control thread, which would keep it there.
    fn end(&self, serving: &mut Serving, name: StreamName) {
        self.unwatch(&serving.slot, &[name]);
        serving.flow.stills(name);
        serving.slot.end(name);
    }

    fn unwatch(&self, slot: &LogSlot, streams: &[StreamName]) {
        for name in streams {
            self.unwatch_stream(slot, *name);
            slot.source(*name).taps().unwatch(&self.poll);
        }
    }

    fn unwatch_stream(&self, slot: &LogSlot, name: StreamName) {
        if let Some(fd) = slot.fd(name) {
            self.poll.remove(fd);
        }
    }

    fn report_fault(&self, slot: &mut LogSlot) {
        if let Some(errno) = slot.file.take_fault() {
            let key = slot.key;
            if self.report(Report::Fault { key, errno }).is_some() {
                slot.file.keep_fault(errno);
            }
        }
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
