//! An overlay of layers that are mounted in another mount namespace, where each is one mount for all containers.
//!
//! Stage-1 goes there for the time it takes to clone the mounts, and comes back with descriptors. overlayfs takes them
//! as they are, attached nowhere (Linux 6.15): neither the host nor another container ever sees them.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, open_tree,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Step;
use super::failure::{InStep, StepResult};
use super::plan::LayerPlan;
use super::rootfs::{FIXED_OPTIONS, give_upper};
use super::userns::UserNamespace;
use super::values::HostPath;
use crate::sys::mount::map_ids;

/// Makes the overlay as a detached mount, with this SELinux label on all its files.
pub(crate) fn prepare(
    lower: &[LayerPlan],
    upper: &HostPath,
    work: &HostPath,
    label: Option<&str>,
    user: Option<UserNamespace<'_>>,
) -> StepResult<OwnedFd> {
    let mut layers = Vec::with_capacity(lower.len());
    for run in lower.chunk_by(|one, next| namespace(one) == namespace(next)) {
        match namespace(&run[0]) {
            None => {
                for layer in run {
                    layers.push(directory(path(layer)).step_at(Step::PrepareRoot, path(layer))?);
                }
            }
            Some(other) => clone_mounts(other, run, &mut layers).step_at(Step::PrepareRoot, other)?,
        }
    }
    if let Some(user) = user {
        for (layer, made) in lower.iter().zip(&mut layers) {
            map(layer, made, user).step_at(Step::MapIds, path(layer))?;
        }
        give_upper(upper, user)?;
    }
    stack(&layers, upper, work, label).step_at(Step::PrepareRoot, upper)
}

/// As [`prepare`], from mounts that the caller has, top first; for a process that cannot visit another mount namespace,
/// because its threads share a root directory.
pub(crate) fn prepare_from(
    lower: &[LayerPlan],
    mounted: Vec<OwnedFd>,
    upper: &HostPath,
    work: &HostPath,
    label: Option<&str>,
) -> StepResult<OwnedFd> {
    let mut mounted = mounted.into_iter();
    let mut layers = Vec::with_capacity(lower.len());
    for layer in lower {
        let found = match layer {
            LayerPlan::Directory { path } => directory(path),
            LayerPlan::Mounted { .. } => mounted.next().ok_or(Errno::NOENT),
        };
        layers.push(found.step_at(Step::PrepareRoot, path(layer))?);
    }
    stack(&layers, upper, work, label).step_at(Step::PrepareRoot, upper)
}

/// Shows a layer with the ids of a user namespace. A directory becomes a mount for that.
fn map(layer: &LayerPlan, made: &mut OwnedFd, user: UserNamespace<'_>) -> Result<()> {
    if let LayerPlan::Directory { path } = layer {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        *made = open_tree(CWD, path.as_c_str(), flags)?;
    }
    map_ids(made.as_fd(), user.namespace)
}

fn namespace(layer: &LayerPlan) -> Option<&HostPath> {
    match layer {
        LayerPlan::Directory { .. } => None,
        LayerPlan::Mounted { namespace, .. } => Some(namespace),
    }
}

fn path(layer: &LayerPlan) -> &HostPath {
    match layer {
        LayerPlan::Directory { path } | LayerPlan::Mounted { path, .. } => path,
    }
}

/// Visits a mount namespace. A process of one thread, as this one is, may; its root and working directory become those
/// of the namespace, and of its own again on the way back.
fn clone_mounts(namespace: &HostPath, run: &[LayerPlan], layers: &mut Vec<OwnedFd>) -> Result<()> {
    let read_only = OFlags::RDONLY | OFlags::CLOEXEC;
    let home = open("/proc/self/ns/mnt", read_only, Mode::empty())?;
    let other = open(namespace.as_c_str(), read_only, Mode::empty())?;
    move_into_link_name_space(other.as_fd(), Some(LinkNameSpaceType::Mount))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    for layer in run {
        layers.push(open_tree(CWD, path(layer).as_c_str(), flags)?);
    }
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))
}

fn directory(path: &HostPath) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path.as_c_str(), flags, Mode::empty())
}

fn stack(lower: &[OwnedFd], upper: &HostPath, work: &HostPath, label: Option<&str>) -> Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", "overlay")?;
    for layer in lower {
        fsconfig_set_fd(context.as_fd(), "lowerdir+", layer.as_fd())?;
    }
    fsconfig_set_fd(context.as_fd(), "upperdir", directory(upper)?.as_fd())?;
    fsconfig_set_fd(context.as_fd(), "workdir", directory(work)?.as_fd())?;
    for (name, value) in FIXED_OPTIONS {
        fsconfig_set_string(context.as_fd(), name, value)?;
    }
    fsconfig_set_flag(context.as_fd(), "volatile")?;
    // As for layers in directories: no attribute for users of file handles.
    fsconfig_set_string(context.as_fd(), "uuid", "null")?;
    if let Some(label) = label {
        fsconfig_set_string(context.as_fd(), "context", label)?;
    }
    fsconfig_create(context.as_fd())?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    fsmount(context.as_fd(), flags, MountAttrFlags::MOUNT_ATTR_NODEV)
}
