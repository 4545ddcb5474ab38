//! A sandbox as requested. Each type is one field or message of the request, checked.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use runtime::launch::IdMapping;

use crate::container::{Resources, SelinuxOptions};

/// The name under which kubelet knows a sandbox; unique among those that exist.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(map)]
pub struct PodName {
    /// Kubernetes namespace.
    #[n(0)]
    pub namespace: String,
    /// Pod name.
    #[n(1)]
    pub name: String,
    /// Pod UID.
    #[n(2)]
    pub uid: String,
    /// How often kubelet has made a sandbox for this pod before.
    #[n(3)]
    pub attempt: u32,
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Whose namespace a process is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum NamespaceMode {
    /// The pod's, shared by its containers.
    #[default]
    #[n(0)]
    Pod,
    /// One of its own.
    #[n(1)]
    Container,
    /// The node's.
    #[n(2)]
    Node,
    /// That of another container of the pod.
    #[n(3)]
    Target(#[n(0)] String),
}

/// The namespaces that the request chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Namespaces {
    /// Network namespace.
    #[n(0)]
    pub network: NamespaceMode,
    /// PID namespace.
    #[n(1)]
    pub pid: NamespaceMode,
    /// IPC namespace.
    #[n(2)]
    pub ipc: NamespaceMode,
    /// The ids of a user namespace of the pod's own; the node's when unset.
    #[n(50)]
    pub user: Option<IdMapping>,
}

/// Resolver settings; without them the pod gets the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Dns {
    /// `nameserver` lines.
    #[n(0)]
    pub servers: Vec<String>,
    /// The `search` line.
    #[n(1)]
    pub searches: Vec<String>,
    /// The `options` line.
    #[n(2)]
    pub options: Vec<String>,
}

/// A port of the node that leads to the pod.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PortMapping {
    /// `tcp`, `udp` or `sctp`.
    #[n(0)]
    pub protocol: String,
    /// In the pod.
    #[n(1)]
    pub container_port: u16,
    /// On the node.
    #[n(2)]
    pub host_port: u16,
    /// The node's address to listen on; all when empty.
    #[n(3)]
    pub host_ip: String,
}

/// A sandbox as requested: immutable once made.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct PodConfig {
    /// Its name.
    #[n(0)]
    pub name: PodName,
    /// Host name inside the pod; the node's when empty.
    #[n(1)]
    pub hostname: String,
    /// Directory below which containers' `log_path`s lie.
    #[n(2)]
    pub log_directory: String,
    /// Resolver settings.
    #[n(3)]
    pub dns: Option<Dns>,
    /// Host ports.
    #[n(4)]
    pub ports: Vec<PortMapping>,
    /// Echoed unchanged.
    #[n(5)]
    pub labels: BTreeMap<String, String>,
    /// Echoed unchanged.
    #[n(6)]
    pub annotations: BTreeMap<String, String>,
    /// Parent of the pod's cgroups; the daemon's default when empty.
    #[n(7)]
    pub cgroup_parent: String,
    /// Namespaced kernel parameters.
    #[n(8)]
    pub sysctls: BTreeMap<String, String>,
    /// Namespaces.
    #[n(9)]
    pub namespaces: Namespaces,
    /// Whether privileged containers may be made in it.
    #[n(10)]
    pub privileged: bool,
    /// The handler that the pod's RuntimeClass names; empty is the default one.
    #[n(11)]
    pub handler: String,
    /// What the pod costs beyond its containers.
    #[n(12)]
    pub overhead: Option<Resources>,
    /// The sum of its containers' resources.
    #[n(13)]
    pub resources: Option<Resources>,
    /// SELinux label of what its containers share, and of containers that name none.
    #[n(40)]
    pub selinux: Option<SelinuxOptions>,
}
