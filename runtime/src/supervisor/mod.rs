//! The process `crisp-pod`: parent of a pod's containers, keeper of their namespaces, pipes, logs and exit codes.
//!
//! ```text
//!                 ┌────────────────────── control thread ───────────────────────┐
//!  daemon ◄─────► │ connections ─► requests ─► containers, execs (state machines)│
//!  (socket)       │                                │ clone3                      │
//!                 │ launch channels ◄── stage-1 ◄──┘                             │
//!                 │ pidfds          ◄── init, execs ─► exit record ─► Exited     │
//!                 └───────────────┬──────────────────────────────▲───────────────┘
//!                      slots ▼ (pipes, log file)                 │ slots back, faults
//!                 ┌───────────────┴────────── log writers ────────┴───────────────┐
//!                 │ pipes ─► lines ─► CRI log file     a thread per container    │
//!                 └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! - The control thread never waits for anything but its epoll set: it touches no disk (the exit records are on a
//!   tmpfs), and a client that does not read is dropped. Launches are followed as they report.
//! - An exit is reported after its record is written, and the record is written after the last output is.
//! - Children are known by pidfd; nothing is ever sent to a bare pid that could have been used again.
//! - Of its threads, one per running container besides this one, only this one allocates, so that a clone of it may run
//!   ordinary code.
//! - No secret stays here: launch plans are read only by stage-1, after the clone.
//!
//! Harmless to whoever gets at it: it runs from sealed memory, outside the pod's cgroups, not dumpable, every descriptor
//! close-on-exec. Signals from outside are blocked, SIGTERM too: it stays while its containers run, leaves on
//! `Shutdown`, or with its last client while it keeps no pod, and for all else there is SIGKILL. (What a process blocks its children inherit; launch resets it.)
//!
//! Read next: `control.rs`, the loop; `container.rs`, one container's life; `log/`, the writer.

mod attach;
mod brood;
mod child;
mod connection;
mod container;
mod control;
mod exec;
mod launching;
mod log;
mod oom;
mod poll;
mod reach;
mod reexec;
mod requests;
mod start;
mod starting;
mod stdio;
mod table;
mod token;

pub(crate) use start::HOLD;
pub use start::main;

/// A fuzzer's way to the log writer: input that says what a container writes, and how.
///
/// # Panics
/// When that is not what its logs hold.
#[cfg(fuzzing)]
pub fn replay_log(input: &[u8]) {
    log::replay(input);
}
