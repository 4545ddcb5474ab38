//! A running `crisp`, driven over its socket as kubelet and crictl drive it.
//!
//! Nothing in here knows how `crisp` works inside. The client is `k8s-cri`, written by others from
//! the upstream protocol file, so the suite also proves the wire format; images are made on the
//! spot; registries are a real `docker-registry` and a small one of our own that misbehaves on
//! request.
//!
//! ```text
//!  test ── Client (k8s-cri) ──── unix socket ───┐
//!   │                                           ▼
//!   ├─ Server ── spawns ──►  crisp ── crisp-pod ── containers (busybox, probe)
//!   │    │                     │
//!   │    └─ close(): K, then Leaks = nothing     ▼ pulls
//!   └─ Host: a netns + mount ns of its own   Registry / DockerRegistry
//! ```
//!
//! # Invariants
//! - Every server lives in its own [`host::Host`]: a network namespace, a mount namespace, a `/run`,
//!   a cgroup root. Servers run side by side, and the machine's own network is never touched.
//! - Every test ends with [`harness::Server::close`], which removes what the test made as kubelet
//!   would and then demands that nothing is left ([`leaks`]). A test that forgets it fails.
//! - Nothing waits for a fixed time: readiness is an event, everything else is a condition polled
//!   with a bound ([`eventually`]).
//! - No `unsafe`: namespaces are entered by a thread made for it, and children are spawned from it.
//!
//! # What it does not do
//! It does not look inside other crates, and it does not assert on texts of error messages beyond
//! the names of fields and stages that a user must find in them.
//!
//! # Where to read next
//! [`harness`] (a server's life), [`specs`] (pods and containers in a few words), then any file in
//! `tests/`.

pub mod built;
pub mod cable;
pub mod client;
pub mod conformance;
pub mod crictl;
mod daemon;
pub mod disk;
pub mod docker_registry;
pub mod eventually;
pub mod faults;
pub mod go;
pub mod harness;
pub mod host;
pub mod images;
pub mod layers;
pub mod layout;
pub mod leaks;
pub mod logs;
pub mod newer;
pub mod pods;
pub mod process;
pub mod programs;
pub mod registry;
pub mod specs;
pub mod streaming;
