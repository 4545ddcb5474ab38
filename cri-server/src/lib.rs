//! `crisp`: a Kubernetes container runtime in one daemon.
//!
//! ```text
//!  kubelet · crictl ──► socket ──► service ──► convert ──► ops ──┬─► registry (pods, containers)
//!                                 one line    wire ⇄      one    ├─► store     (records, SQLite)
//!  crisp status …  ──► admin ───► per call    domain     file    ├─► supervisor (crisp-pod, one per pod)
//!                                                       a verb   ├─► image     (pull, snapshots)
//!                                                                └─► cni       (pod network)
//! ```
//!
//! The daemon's memory is a cache: what was asked for is in the records, what runs is known to the
//! supervisors. It can be killed at any instant and started again; [`recover`] puts the two together.
//!
//! Invariants
//! - Wire types stop at [`convert`]; gRPC codes are chosen in [`status`] alone.
//! - A mutating call runs as a task of its own ([`inflight`]): callers may leave, repeat and join.
//! - An intent is recorded before what it announces is made; an end is recorded before it is told.
//! - No lock is held across an await, but the turn of one container and the making of a [`spare`].
//!
//! It does not create namespaces, read tars or speak netlink: `runtime`, `image` and `cni` do.
//! Read next: [`ops`], then [`recover`].

pub mod app;
pub mod begin;
pub mod cdi;
pub mod cli;
pub mod config;
pub mod confinement;
pub mod container;
pub mod convert;
pub mod error;
pub mod exporter;
pub mod hooks;
pub mod host;
pub mod ids;
pub mod inflight;
pub mod logs;
pub mod metrics;
pub mod ops;
pub mod pod;
pub mod recover;
pub mod registry;
pub mod report;
pub mod rest;
pub mod reunion;
pub mod serve;
pub mod service;
pub mod spare;
pub mod spec;
pub mod stats;
pub mod status;
pub mod store;
pub mod streaming;
pub mod supervisor;
pub mod task;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod time;
pub mod undo;

pub use error::Error;

/// The outcome of an operation.
pub type Result<T> = std::result::Result<T, Error>;
