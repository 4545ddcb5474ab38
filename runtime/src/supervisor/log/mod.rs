//! Container logs: from the pipes of the containers into their CRI log files, in threads of their own.
//!
//! ```text
//!   control thread                              writer threads, one per container that runs
//!   LogPump ── Command::{Open, Reopen, Attach, Finish, Surrender} ──►  epoll: the container's pipes or pty
//!      ▲        (bounded channel + eventfd each)                          │ one read ≤ 64 KiB ──► taps of clients
//!      │                                                                  ▼
//!      └──────── Report::{Finished, Surrendered, Fault} ◄──── Lines: "<stamp> stdout F <line>\n" ──► one write
//! ```
//!
//! Invariants:
//! - A writer never allocates, frees, or takes a lock, so the control thread may clone itself at any instant and
//!   the clone finds the allocator in order. Slots are made by the control thread, lent to a writer through its
//!   channel and come back through another. (`std`'s bounded channel touches its locks only when someone waits in it;
//!   here nobody does: both sides use the `try_` calls and wait on an eventfd.) For the same reason a writer's thread
//!   never ends: it waits for the next container.
//! - Every record in a file is whole: after a write that failed half-way the file is cut back to its last whole record.
//! - Nothing is dropped while the container runs. A file that takes no more, because its disk is full, is tried again;
//!   meanwhile its container's pipes fill and the container waits, as it would on a slow terminal. What has not found
//!   room two seconds after the container's end is counted as lost.
//! - What one container's file does concerns no other container, and not the control thread.
//!
//! # Why a thread per container
//! A write to a frozen or hanging file system sleeps in the kernel, uninterruptibly and without any limit, and no flag
//! makes a buffered append refuse instead on every file system. A single writer would take all logs of the pod along.
//! `io_uring` moves the sleep into a thread of the kernel's, but is switched off on many nodes; a watcher that hands a
//! sleeping writer's other files to a spare one is a thread more as well, and has to share what is single-owner here. A
//! thread that waits costs some 30 KiB, is there once per container that runs at the same time, and makes the
//! sleeping write what it is: that container's own affair. Its slot comes back when it wakes up, however late; until then
//! a re-exec, which would have to wait for it, is refused.
//!
//! Not here: rotation (kubelet renames, the daemon opens the new file), and reading logs.

mod buffers;
mod file;
mod flow;
mod line;
mod pump;
#[cfg(any(test, fuzzing))]
mod replay;
mod slot;
mod stamp;
mod tap;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use file::LogFile;
pub(crate) use pump::LogPump;
#[cfg(fuzzing)]
pub(crate) use replay::replay;
pub(crate) use slot::{LogSlot, Source, StreamName};
pub(crate) use tap::Tap;
pub(crate) use writer::Report;
