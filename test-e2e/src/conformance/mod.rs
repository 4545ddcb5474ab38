//! The cases by which the Kubernetes project judges a container runtime, against a `crisp` of their own.
//!
//! ```text
//!  parts.sh ─► busybox, nginx, httpd ─┐ images      ┌─ registry.k8s.io, gcr.io, k8s.gcr.io
//!                                     └──► Registry ◄┘  (mirrors, on the host's loopback)
//!                                             ▲ pulls
//!  cases_test.go ── go test -c ──► cases ───► crisp          all in one Host: its network, its
//!       (sigs.k8s.io/cri-tools, unchanged)     │             mounts, its System V memory
//!                                              ▼
//!                      report.json ──► Tally: passed, failed, left out and why
//! ```
//!
//! # Invariants
//! - The cases are the module's own, pinned in `conformance/go.mod`; nothing of them is changed or copied. What they
//!   expect of the world (image names on public registries, ports 12000 to 12003) is arranged around them.
//! - No image comes from outside: [`images`] makes each, from [`parts`] built out of Debian's sources and packages.
//! - A case is passed, failed, or left out for a reason that [`report`] knows and can check. One that skips itself for
//!   any other reason (because the runtime denies a feature, say) counts as failed.
//! - After the last run the server is closed as every test closes it: with the look for leaks.
//!
//! # Where to read next
//! `src/bin/conformance.rs` (the whole flow), then [`images`].

pub mod cases;
pub mod images;
pub mod parts;
pub mod report;
