//! From a device's edits to the OCI specification (CDI specification, "OCI Edits").

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use oci_spec::runtime::{self as oci, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxResources, Spec};

use super::file::{DeviceNode, Edits, Hook, Mount};
use super::name::QualifiedName;
use crate::spec::ContainerSpec;
use crate::{Error, Result};

/// Carries out what a device, or the file that it is in, asks for.
pub(super) fn apply(edits: &Edits, device: &QualifiedName, built: &mut ContainerSpec) -> Result<()> {
    for variable in &edits.env {
        environment(variable, device, built)?;
    }
    for node in &edits.device_nodes {
        device_node(node, device, built)?;
    }
    let mut mounts = built.spec.mounts().clone().unwrap_or_default();
    mounts.extend(edits.mounts.iter().map(mount));
    built.spec.set_mounts(Some(mounts));
    for one in &edits.hooks {
        hook(one, device, &mut built.spec)?;
    }
    groups(&edits.additional_gids, built);
    if edits.intel_rdt.is_some() || !edits.net_devices.is_empty() {
        tracing::warn!(device = %device, "intelRdt and netDevices of CDI devices have no effect here");
    }
    Ok(())
}

/// Parents before what lies below them, as everywhere.
pub(super) fn sort_mounts(spec: &mut Spec) {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.sort_by_key(|mount| mount.destination().components().count());
    spec.set_mounts(Some(mounts));
}

fn refuse(device: &QualifiedName, problem: impl std::fmt::Display) -> Error {
    Error::invalid(
        format!("CDI device {:?}", device.to_string()),
        format!("{problem}; correct its CDI file"),
    )
}

/// A variable replaces one of its name.
fn environment(variable: &str, device: &QualifiedName, built: &mut ContainerSpec) -> Result<()> {
    let name = match variable.split_once('=') {
        Some((name, _)) if !name.is_empty() && !variable.contains('\0') => name,
        _ => return Err(refuse(device, format!("env {variable:?} is not NAME=value"))),
    };
    let is_it = |other: &[u8]| {
        other
            .strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&b'='))
    };
    built.env.retain(|other| !is_it(other));
    built.env.push(variable.as_bytes().to_vec());
    if let Some(process) = built.spec.process_mut() {
        let mut shown = process.env().clone().unwrap_or_default();
        shown.retain(|other| !is_it(other.as_bytes()));
        shown.push(variable.to_owned());
        process.set_env(Some(shown));
    }
    Ok(())
}

fn device_node(node: &DeviceNode, device: &QualifiedName, built: &mut ContainerSpec) -> Result<()> {
    let (typ, major, minor) = numbers(node, device)?;
    // A container of another user than root could not use what root alone may; others say whose it is.
    let user = built
        .spec
        .process()
        .as_ref()
        .map(|process| process.user().clone());
    let own = |explicit: Option<u32>, of_user: Option<u32>| explicit.or(of_user.filter(|id| *id > 0));
    let mut made = LinuxDevice::default();
    made.set_path(node.path.clone())
        .set_typ(typ)
        .set_major(major)
        .set_minor(minor)
        .set_file_mode(node.file_mode)
        .set_uid(own(node.uid, user.as_ref().map(oci::User::uid)))
        .set_gid(own(node.gid, user.as_ref().map(oci::User::gid)));
    let access = node.permissions.clone().unwrap_or_else(|| "rwm".to_owned());
    if access.is_empty() || !access.bytes().all(|letter| b"rwm".contains(&letter)) {
        return Err(refuse(
            device,
            format!("permissions {access:?} may only have r, w and m"),
        ));
    }
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true)
        .set_typ(Some(typ))
        .set_major(Some(major))
        .set_minor(Some(minor))
        .set_access(Some(access));
    let Some(linux) = built.spec.linux_mut() else {
        return Ok(());
    };
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.retain(|other| other.path() != made.path());
    devices.push(made);
    linux.set_devices(Some(devices));
    let mut resources = linux.resources().clone().unwrap_or_else(LinuxResources::default);
    let mut rules = resources.devices().clone().unwrap_or_default();
    if typ != LinuxDeviceType::P {
        rules.push(rule);
    }
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    Ok(())
}

