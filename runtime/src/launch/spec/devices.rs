//! Device nodes of `/dev`.

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::super::plan::{DeviceKind, DeviceNode};
use super::{PlanError, container_path, invalid};
use crate::launch::values::ContainerPath;

/// The nodes that every container has (OCI runtime spec, "Default Devices"); `ptmx` and `console` are made otherwise.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];
/// What is at these paths is made by the launch itself.
const RESERVED: [&str; 9] = [
    "/dev/ptmx",
    "/dev/console",
    "/dev/pts",
    "/dev/shm",
    "/dev/mqueue",
    "/dev/fd",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/stderr",
];

pub(super) fn convert(devices: &[LinuxDevice]) -> Result<Vec<DeviceNode>, PlanError> {
    let mut nodes: Vec<DeviceNode> = Vec::with_capacity(DEFAULT.len() + devices.len());
    for (path, major, minor) in DEFAULT {
        let path = ContainerPath::parse(path.as_bytes()).expect("a constant path is valid");
        nodes.push(DeviceNode {
            path,
            kind: DeviceKind::Char,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        });
    }
    for (index, device) in devices.iter().enumerate() {
        let node = node(&format!("linux.devices[{index}]"), device)?;
        if RESERVED.iter().any(|path| node.path.is_within(path)) {
            // Privileged pods list every device of the host, these among them.
            continue;
        }
        match nodes.iter_mut().find(|other| other.path == node.path) {
            // `/dev/null` masks paths and stands in for absent stdio: it is what it is.
            Some(default) if node.path.to_bytes() == b"/dev/null" => {
                if (node.kind, node.major, node.minor) != (default.kind, default.major, default.minor) {
                    return Err(invalid(
                        &format!("linux.devices[{index}]"),
                        &node.path,
                        "must be char 1:3",
                    ));
                }
            }
            Some(earlier) => *earlier = node,
            None => nodes.push(node),
        }
    }
    Ok(nodes)
}

fn node(field: &str, device: &LinuxDevice) -> Result<DeviceNode, PlanError> {
    use std::os::unix::ffi::OsStrExt;
    let path_field = format!("{field}.path");
    let path = container_path(&path_field, device.path().as_os_str().as_bytes())?;
    if !path.is_within("/dev") || path.to_bytes() == b"/dev" {
        return Err(invalid(&path_field, &path, "is not below /dev"));
    }
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => return Err(invalid(&format!("{field}.type"), &"a", "is no type of a node")),
    };
    let number = |name: &str, value: i64, max: u32| match u32::try_from(value) {
        Ok(value) if value <= max => Ok(value),
        _ => Err(invalid(&format!("{field}.{name}"), &value, "is no device number")),
    };
    let mode = device.file_mode().unwrap_or(0o666);
    Ok(DeviceNode {
        path,
        kind,
        // The kernel has 12 and 20 bits for them.
        major: number("major", device.major(), 0xfff)?,
        minor: number("minor", device.minor(), 0xf_ffff)?,
        // Some writers put the file type there too.
        mode: mode & 0o777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}
