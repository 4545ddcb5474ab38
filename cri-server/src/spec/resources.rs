//! Limits and devices of a specification.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxHugepageLimit, LinuxMemory,
    LinuxResources, Spec,
};

use crate::container::{ContainerConfig, Device, Resources};
use crate::{Error, Result};

/// Below this not even an empty process can be made: the kernel's stacks and page tables do not fit.
const LEAST_MEMORY: i64 = 64 << 10;

/// As many as any kernel is built for.
const MOST_CPUS: u32 = 8192;

/// CRI's resources as OCI's. Zero means "not set" in CRI.
///
/// # Errors
/// [`Error::Invalid`] naming the field that is out of range.
pub fn limits(resources: &Resources) -> Result<LinuxResources> {
    let field = |name: &str, problem: &str| Error::invalid(format!("linux.resources.{name}"), problem);
    let positive = |name: &str, value: i64| match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(field(name, "must not be negative")),
    };
    if resources.cpu_period != 0 && !(1_000..=1_000_000).contains(&resources.cpu_period) {
        return Err(field("cpu_period", "must be from 1000 to 1000000 µs"));
    }
    if resources.cpu_quota > 0 && resources.cpu_quota < 1_000 {
        return Err(field("cpu_quota", "must be at least 1000 µs, or -1 for no limit"));
    }
    for (name, list) in [
        ("cpuset_cpus", &resources.cpuset_cpus),
        ("cpuset_mems", &resources.cpuset_mems),
    ] {
        if !is_set(list) {
            return Err(field(name, "is not a list such as 0-3,8 of numbers below 8192"));
        }
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(positive("cpu_shares", resources.cpu_shares)?)
        .set_period(positive("cpu_period", resources.cpu_period)?)
        .set_quota((resources.cpu_quota != 0).then_some(resources.cpu_quota))
        .set_cpus((!resources.cpuset_cpus.is_empty()).then(|| resources.cpuset_cpus.clone()))
        .set_mems((!resources.cpuset_mems.is_empty()).then(|| resources.cpuset_mems.clone()));
    let limit = |name: &str, value: i64| match value {
        0 => Ok(None),
        -1 => Ok(Some(-1)),
        bytes if bytes >= LEAST_MEMORY => Ok(Some(bytes)),
        bytes if bytes > 0 => Err(field(
            name,
            "is less than any process needs; give at least 65536 bytes",
        )),
        _ => Err(field(name, "must be a number of bytes, or -1 for no limit")),
    };
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(limit("memory_limit_in_bytes", resources.memory_limit)?)
        .set_swap(limit("memory_swap_limit_in_bytes", resources.memory_swap_limit)?);
    let mut all = LinuxResources::default();
    all.set_cpu(Some(cpu)).set_memory(Some(memory));
    if !resources.hugepages.is_empty() {
        let pages = resources.hugepages.iter().map(|(size, bytes)| {
            let mut limit = LinuxHugepageLimit::default();
            limit
                .set_page_size(size.clone())
                .set_limit(i64::try_from(*bytes).unwrap_or(i64::MAX));
            limit
        });
        all.set_hugepage_limits(Some(pages.collect()));
    }
    if !resources.unified.is_empty() {
        let unified = resources.unified.iter().map(|(k, v)| (k.clone(), v.clone()));
        all.set_unified(Some(unified.collect()));
    }
    Ok(all)
}

/// What a specification limits its container to.
pub fn specified(spec: &Spec) -> Option<LinuxResources> {
    spec.linux().as_ref().and_then(|linux| linux.resources().clone())
}

/// A specification's resources with limits that were updated since it was made.
///
/// # Errors
/// As [`limits`].
pub fn updated(mut specified: LinuxResources, resources: &Resources) -> Result<LinuxResources> {
    let new = limits(resources)?;
    specified
        .set_cpu(new.cpu().clone())
        .set_memory(*new.memory())
        .set_hugepage_limits(new.hugepage_limits().clone())
        .set_unified(new.unified().clone());
    Ok(specified)
}

/// Whether a text is a list of numbers and ranges (cpuset(7), "List format"), none of them absurd.
fn is_set(list: &str) -> bool {
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n < MOST_CPUS);
    list.is_empty()
        || list.split(',').all(|part| match part.split_once('-') {
            Some((low, high)) => {
                matches!((number(low), number(high)), (Some(low), Some(high)) if low <= high)
            }
            None => number(part).is_some(),
        })
}

