//! The door between the wire and the daemon: requests become values that are correct by construction,
//! and what the daemon knows becomes responses. Nothing behind this door sees a wire type.

pub mod container;
pub mod image;
mod mounts;
pub mod pod;
mod security;
mod signal;
pub mod stats;
mod user;

use std::collections::BTreeMap;

use crate::container::Resources;
use crate::{Error, Result};
use cri_api::v1;

/// Longest name, label, path or other text that a request may carry, in bytes.
const MAX_TEXT: usize = 64 << 10;

pub(crate) fn resources(wire: &v1::LinuxContainerResources) -> Resources {
    Resources {
        cpu_period: wire.cpu_period,
        cpu_quota: wire.cpu_quota,
        cpu_shares: wire.cpu_shares,
        memory_limit: wire.memory_limit_in_bytes,
        oom_score_adj: wire.oom_score_adj,
        cpuset_cpus: wire.cpuset_cpus.clone(),
        cpuset_mems: wire.cpuset_mems.clone(),
        hugepages: wire
            .hugepage_limits
            .iter()
            .map(|h| (h.page_size.clone(), h.limit))
            .collect(),
        unified: wire.unified.clone(),
        memory_swap_limit: wire.memory_swap_limit_in_bytes,
    }
}

pub(crate) fn resources_to_wire(resources: &Resources) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: resources
            .hugepages
            .iter()
            .map(|(page_size, limit)| v1::HugepageLimit {
                page_size: page_size.clone(),
                limit: *limit,
            })
            .collect(),
        unified: resources.unified.clone(),
        memory_swap_limit_in_bytes: resources.memory_swap_limit,
    }
}

/// A text that must be there and of bearable size.
fn required(field: &str, text: &str) -> Result<String> {
    if text.is_empty() {
        return Err(Error::invalid(field, "is missing; set it"));
    }
    bounded(field, text)
}

/// A text of bearable size.
fn bounded(field: &str, text: &str) -> Result<String> {
    if text.len() > MAX_TEXT {
        return Err(Error::invalid(
            field,
            format!("is longer than {MAX_TEXT} bytes; shorten it"),
        ));
    }
    if text.contains('\0') {
        return Err(Error::invalid(field, "contains a NUL byte; remove it"));
    }
    Ok(text.to_owned())
}

fn bounded_map(field: &str, map: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    // Annotations may hold whole documents; the message itself is bounded at 16 MiB.
    match map.keys().any(|key| key.is_empty() || key.len() > MAX_TEXT) {
        true => Err(Error::invalid(field, "has an empty or overlong key")),
        false => Ok(map.clone()),
    }
}

/// A value of an enumeration. One that is not known yet is refused: taken for the default, it would mean something else.
fn known<E: TryFrom<i32>>(field: &str, value: i32) -> Result<E> {
    E::try_from(value).map_err(|_| Error::invalid(field, format!("has the unknown value {value}")))
}

fn id32(field: &str, value: i64) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id < 1 << 31)
        .ok_or_else(|| Error::invalid(field, "is not an id from 0 to 2147483647"))
}

fn namespace_mode(
    field: &str,
    mode: i32,
    target: &str,
    allowed: &[v1::NamespaceMode],
) -> Result<crate::pod::NamespaceMode> {
    use crate::pod::NamespaceMode as Mode;
    let mode = v1::NamespaceMode::try_from(mode)
        .ok()
        .filter(|mode| allowed.contains(mode))
        .ok_or_else(|| Error::invalid(field, "is not a mode that this namespace can have"))?;
    Ok(match mode {
        v1::NamespaceMode::Pod => Mode::Pod,
        v1::NamespaceMode::Container => Mode::Container,
        v1::NamespaceMode::Node => Mode::Node,
        v1::NamespaceMode::Target => Mode::Target(required("namespace_options.target_id", target)?),
    })
}

/// Reads the namespaces of a pod (`of_container` false) or of one of its containers.
fn namespaces(wire: Option<&v1::NamespaceOption>, of_container: bool) -> Result<crate::pod::Namespaces> {
    use v1::NamespaceMode::{Container, Node, Pod, Target};
    let Some(wire) = wire else {
        return Ok(crate::pod::Namespaces::default());
    };
    let pids: &[_] = if of_container {
        &[Pod, Container, Node, Target]
    } else {
        &[Pod, Container, Node]
    };
    let mut namespaces = crate::pod::Namespaces {
        network: namespace_mode("namespace_options.network", wire.network, "", &[Pod, Node])?,
        pid: namespace_mode("namespace_options.pid", wire.pid, &wire.target_id, pids)?,
        ipc: namespace_mode("namespace_options.ipc", wire.ipc, "", &[Pod, Node])?,
        user: None,
    };
    namespaces.user = user::namespace(wire.userns_options.as_ref(), &namespaces)?;
    Ok(namespaces)
}

fn namespaces_to_wire(namespaces: &crate::pod::Namespaces) -> v1::NamespaceOption {
    use crate::pod::NamespaceMode as Mode;
    let mode = |mode: &Mode| match mode {
        Mode::Pod => v1::NamespaceMode::Pod,
        Mode::Container => v1::NamespaceMode::Container,
        Mode::Node => v1::NamespaceMode::Node,
        Mode::Target(_) => v1::NamespaceMode::Target,
    } as i32;
    v1::NamespaceOption {
        network: mode(&namespaces.network),
        pid: mode(&namespaces.pid),
        ipc: mode(&namespaces.ipc),
        target_id: match &namespaces.pid {
            Mode::Target(id) => id.clone(),
            _ => String::new(),
        },
        userns_options: namespaces.user.as_ref().map(user::to_wire),
    }
}
