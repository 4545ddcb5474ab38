//! Container logs: from the pipes of the containers into their CRI log files, in a thread of its own.
//!
//! ```text
//!   control thread                                  writer thread
//!   LogPump ── Command::{Open, Reopen, Finish, Suspend} ──►  epoll: every pipe and pty of the pod
//!      ▲        (bounded channel + eventfd)                    │ read ≤ 64 KiB, one pipe after the other
//!      │                                                       ▼
//!      └──────── Report::{Finished, Fault, Suspended} ◄──── Lines: "<stamp> stdout F <line>\n" ──► one write
//! ```
//!
//! Invariants:
//! - The writer never allocates, frees, or takes a lock, so the control thread may clone itself at any instant and
//!   the clone finds the allocator in order. Slots are made by the control thread, lent to the writer through the
//!   channel and come back through it. (`std`'s bounded channel touches its locks only when someone waits in it; here
//!   nobody does: both sides use the `try_` calls and wait on an eventfd.)
//! - Every record in a file is whole: after a write that failed half-way the file is cut back to its last whole record.
//! - A container is never stopped by its log: what cannot be written is counted and dropped.
//!
//! Not here: rotation (kubelet renames, the daemon opens the new file), and reading logs.

mod file;
mod line;
mod pump;
mod slot;
mod stamp;
mod tap;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use file::LogFile;
pub(crate) use pump::LogPump;
pub(crate) use slot::{LogSlot, Source, StreamName};
pub(crate) use tap::tap;
pub(crate) use writer::Report;
