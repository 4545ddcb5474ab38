//! The life of a container process: from an OCI spec to `execve`, and on to its exit record.
//!
//! ```text
//!   daemon (crisp)                            supervisor (crisp-pod), one per pod
//!   ┌───────────────────────────┐  socket     ┌──────────────────────────────────────┐
//!   │ Spec ─► launch::LaunchPlan├─ memfds ───►│ supervisor::… ─► launch_container    │
//!   │ cgroup::Cgroup::create    │◄─ events ───┤       │ clone3                       │
//!   │ client                    │             │    stage-1 ─ clone3 ─► init ─► execve│
//!   └───────────────────────────┘             └──────────────────────────────────────┘
//! ```
//!
//! The daemon decides, the supervisor holds, the child sets itself up:
//! - [`launch`] turns an OCI runtime spec into a validated, serialisable plan and carries it out in two
//!   processes: *stage-1*, which still belongs to the host, and *init*, which becomes the container.
//! - [`cgroup`] places containers, limits, kills and removes them, on cgroup v1, hybrid and v2 hosts.
//! - [`supervisor`] is the process `crisp-pod`: parent of a pod's containers, keeper of their stdio and exits.
//! - [`protocol`], [`client`]: how the daemon talks to it. [`exit`]: what is left of a container when it is gone.
//! - `sys` holds the only unsafe code: system calls that no safe wrapper covers.
//!
//! Invariants:
//! - No path below a container's root is ever resolved as a string by a process that still sees the host.
//! - A process that becomes visible in a container's pid namespace holds nothing of the host any more.
//! - A launch plan is decoded only in the child that carries it out; secrets in it never enter the supervisor.
//! - No exec lies between a start request and the container's own `execve`.
//!
//! What this crate does not do: it knows no CRI type, pulls no image, wires no network, and has no async runtime.
//!
//! Read next: [`launch`], then `launch/steps.rs`, which names every step in the order it happens.

pub mod cgroup;
pub mod client;
pub mod exit;
pub mod launch;
pub mod protocol;
pub mod seccomp;
pub mod supervisor;
mod sys;
