//! Pod sandboxes: from a request to a [`PodConfig`], from a [`Pod`] to CRI's views of it.

use std::collections::BTreeMap;

use cri_api::v1;
use runtime::launch::{IpcMode, NetworkMode, PlanError, check_sysctl};

use super::security::{apparmor, seccomp, selinux};
use super::{bounded, bounded_map, known, namespaces, namespaces_to_wire, required, resources};
use crate::pod::{Dns, NamespaceMode, Pod, PodConfig, PodName, PortMapping};
use crate::{Error, Result};

/// Checks the whole request before anything is done.
///
/// # Errors
/// [`Error::Invalid`] naming the first field that is missing or wrong.
pub fn config(wire: &v1::PodSandboxConfig, handler: &str) -> Result<PodConfig> {
    let name = name(wire.metadata.as_ref())?;
    let linux = wire.linux.clone().unwrap_or_default();
    let security = linux.security_context.clone().unwrap_or_default();
    // A sandbox has no program of anybody's: its profiles are checked, and confine nothing.
    #[allow(deprecated)] // clients of an older API still send it
    let old_seccomp = &security.seccomp_profile_path;
    seccomp(security.seccomp.as_ref(), old_seccomp)?;
    apparmor(security.apparmor.as_ref(), "")?;
    let namespaces = namespaces(security.namespace_options.as_ref(), false)?;
    let config = PodConfig {
        hostname: hostname(&wire.hostname)?,
        log_directory: log_directory(&wire.log_directory)?,
        dns: wire.dns_config.as_ref().map(dns).transpose()?,
        ports: wire
            .port_mappings
            .iter()
            .filter(|p| p.host_port != 0)
            .map(port)
            .collect::<Result<_>>()?,
        labels: bounded_map("labels", &wire.labels)?,
        annotations: bounded_map("annotations", &wire.annotations)?,
        cgroup_parent: cgroup_parent(&linux.cgroup_parent)?,
        sysctls: linux.sysctls.clone(),
        privileged: security.privileged,
        handler: bounded("runtime_handler", handler)?,
        overhead: linux.overhead.as_ref().map(resources),
        resources: linux.resources.as_ref().map(resources),
        selinux: selinux(security.selinux_options.as_ref())?,
        namespaces,
        name,
    };
    sysctls(&config)?;
    if config.namespaces.network == NamespaceMode::Node && !config.ports.is_empty() {
        // Its containers listen on the node's ports themselves.
        return Ok(PodConfig {
            ports: Vec::new(),
            ..config
        });
    }
    Ok(config)
}

fn name(metadata: Option<&v1::PodSandboxMetadata>) -> Result<PodName> {
    let metadata = metadata
        .ok_or_else(|| Error::invalid("config.metadata", "is missing; set name, namespace and uid"))?;
    Ok(PodName {
        namespace: required("config.metadata.namespace", &metadata.namespace)?,
        name: required("config.metadata.name", &metadata.name)?,
        uid: required("config.metadata.uid", &metadata.uid)?,
        attempt: metadata.attempt,
    })
}

fn hostname(name: &str) -> Result<String> {
    // HOST_NAME_MAX of uname(2); a newline would forge lines of /etc/hosts.
    if name.len() > 64 || name.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(Error::invalid(
            "config.hostname",
            "must be at most 64 bytes without white space",
        ));
    }
    Ok(name.to_owned())
}

fn log_directory(path: &str) -> Result<String> {
    if !path.is_empty() && (!path.starts_with('/') || path.split('/').any(|c| c == "..")) {
        return Err(Error::invalid(
            "config.log_directory",
            format!("{path:?} is not an absolute path without \"..\""),
        ));
    }
    bounded("config.log_directory", path)
}

fn cgroup_parent(parent: &str) -> Result<String> {
    let refused = parent.split('/').any(|c| c == ".." || c == ".") || parent.contains(['\n', '\0']);
    if refused || parent.len() > 4096 {
        return Err(Error::invalid(
            "config.linux.cgroup_parent",
            format!("{parent:?} is not a plain cgroup path"),
        ));
    }
    Ok(parent.to_owned())
}

fn dns(wire: &v1::DnsConfig) -> Result<Dns> {
    for (field, values) in [
        ("config.dns_config.servers", &wire.servers),
        ("config.dns_config.searches", &wire.searches),
        ("config.dns_config.options", &wire.options),
    ] {
        // Each becomes a word of resolv.conf.
        if values
            .iter()
            .any(|v| v.contains(|c: char| c.is_control() || c.is_whitespace()))
        {
            return Err(Error::invalid(
                field,
                "has a value with white space or control characters",
            ));
        }
    }
    Ok(Dns {
        servers: wire.servers.clone(),
        searches: wire.searches.clone(),
        options: wire.options.clone(),
    })
}

fn port(wire: &v1::PortMapping) -> Result<PortMapping> {
    let number = |field: &str, value: i32| {
        u16::try_from(value)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| {
                Error::invalid(
                    format!("config.port_mappings.{field}"),
                    "is not a port from 1 to 65535",
                )
            })
    };
    if !wire.host_ip.is_empty() && wire.host_ip.parse::<std::net::IpAddr>().is_err() {
        return Err(Error::invalid(
            "config.port_mappings.host_ip",
            format!("{:?} is not an address", wire.host_ip),
        ));
    }
    Ok(PortMapping {
        protocol: known::<v1::Protocol>("config.port_mappings.protocol", wire.protocol)?
            .as_str_name()
            .to_ascii_lowercase(),
        container_port: number("container_port", wire.container_port)?,
        host_port: number("host_port", wire.host_port)?,
        host_ip: wire.host_ip.clone(),
    })
}

