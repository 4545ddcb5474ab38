//! Seccomp: from an OCI profile to a classic BPF program that the kernel runs before every system call.
//!
//! ```text
//!   daemon                                                                  child
//!   localhost::read ──┐ LinuxSeccomp                                  ┌──► Filter::load
//!   runtime_default ──┴──► Cache ──► compile ──► Filter ── plan ──────┘    (last before execve)
//!                                    │
//!                 policy: values checked, first match decides   rules.rs verdict.rs
//!                 per interface: number ─► decision             abi.rs table.rs multiplex.rs
//!                 ranges of equal decisions ─► bisection        tree.rs
//!                 conditions on arguments ─► chains             condition.rs
//!                 written from the end                          bpf.rs
//! ```
//!
//! The program loads the architecture, chooses the search of that interface, bisects ranges of numbers, and either
//! returns or looks at arguments. The default profile, which names some 350 calls, becomes less than 200 instructions, of
//! which a call runs about ten; and none at all where the kernel (5.11 and later) finds out by itself, when the filter is
//! loaded, that a number is always allowed.
//!
//! Invariants:
//! - What a profile says is compiled or refused; a value is never cut or turned into another. Names and machines that
//!   are not known here are ignored, as everywhere, and reported in [`Ignored`].
//! - An empty profile is an error; it never means that there is none.
//! - The child only loads bytes. All that can fail because of a profile fails in the daemon, with the rule's name.
//!
//! Not done here: notifications to an agent (`SCMP_ACT_NOTIFY` is refused by name), and when to load: see
//! [`Filter::load`].
//!
//! Read next: `compile.rs`.

mod abi;
#[rustfmt::skip]
mod allowed;
mod bpf;
mod cache;
mod compile;
mod condition;
mod default;
mod error;
mod filter;
pub mod localhost;
mod multiplex;
mod rules;
mod subject;
mod table;
mod tree;
mod verdict;

pub use abi::{Abi, Machine};
pub use cache::Cache;
pub use compile::{Compiled, Ignored, compile};
pub use default::{SocketCall, runtime_default};
pub use error::{Place, SeccompError};
pub use filter::Filter;
pub use subject::{KernelVersion, Subject};