/// The nodes to make and the rules of the device controller: nothing is allowed but what is listed.
pub(super) fn devices(
    config: &ContainerConfig,
    mut resources: LinuxResources,
) -> Result<(Vec<LinuxDevice>, LinuxResources)> {
    let mut nodes = Vec::new();
    let mut rules = vec![rule(
        config.security.privileged,
        LinuxDeviceType::A,
        None,
        None,
        "rwm",
    )];
    if config.security.privileged {
        nodes = host_devices();
    } else {
        // Making a node is harmless: opening it is what counts.
        rules.push(rule(true, LinuxDeviceType::C, None, None, "m"));
        rules.push(rule(true, LinuxDeviceType::B, None, None, "m"));
        // null, zero, full, random, urandom, tty, ptmx, and the pseudo-terminals.
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
            rules.push(rule(true, LinuxDeviceType::C, Some(major), Some(minor), "rwm"));
        }
        rules.push(rule(true, LinuxDeviceType::C, Some(136), None, "rwm"));
    }
    for device in &config.devices {
        let node = node(device)?;
        rules.push(rule(
            true,
            node.typ(),
            Some(node.major()),
            Some(node.minor()),
            &access(device)?,
        ));
        nodes.push(node);
    }
    resources.set_devices(Some(rules));
    Ok((nodes, resources))
}

fn rule(
    allow: bool,
    typ: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(typ))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

fn access(device: &Device) -> Result<String> {
    let access = if device.permissions.is_empty() {
        "rwm"
    } else {
        &device.permissions
    };
    match access.bytes().all(|b| b"rwm".contains(&b)) {
        true => Ok(access.to_owned()),
        false => Err(Error::invalid(
            "devices.permissions",
            format!("{access:?} may only have r, w and m"),
        )),
    }
}

fn node(device: &Device) -> Result<LinuxDevice> {
    let refuse = |problem: String| Error::invalid("devices.host_path", problem);
    let metadata = std::fs::metadata(&device.host_path)
        .map_err(|error| refuse(format!("{:?}: {error}", device.host_path)))?;
    let target = if device.container_path.is_empty() {
        &device.host_path
    } else {
        &device.container_path
    };
    describe(Path::new(target), &metadata)
        .ok_or_else(|| refuse(format!("{:?} is not a device", device.host_path)))
}

fn describe(target: &Path, metadata: &std::fs::Metadata) -> Option<LinuxDevice> {
    let kind = metadata.file_type();
    let typ = match () {
        () if kind.is_char_device() => LinuxDeviceType::C,
        () if kind.is_block_device() => LinuxDeviceType::B,
        () => return None,
    };
    let (major, minor) = (
        rustix::fs::major(metadata.rdev()),
        rustix::fs::minor(metadata.rdev()),
    );
    let mut device = LinuxDevice::default();
    device
        .set_path(target.to_owned())
        .set_typ(typ)
        .set_major(i64::from(major))
        .set_minor(i64::from(minor))
        .set_file_mode(Some(metadata.mode() & 0o7777))
        .set_uid(Some(metadata.uid()))
        .set_gid(Some(metadata.gid()));
    Some(device)
}

/// All device nodes of the host but terminals and what a container gets anyway.
fn host_devices() -> Vec<LinuxDevice> {
    const SKIPPED: [&str; 8] = ["pts", "shm", "fd", "mqueue", "console", ".lxc", "ptmx", "tty"];
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("/dev")];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let top = directory == Path::new("/dev");
            if top && SKIPPED.iter().any(|s| entry.file_name() == *s) {
                continue;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                directories.push(path);
            } else if let Some(device) = describe(&path, &metadata) {
                found.push(device);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_limits_are_refused_by_name() {
        for (resources, name) in [
            (
                Resources {
                    cpu_shares: -1,
                    ..Resources::default()
                },
                "cpu_shares",
            ),
            (
                Resources {
                    memory_limit: -5,
                    ..Resources::default()
                },
                "memory_limit_in_bytes",
            ),
            (
                Resources {
                    memory_limit: 1,
                    ..Resources::default()
                },
                "memory_limit_in_bytes",
            ),
            (
                Resources {
                    cpu_period: i64::MAX,
                    ..Resources::default()
                },
                "cpu_period",
            ),
            (
                Resources {
                    cpu_quota: 10,
                    ..Resources::default()
                },
                "cpu_quota",
            ),
            (
                Resources {
                    cpuset_cpus: "0-2147483647".into(),
                    ..Resources::default()
                },
                "cpuset_cpus",
            ),
            (
                Resources {
                    cpuset_mems: "3-1".into(),
                    ..Resources::default()
                },
                "cpuset_mems",
            ),
        ] {
            assert!(limits(&resources).unwrap_err().to_string().contains(name));
        }
        let none = limits(&Resources::default()).unwrap();
        assert_eq!(none.memory().unwrap().limit(), None);
    }

    #[test]
    fn devices_are_denied_unless_listed() {
        let config = ContainerConfig {
            devices: vec![Device {
                host_path: "/dev/null".into(),
                container_path: "/dev/nothing".into(),
                permissions: "rw".into(),
            }],
            ..ContainerConfig::default()
        };
        let (nodes, resources) = devices(&config, LinuxResources::default()).unwrap();
        assert_eq!((nodes[0].major(), nodes[0].minor()), (1, 3));
        let rules = resources.devices().clone().unwrap();
        assert!(!rules[0].allow() && rules[0].major().is_none());
        assert_eq!(rules.last().unwrap().access().as_deref(), Some("rw"));
        let no_device = Device {
            host_path: "/etc".into(),
            container_path: String::new(),
            permissions: String::new(),
        };
        assert!(node(&no_device).is_err());
    }
}
