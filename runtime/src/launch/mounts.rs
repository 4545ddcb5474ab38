//! Mounts below the root: sources made detached, targets resolved in-root, joined fd to fd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

use super::Step;
use super::failure::{InStep, StepResult, failure};
use super::plan::{
    Attributes, CgroupLayout, FileSystem, HierarchyMount, MountPlan, MountSource, Propagation,
};
use super::rooted::{Kind, Root, file_type};
use super::spec::PROC_OVERLAYS;
use crate::sys::mount::{AttrChange, set_attributes};

/// `f_type` of procfs (statfs(2)).
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// A detached clone of a volume.
#[derive(Debug)]
pub(crate) struct Volume {
    tree: OwnedFd,
    kind: Kind,
}

/// Clones the sources of all volumes, in the host's mount namespace; each path is resolved exactly once.
/// The result has an entry for each mount of the plan.
pub(crate) fn prepare_volumes(mounts: &[MountPlan]) -> StepResult<Vec<Option<Volume>>> {
    mounts
        .iter()
        .map(|mount| match &mount.source {
            MountSource::Bind {
                path,
                recursive,
                propagation,
                recursive_propagation,
            } => {
                let volume = clone_volume(
                    path.as_c_str(),
                    *recursive,
                    mount.attributes,
                    (*propagation, *recursive_propagation),
                );
                volume.map(Some).step_at(Step::PrepareVolume, path)
            }
            _ => Ok(None),
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
fn refuse_covered(root: Root<'_>, mount: &MountPlan, target: BorrowedFd<'_>) -> StepResult<()> {
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

/// Mounts the container's cgroups as its cgroup namespace shows them.
pub(crate) fn attach_cgroups(root: Root<'_>, mount: &MountPlan, layout: &CgroupLayout) -> StepResult<()> {
    let attributes = MountAttrFlags::from_bits_retain(mount.attributes.set | mount.attributes.set_recursive);
    let target = root
        .ensure(&mount.target, Kind::Directory)
        .step_at(Step::Mount, &mount.target)?;
    refuse_covered(root, mount, target.as_fd())?;
    match layout {
        CgroupLayout::Unified => cgroup2(attributes).and_then(|tree| attach(tree.as_fd(), target.as_fd())),
        CgroupLayout::PerHierarchy { hierarchies, unified } => {
            per_hierarchy(target.as_fd(), attributes, hierarchies, unified.as_deref())
        }
    }
    .step_at(Step::Mount, &mount.target)
}

fn cgroup2(attributes: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", "cgroup")?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn cgroup1(options: &[String], attributes: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("cgroup", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", "cgroup")?;
    for option in options {
        match option.split_once('=') {
            Some((name, value)) => fsconfig_set_string(context.as_fd(), name, value)?,
            None => fsconfig_set_flag(context.as_fd(), option.as_str())?,
        }
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A tmpfs with a directory per hierarchy, as v1 hosts have it; filled before it becomes read-only.
fn per_hierarchy(
    target: BorrowedFd<'_>,
    attributes: MountAttrFlags,
    hierarchies: &[HierarchyMount],
    unified: Option<&str>,
) -> rustix::io::Result<()> {
    let options = [("mode".to_owned(), "755".to_owned())];
    let writable = Attributes {
        set: attributes.difference(MountAttrFlags::MOUNT_ATTR_RDONLY).bits(),
        ..Attributes::default()
    };
    let tmpfs = fresh(FileSystem::Tmpfs, &options, writable)?;
    attach(tmpfs.as_fd(), target)?;
    let directories = hierarchies
        .iter()
        .map(|hierarchy| hierarchy.directory.as_str())
        .chain(unified);
    for directory in directories {
        rustix::fs::mkdirat(&tmpfs, directory, rustix::fs::Mode::from(0o755))?;
    }
    for hierarchy in hierarchies {
        let tree = cgroup1(&hierarchy.options, attributes)?;
        move_mount(
            tree.as_fd(),
            "",
            tmpfs.as_fd(),
            hierarchy.directory.as_str(),
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )?;
        for alias in hierarchy.aliases() {
            rustix::fs::symlinkat(hierarchy.directory.as_str(), &tmpfs, alias)?;
        }
    }
    if let Some(directory) = unified {
        let tree = cgroup2(attributes)?;
        move_mount(
            tree.as_fd(),
            "",
            tmpfs.as_fd(),
            directory,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )?;
    }
    if attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
        let readonly = AttrChange {
            set: MountAttrFlags::MOUNT_ATTR_RDONLY,
            ..AttrChange::default()
        };
        set_attributes(tmpfs.as_fd(), readonly)?;
    }
    Ok(())
}

impl HierarchyMount {
    /// The names of controllers mounted together, which link to the directory that has them all.
    fn aliases(&self) -> impl Iterator<Item = &str> {
        let together = self.options.len() > 1;
        self.options
            .iter()
            .map(String::as_str)
            .filter(move |option| together && !option.contains('='))
    }
}
