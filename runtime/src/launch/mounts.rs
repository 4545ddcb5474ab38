//! Mounts below the root: sources made detached, targets resolved in-root, joined fd to fd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

use super::failure::{InStep, StepResult, failure};
use super::plan::{Attributes, FileSystem, MountPlan, MountSource, Propagation};
use super::rooted::{Kind, Root, file_type};
use super::spec::PROC_OVERLAYS;
use super::{Step, cgroup_mounts};
use crate::sys::mount::{AttrChange, set_attributes};

/// `f_type` of procfs (statfs(2)).
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// What a mount of the plan has been prepared to, in the host's mount namespace.
#[derive(Debug)]
pub(crate) enum Source {
    /// A detached clone of a volume.
    Volume(Volume),
    /// Detached clones of the container's cgroups, in the order of the plan.
    Cgroups(Vec<OwnedFd>),
    /// Nothing: the container makes it.
    Fresh,
}

/// A detached clone of a volume.
#[derive(Debug)]
pub(crate) struct Volume {
    tree: OwnedFd,
    kind: Kind,
}

/// Clones the sources of all mounts that come from the host; each path is resolved exactly once.
pub(crate) fn prepare(mounts: &[MountPlan]) -> StepResult<Vec<Source>> {
    mounts
        .iter()
        .map(|mount| match &mount.source {
            MountSource::Bind {
                path,
                recursive,
                propagation,
                recursive_propagation,
            } => clone_volume(
                path.as_c_str(),
                *recursive,
                mount.attributes,
                (*propagation, *recursive_propagation),
            )
            .map(Source::Volume)
            .step_at(Step::PrepareVolume, path),
            MountSource::Cgroup { layout } => {
                cgroup_mounts::prepare(layout, mount.attributes).map(Source::Cgroups)
            }
            MountSource::Fresh { .. } => Ok(Source::Fresh),
        })
        .collect()
}

fn clone_volume(
    path: &std::ffi::CStr,
    recursive: bool,
    attributes: Attributes,
    propagation: (Propagation, bool),
) -> rustix::io::Result<Volume> {
    let depth = if recursive {
        OpenTreeFlags::AT_RECURSIVE
    } else {
        OpenTreeFlags::empty()
    };
    let tree = open_tree(
        CWD,
        path,
        depth | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    let kind = if file_type(tree.as_fd())? == FileType::Directory {
        Kind::Directory
    } else {
        Kind::File
    };
    let (propagation, deep) = propagation;
    let deep = deep && recursive;
    let all = AttrChange {
        set: MountAttrFlags::from_bits_retain(attributes.set_recursive),
        clear: MountAttrFlags::from_bits_retain(attributes.clear_recursive),
        propagation: deep.then(|| flags_of(propagation)),
        recursive: true,
    };
    let top = AttrChange {
        set: MountAttrFlags::from_bits_retain(attributes.set),
        clear: MountAttrFlags::from_bits_retain(attributes.clear),
        propagation: (!deep).then(|| flags_of(propagation)),
        recursive: false,
    };
    for change in [all, top] {
        if !(change.set.is_empty() && change.clear.is_empty() && change.propagation.is_none()) {
            set_attributes(tree.as_fd(), change)?;
        }
    }
    Ok(Volume { tree, kind })
}

fn flags_of(propagation: Propagation) -> MountPropagationFlags {
    match propagation {
        Propagation::Private => MountPropagationFlags::PRIVATE,
        Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
        Propagation::Shared => MountPropagationFlags::SHARED,
        Propagation::Unbindable => MountPropagationFlags::UNBINDABLE,
    }
}

/// Attaches a volume at its target, which is created when it is missing.
pub(crate) fn attach_volume(root: Root<'_>, mount: &MountPlan, volume: &Volume) -> StepResult<()> {
    let target = match mount.target.to_bytes() {
        b"/dev" => root.ensure_plain_directory(&mount.target),
        _ => root.ensure(&mount.target, volume.kind),
    }
    .step_at(Step::Mount, &mount.target)?;
    refuse_covered(root, mount, target.as_fd())?;
    attach(volume.tree.as_fd(), target.as_fd()).step_at(Step::Mount, &mount.target)
}

/// A symbolic link of the image may have led the target to the root or into procfs, which the names did not show.
pub(crate) fn refuse_covered(root: Root<'_>, mount: &MountPlan, target: BorrowedFd<'_>) -> StepResult<()> {
    let covers_root = root.is(target).step_at(Step::Mount, &mount.target)?;
    let file_system = rustix::fs::fstatfs(target).step_at(Step::Mount, &mount.target)?;
    let in_proc = file_system.f_type as u64 == PROC_SUPER_MAGIC;
    let known = || {
        PROC_OVERLAYS
            .iter()
            .any(|overlay| overlay.as_bytes() == mount.target.to_bytes())
    };
    if covers_root || (in_proc && !known()) {
        return Err(failure(Step::Mount, Some(mount.target.to_string()), Errno::PERM));
    }
    Ok(())
}

/// Moves a detached mount onto what `target` refers to.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// Attaches a file system of the container's own.
pub(crate) fn attach_fresh(
    root: Root<'_>,
    mount: &MountPlan,
    kind: FileSystem,
    detached: BorrowedFd<'_>,
) -> StepResult<()> {
    let target = match kind {
        // Whatever the image has in place of these, it is no link: what follows trusts their names.
        FileSystem::Proc | FileSystem::Sysfs | FileSystem::Dev => root.ensure_plain_directory(&mount.target),
        _ => root.ensure(&mount.target, Kind::Directory),
    }
    .step_at(Step::Mount, &mount.target)?;
    refuse_covered(root, mount, target.as_fd())?;
    attach(detached, target.as_fd()).step_at(Step::Mount, &mount.target)
}

/// Clones the procfs of another PID namespace from the `/proc` of a process in it, and returns to the mount
/// namespace of the host. So nobody has to enter that PID namespace while still privileged.
pub(crate) fn borrow_procfs(process: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let home = rustix::fs::open("/proc/self/ns/mnt", flags, Mode::empty())?;
    move_into_thread_name_spaces(process, ThreadNameSpaceType::MOUNT)?;
    let procfs = (|| {
        let proc = rustix::fs::open(
            "/proc",
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        if rustix::fs::fstatfs(&proc)?.f_type as u64 != PROC_SUPER_MAGIC {
            return Err(Errno::NXIO);
        }
        clone_of(proc.as_fd(), false)
    })();
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))?;
    procfs
}

/// A detached clone of an attached mount.
pub(crate) fn clone_of(mount: BorrowedFd<'_>, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(mount, "", flags)
}

/// Makes a file system of the container's own, detached.
pub(crate) fn fresh(
    kind: FileSystem,
    options: &[(String, String)],
    attributes: Attributes,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(kind.name(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", kind.name())?;
    for (name, value) in options {
        fsconfig_set_string(context.as_fd(), name.as_str(), value.as_str())?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::from_bits_retain(attributes.set | attributes.set_recursive);
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