/// Only parameters that belong to a namespace of the pod's own may be set.
fn sysctls(config: &PodConfig) -> Result<()> {
    let on_node = |mode: &NamespaceMode| *mode == NamespaceMode::Node;
    let network = match on_node(&config.namespaces.network) {
        true => NetworkMode::Host,
        false => NetworkMode::Pod,
    };
    let ipc = match on_node(&config.namespaces.ipc) {
        true => IpcMode::Host,
        false => IpcMode::Pod,
    };
    for (name, value) in &config.sysctls {
        check_sysctl(name, value, network, ipc).map_err(|error| {
            let field = format!("config.linux.sysctls[{name:?}]");
            match error {
                PlanError::Contradiction { with, .. } => Error::invalid(
                    field,
                    format!("contradicts {with}; leave it out, or set it on the node"),
                ),
                PlanError::Invalid { reason, .. } => Error::invalid(field, reason.to_string()),
                other => Error::invalid(field, other.to_string()),
            }
        })?;
    }
    Ok(())
}

pub(super) fn metadata(name: &PodName) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata {
        name: name.name.clone(),
        uid: name.uid.clone(),
        namespace: name.namespace.clone(),
        attempt: name.attempt,
    }
}

fn state(pod: &Pod) -> v1::PodSandboxState {
    if pod.is_ready() {
        v1::PodSandboxState::SandboxReady
    } else {
        v1::PodSandboxState::SandboxNotready
    }
}

/// The row of a listing.
pub fn listed(pod: &Pod) -> v1::PodSandbox {
    let config = &pod.record.config;
    v1::PodSandbox {
        id: pod.id().to_string(),
        metadata: Some(metadata(&config.name)),
        state: state(pod) as i32,
        created_at: pod.record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: config.handler.clone(),
    }
}

/// The full status.
pub fn status(pod: &Pod) -> v1::PodSandboxStatus {
    let row = listed(pod);
    let network = (!pod.record.host_network()).then(|| {
        let mut ips = pod.network().ips.iter().map(ToString::to_string);
        v1::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
        }
    });
    v1::PodSandboxStatus {
        id: row.id,
        metadata: row.metadata,
        state: row.state,
        created_at: row.created_at,
        network: Some(network.unwrap_or_default()),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace {
                options: Some(namespaces_to_wire(&pod.record.config.namespaces)),
            }),
        }),
        labels: row.labels,
        annotations: row.annotations,
        runtime_handler: row.runtime_handler,
    }
}

/// Whether a pod is in a listing.
pub fn matches(filter: Option<&v1::PodSandboxFilter>, pod: &Pod) -> bool {
    filter.is_none_or(|filter| {
        pod.id().as_str().starts_with(&filter.id)
            && filter
                .state
                .as_ref()
                .is_none_or(|wanted| wanted.state == state(pod) as i32)
            && has_labels(&filter.label_selector, &pod.record.config.labels)
    })
}

/// Whether all wanted labels are there with their values.
pub(super) fn has_labels(wanted: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "pod".into(),
                uid: "uid".into(),
                namespace: "ns".into(),
                attempt: 1,
            }),
            ..v1::PodSandboxConfig::default()
        }
    }

    fn refusal(change: impl FnOnce(&mut v1::PodSandboxConfig)) -> String {
        let mut wire = wire();
        change(&mut wire);
        config(&wire, "").unwrap_err().to_string()
    }

    #[test]
    fn refusals_name_the_field() {
        assert!(config(&wire(), "").is_ok());
        assert!(refusal(|w| w.metadata = None).starts_with("config.metadata:"));
        assert!(refusal(|w| w.metadata.as_mut().unwrap().uid.clear()).starts_with("config.metadata.uid:"));
        assert!(refusal(|w| w.hostname = "a\nb".into()).starts_with("config.hostname:"));
        assert!(refusal(|w| w.log_directory = "/var/../etc".into()).starts_with("config.log_directory:"));
        assert!(
            refusal(|w| {
                w.linux = Some(v1::LinuxPodSandboxConfig {
                    cgroup_parent: "/a/../b".into(),
                    ..Default::default()
                });
            })
            .starts_with("config.linux.cgroup_parent:")
        );
        assert!(
            refusal(|w| {
                w.port_mappings = vec![v1::PortMapping {
                    host_port: 99999,
                    container_port: 1,
                    ..Default::default()
                }];
            })
            .contains("host_port")
        );
    }

    #[test]
    fn sysctls_are_the_pods_own() {
        let with = |name: &str, network: v1::NamespaceMode| {
            let mut wire = wire();
            wire.linux = Some(v1::LinuxPodSandboxConfig {
                sysctls: [(name.to_owned(), "1".to_owned())].into(),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        network: network as i32,
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            });
            config(&wire, "")
        };
        use v1::NamespaceMode::{Node, Pod};
        assert!(with("net.ipv4.ip_forward", Pod).is_ok());
        assert!(with("kernel.shmmax", Pod).is_ok());
        for (bad, network) in [
            ("net.ipv4.ip_forward", Node),
            ("kernel.core_pattern", Pod),
            ("net..x", Pod),
            ("net/../kernel/core_pattern", Pod),
            ("net.x+y", Pod),
            ("", Pod),
        ] {
            assert!(with(bad, network).is_err(), "{bad:?}");
        }
    }
}
