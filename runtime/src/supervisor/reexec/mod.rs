//! Going on as a newer binary, without the containers noticing.
//!
//! ```text
//!   Reexec{fd} ─► writers surrender their slots ─► state as CBOR in a memfd ─┐
//!                                                all descriptors ──────────┤ SCM_RIGHTS in a socket pair
//!                                                                          ▼
//!   execve(fd, "--resume"), the pair's other end as descriptor 0 ─► same pid, same children ─► Done
//! ```
//! Descriptors travel inside the socket: each stays close-on-exec all the time, so that an `execve` that fails, or a
//! container launched before, can inherit none. When anything fails before `execve` the old image just goes on.
//!
//! Limit: a binary that starts and then fails cannot be gone back from. It is for the daemon to hand over only a binary that
//! it has started supervisors from.

mod bundle;
mod restore;
mod save;
mod state;

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::container::{Container, Phase};
use super::control::Supervisor;
use super::exec::ExecPhase;
use super::log::LogSlot;
use super::requests::{Answer, Asker};
use crate::protocol::{RefusalCode, Reply};

pub(super) use restore::resume;

/// The argument that tells the new image what it is.
pub(super) const RESUME: &str = "--resume";
const ARGUMENTS: [&CStr; 2] = [c"crisp-pod", c"--resume"];

/// How long the log writers may take to give back what they have. One that sleeps in a write takes longer, and an
/// `execve` would sleep with it.
const PATIENCE: Duration = Duration::from_secs(2);

/// A re-exec that waits for the log writers.
pub(super) struct PendingReexec {
    asker: Asker,
    binary: OwnedFd,
    slots: Vec<LogSlot>,
    deadline: Instant,
}

impl PendingReexec {
    /// When it is given up.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Supervisor {
    /// Begins a re-exec. Not while something is in a state that has no saved form.
    pub(super) fn reexec(&mut self, asker: Asker, binary: OwnedFd) -> Answer {
        if self.reexec.is_some() || self.is_in_transition() {
            return Err(RefusalCode::Busy);
        }
        self.reexec = Some(PendingReexec {
            asker,
            binary,
            slots: Vec::new(),
            deadline: Instant::now() + PATIENCE,
        });
        self.log.surrender();
        if self.log.serving() == 0 {
            self.carry_out_reexec();
        }
        Ok(None)
    }

    fn is_in_transition(&self) -> bool {
        let launching = |exec: &super::exec::Exec| matches!(exec.phase, ExecPhase::Starting { .. });
        let moving = |phase: &Phase| matches!(phase, Phase::Starting(_) | Phase::Draining(_));
        self.containers
            .find(|container| moving(&container.phase))
            .is_some()
            || self.execs.find(launching).is_some()
    }

    /// A slot that a writer gave back because it was asked to; late, if that was given up meanwhile.
    pub(super) fn keep_slot(&mut self, slot: Box<LogSlot>) {
        match &mut self.reexec {
            Some(pending) => pending.slots.push(*slot),
            None => self.take_up_logs(vec![*slot]),
        }
    }

    /// A writer does not give back what it has: its file's system does not answer.
    pub(super) fn give_up_reexec(&mut self) {
        if let Some(pending) = self.reexec.take() {
            self.take_up_logs(pending.slots);
            self.reply(pending.asker, Reply::refused(RefusalCode::Busy));
        }
    }

    /// All slots are here. Returns only when the old image goes on.
    pub(super) fn carry_out_reexec(&mut self) {
        let Some(pending) = self.reexec.take() else { return };
        // A container may have ended while the writer finished: its last output comes first.
        let reply = if self.is_in_transition() {
            Reply::refused(RefusalCode::Busy)
        } else {
            Reply::system(&self.become_newer(&pending))
        };
        self.take_up_logs(pending.slots);
        self.reply(pending.asker, reply);
    }

    fn become_newer(&self, pending: &PendingReexec) -> io::Error {
        let handed_over = self.save(pending.asker, &pending.slots).and_then(|socket| {
            rustix::stdio::dup2_stdin(&socket)?;
            Ok(())
        });
        if let Err(error) = handed_over {
            return error;
        }
        let no_environment: [&CStr; 0] = [];
        let Err(error) = nix::unistd::fexecve(&pending.binary, &ARGUMENTS, &no_environment);
        // Drops the socket, and with it every copy of a descriptor in it.
        if let Ok(null) = std::fs::File::open("/dev/null") {
            let _ = rustix::stdio::dup2_stdin(&null);
        }
        error.into()
    }

    /// Gives slots to writers again, where they were.
    fn take_up_logs(&mut self, slots: Vec<LogSlot>) {
        for slot in slots {
            let key = slot.key;
            if self.log.open(Box::new(slot)).is_err() {
                // Without a thread there is no log: the pipes close, and the container goes on as with a broken pipe.
                continue;
            }
            // What was said to the writer after it gave the slot back was not heard.
            let runs = |container: &Container| matches!(container.phase, Phase::Running(_));
            if !self.containers.get(key).is_some_and(runs) {
                self.log.finish(key);
            }
        }
    }
}
