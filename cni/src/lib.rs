//! Pod networks: an attachment's life.
//!
//! A pod comes with a network namespace and leaves with an address in it. Which network it gets is decided the
//! moment it is attached: the first valid configuration in `/etc/cni/net.d`, or, when there is none, the embedded
//! bridge network. How it leaves is decided then too: all that a detach needs is in the attachment's record.
//!
//! ```text
//!                       ┌ status()    can pods be attached? to what?         status
//!  daemon ──► Network ──┤ attach()    select ► record ► make ► record        attach
//!                       │ detach()    record ► unmake ► forget               attach
//!                       └ gc(), attachments(), set_pod_cidr(), shutdown()
//!                            │
//!        ┌───────────────────┴────────────────────┐
//!  watch ► load ► chain ► plugin            embedded ► lease, bridge, pod_link, ruleset
//!  directory  list   ADD…   one exec                     │ netlink, no process run
//!        └───────────────────┬────────────────────┘
//!                       cache: a record per attachment
//! ```
//!
//! Invariants
//! - A record is written before anything is made, and removed after everything is unmade: whatever is found on the
//!   host after a kill at any instant can be undone.
//! - One operation per pod at a time; a caller that stops waiting stops nothing.
//! - Nothing here blocks an async thread. A thread that entered a pod's namespace never leaves it and ends with its
//!   work (`netns`); namespaces are entered by descriptor.
//! - A plugin gets no environment of ours, bounded time and bounded room for its answer (`plugin`).
//! - Nothing waits for the kernel to delete a link. An address is leased again only when its link has vanished.
//!
//! It does not make namespaces, does not know what a container or a CRI message is, and keeps no state that is not in
//! its records or on the host.
//!
//! Read on in `network` for the whole, in `attach` for the steps, in `embedded` for what half a millisecond holds.

mod attach;
mod cache;
mod chain;
mod conf;
mod embedded;
mod error;
mod load;
mod names;
mod netns;
mod network;
mod plugin;
mod process;
mod request;
mod result;
mod select;
mod status;
mod watch;

pub use crate::attach::Attachment;
pub use crate::conf::{NetworkList, Plugin, SpecVersion};
pub use crate::embedded::EmbeddedConfig;
pub use crate::embedded::lease::Subnets;
pub use crate::error::Error;
pub use crate::names::{LinkName, PodId};
pub use crate::network::{Network, NetworkConfig, RecordedAttachment};
pub use crate::plugin::Command;
pub use crate::request::{
    AttachRequest, Bandwidth, DnsSettings, IpRange, Netns, PortMapping, Protocol, Settings,
};
pub use crate::result::{Address, Dns, Interface, NetworkResult, Route};
pub use crate::status::{ActiveNetwork, NetworkStatus, Readiness};