/// Type and numbers as the file gives them, else those of the device on the node.
fn numbers(node: &DeviceNode, device: &QualifiedName) -> Result<(LinuxDeviceType, i64, i64)> {
    let given = match node.kind.as_deref() {
        Some("b") => Some(LinuxDeviceType::B),
        Some("c" | "u") => Some(LinuxDeviceType::C),
        Some("p") => Some(LinuxDeviceType::P),
        None | Some("") => None,
        Some(other) => return Err(refuse(device, format!("{other:?} is no type of a device node"))),
    };
    if let (Some(typ), Some(major), Some(minor)) = (given, node.major, node.minor) {
        return Ok((typ, major, minor));
    }
    if given == Some(LinuxDeviceType::P) {
        return Ok((LinuxDeviceType::P, 0, 0));
    }
    let path: &PathBuf = node.host_path.as_ref().unwrap_or(&node.path);
    let found =
        std::fs::metadata(path).map_err(|error| refuse(device, format!("{}: {error}", path.display())))?;
    let typ = match found.file_type() {
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_block_device() => LinuxDeviceType::B,
        _ => return Err(refuse(device, format!("{} is no device", path.display()))),
    };
    if given.is_some_and(|given| given != typ) {
        return Err(refuse(
            device,
            format!("{} is of another type than it says", path.display()),
        ));
    }
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    Ok((
        typ,
        node.major.unwrap_or(i64::from(major)),
        node.minor.unwrap_or(i64::from(minor)),
    ))
}

fn mount(wanted: &Mount) -> oci::Mount {
    let kind = wanted.kind.clone().unwrap_or_else(|| "bind".to_owned());
    let mut options = wanted.options.clone();
    if kind == "bind" && !options.iter().any(|option| option == "bind" || option == "rbind") {
        options.push("rbind".to_owned());
    }
    let mut made = oci::Mount::default();
    made.set_destination(wanted.container_path.clone())
        .set_typ(Some(kind))
        .set_source(Some(wanted.host_path.clone()))
        .set_options(Some(options));
    made
}

fn hook(wanted: &Hook, device: &QualifiedName, spec: &mut Spec) -> Result<()> {
    if !wanted.path.is_absolute() {
        return Err(refuse(
            device,
            format!("hook {} is no absolute path", wanted.path.display()),
        ));
    }
    let mut made = oci::Hook::default();
    made.set_path(wanted.path.clone())
        .set_args((!wanted.args.is_empty()).then(|| wanted.args.clone()))
        .set_env((!wanted.env.is_empty()).then(|| wanted.env.clone()))
        .set_timeout(wanted.timeout);
    let mut hooks = spec.hooks().clone().unwrap_or_default();
    macro_rules! add {
        ($get:ident, $set:ident) => {{
            let mut list = hooks.$get().clone().unwrap_or_default();
            list.push(made);
            hooks.$set(Some(list));
        }};
    }
    #[allow(deprecated)] // vendors still write it
    match wanted.hook_name.as_str() {
        "prestart" => add!(prestart, set_prestart),
        "createRuntime" => add!(create_runtime, set_create_runtime),
        "createContainer" => add!(create_container, set_create_container),
        "startContainer" => add!(start_container, set_start_container),
        "poststart" => add!(poststart, set_poststart),
        "poststop" => add!(poststop, set_poststop),
        other => return Err(refuse(device, format!("{other:?} is no time for a hook"))),
    }
    spec.set_hooks(Some(hooks));
    Ok(())
}

/// 0 is what a file has that means none.
fn groups(wanted: &[u32], built: &mut ContainerSpec) {
    let new: Vec<u32> = wanted
        .iter()
        .copied()
        .filter(|gid| *gid > 0 && !built.identity.groups.contains(gid))
        .collect();
    if new.is_empty() {
        return;
    }
    built.identity.groups.extend(&new);
    if let Some(process) = built.spec.process_mut() {
        let mut user = process.user().clone();
        let mut all = user.additional_gids().clone().unwrap_or_default();
        all.extend(&new);
        user.set_additional_gids(Some(all));
        process.set_user(user);
    }
}
