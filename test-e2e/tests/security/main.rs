//! What a container must not get: the effects looked at, never the texts. A file for each way in.

mod calls;
mod contradictions;
mod devices;
mod enter;
mod identity;
mod invariant;
mod kernel;
mod mounts;
mod refusals;
mod rootfs;
mod seccomp;
mod sinks;

/// The 14 default capabilities, as the kernel prints a mask.
const DEFAULT_CAPABILITIES: &str = "00000000a80425fb";
