//! The daemon's use of `cni`.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use cni::{
    AttachRequest, EmbeddedConfig, LinkName, Netns, NetworkConfig, PodId as AttachedPod, Protocol, Settings,
    Subnets,
};

use super::App;
use crate::config::Config;
use crate::ids::PodId;
use crate::pod::{PodNetwork, PodRecord, PortMapping};
use crate::{Error, Result};

/// The name of a pod's link, as everybody expects it.
const LINK: &str = "eth0";
/// Chains of plugins that run at once: each is a handful of processes.
const CHAINS_AT_ONCE: usize = 16;

pub(super) fn network_config(config: &Config) -> Result<NetworkConfig> {
    let network = &config.network;
    let embedded = &network.embedded;
    let subnets = [Some(embedded.subnet.into()), embedded.subnet6.map(Into::into)];
    let subnets: Vec<_> = subnets.into_iter().flatten().collect();
    Ok(NetworkConfig {
        config_directory: network.conf_dir.clone(),
        plugin_directories: network.bin_dirs.clone(),
        data_directory: config.data_dir.join("cni"),
        netns_directory: PathBuf::from("/run/netns"),
        chain_timeout: network.chain_timeout,
        chains_at_once: CHAINS_AT_ONCE,
        embedded: if embedded.enabled {
            Some(EmbeddedConfig {
                name: "crisp".to_owned(),
                bridge: LinkName::parse(&embedded.bridge)?,
                subnets: Subnets::new(&subnets)?,
                mtu: embedded.mtu,
                table: "crisp".to_owned(),
            })
        } else {
            None
        },
    })
}

impl App {
    /// Attaches a pod's network namespace.
    ///
    /// # Errors
    /// [`Error::Network`]; what was made is unmade.
    pub async fn attach(&self, record: &PodRecord, netns: OwnedFd) -> Result<PodNetwork> {
        let config = &record.config;
        let attachment = self
            .network
            .attach(AttachRequest {
                pod_id: AttachedPod::parse(record.id.as_str())?,
                namespace: config.name.namespace.clone(),
                name: config.name.name.clone(),
                uid: config.name.uid.clone(),
                netns: Netns {
                    fd: netns,
                    path: None,
                },
                if_name: LinkName::parse(LINK)?,
                settings: Settings {
                    port_mappings: config.ports.iter().map(port).collect::<Result<_>>()?,
                    cgroup_path: Some(record.cgroup.clone()),
                    ..Settings::default()
                },
            })
            .await?;
        Ok(PodNetwork {
            ips: attachment.ips.iter().map(ipnet::IpNet::addr).collect(),
            result: attachment.result.to_string(),
        })
    }

    /// Detaches a pod; one that is not attached is left as it is.
    ///
    /// # Errors
    /// [`Error::Network`]; the attachment stays recorded for another try.
    pub async fn detach(&self, pod: &PodId) -> Result<()> {
        Ok(self
            .network
            .detach(&AttachedPod::parse(pod.as_str())?, None)
            .await?)
    }
}

fn port(port: &PortMapping) -> Result<cni::PortMapping> {
    Ok(cni::PortMapping {
        host_port: port.host_port,
        container_port: port.container_port,
        protocol: match port.protocol.as_str() {
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => Protocol::Tcp,
        },
        host_ip: match port.host_ip.as_str() {
            "" => None,
            ip => Some(
                ip.parse()
                    .map_err(|_| Error::invalid("config.port_mappings.host_ip", "is not an address"))?,
            ),
        },
    })
}
