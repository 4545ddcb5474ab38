//! What the daemon asks for: a pod, its namespace, and the settings that plugins may honour.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::names::{LinkName, PodId, check_argument, refuse};

/// A pod to be attached to the network.
#[derive(Debug)]
pub struct AttachRequest {
    /// The pod's id; a pod has one attachment.
    pub pod_id: PodId,
    /// Kubernetes' namespace of the pod, for `CNI_ARGS`.
    pub namespace: String,
    /// Kubernetes' name of the pod.
    pub name: String,
    /// Kubernetes' uid of the pod.
    pub uid: String,
    /// The pod's network namespace.
    pub netns: Netns,
    /// The link's name in the pod, usually `eth0`.
    pub if_name: LinkName,
    /// Settings for the plugins that declare the capability of that name.
    pub settings: Settings,
}

/// A pod's network namespace.
#[derive(Debug)]
pub struct Netns {
    /// The namespace itself.
    pub fd: OwnedFd,
    /// A path at which it can be opened for as long as the pod lives, if the caller has one. Plugins need a path:
    /// without one, the namespace is pinned below [`NetworkConfig::netns_directory`](crate::NetworkConfig) for
    /// as long as the attachment lasts.
    pub path: Option<PathBuf>,
}

/// Capability arguments (CNI conventions): each reaches the plugins that declare it, as `runtimeConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// Ports of the host that lead into the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// Traffic limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Subnets to choose addresses from, one list per address wanted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<Vec<IpRange>>,
    /// Name servers for the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsSettings>,
    /// Further names of the pod on the network.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The pod's cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<String>,
}

/// A port of the host that leads into the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The host's port, 1 to 65535.
    pub host_port: u16,
    /// The pod's port, 1 to 65535.
    pub container_port: u16,
    /// The transport.
    pub protocol: Protocol,
    /// Only this address of the host; none means all.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol of a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Traffic limits, rates in bits per second and bursts in bits; 0 means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    /// Into the pod.
    pub ingress_rate: u64,
    /// Into the pod.
    pub ingress_burst: u64,
    /// Out of the pod.
    pub egress_rate: u64,
    /// Out of the pod.
    pub egress_burst: u64,
}

/// A subnet to choose an address from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpRange {
    /// The subnet.
    pub subnet: IpNet,
}

/// Name server settings for the plugins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsSettings {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

impl AttachRequest {
    /// Checks all that could be refused before anything is changed.
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_argument("namespace", &self.namespace)?;
        check_argument("name", &self.name)?;
        check_argument("uid", &self.uid)?;
        for mapping in &self.settings.port_mappings {
            if mapping.host_port == 0 || mapping.container_port == 0 {
                let shown = format!("{}:{}", mapping.host_port, mapping.container_port);
                return Err(refuse("port_mappings", &shown, "a port is 1 to 65535"));
            }
        }
        Ok(())
    }
}
