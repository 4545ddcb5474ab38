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
use super::plan::{Attributes, FileSystem, LaunchPlan, MountPlan, MountSource, Propagation};
use super::rooted::{Kind, Root, file_type};
use super::spec::PROC_OVERLAYS;
use super::userns::{self, UserNamespace};
use super::values::ContainerPath;
use super::{Step, cgroup_mounts, devices, rootfs, shared, volume_fill};
use crate::sys::mount::{AttrChange, map_ids, set_attributes};

/// `f_type` of procfs (statfs(2)).
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// What a mount of the plan has been prepared to, in the host's mount namespace.
#[derive(Debug)]
pub(crate) enum Source {
    /// A detached clone of a volume.
    Volume(Volume),
    /// Detached clones of the container's cgroups, in the order of the plan.
    Cgroups(Vec<OwnedFd>),
    /// What an image has, whole.
    Image(OwnedFd),
    /// The `/dev` of a container in a user namespace, which could make no device itself.
    Dev(OwnedFd),
    /// Nothing: the container makes it.
    Fresh,
}

/// A detached clone of a volume.
#[derive(Debug)]
pub(crate) struct Volume {
    tree: OwnedFd,
    kind: Kind,
    /// The directory itself, to be filled with what the image has.
    pub(crate) to_fill: Option<OwnedFd>,
}

/// Makes everything that comes from the host, while the process is there; each path is resolved exactly once.
/// Image volumes that only mount(2) can make are not among it, see [`prepare_images`].
pub(crate) fn prepare(plan: &LaunchPlan, user: Option<UserNamespace<'_>>) -> StepResult<Vec<Source>> {
    let one = |mount: &MountPlan| match &mount.source {
        MountSource::Bind { .. } => prepare_volume(mount, user).map(Source::Volume),
        MountSource::Cgroup { layout } => {
            cgroup_mounts::prepare(layout, mount.attributes).map(Source::Cgroups)
        }
        MountSource::Image { root, .. } => {
            let made = rootfs::prepare(root, plan.root.label.as_deref(), user)?;
            Ok(made.map_or(Source::Fresh, Source::Image))
        }
        MountSource::Fresh {
            kind: FileSystem::Dev,
            options,
        } if plan.user.is_some() => {
            let dev =
                fresh(FileSystem::Dev, options, mount.attributes).step_at(Step::Mount, &mount.target)?;
            devices::populate(dev.as_fd(), &plan.devices, plan.user.as_ref())?;
            Ok(Source::Dev(dev))
        }
        MountSource::Fresh { .. } => Ok(Source::Fresh),
    };
    plan.mounts.iter().map(one).collect()
}

/// Makes the image volumes that are left, through mount(2), for which the process leaves the host's mounts.
pub(crate) fn prepare_images(
    plan: &LaunchPlan,
    sources: &mut [Source],
    user: Option<UserNamespace<'_>>,
) -> StepResult<()> {
    for (mount, source) in plan.mounts.iter().zip(sources) {
        if let (MountSource::Image { root, .. }, Source::Fresh) = (&mount.source, &*source) {
            *source = Source::Image(rootfs::prepare_by_mount(root, plan.root.label.as_deref(), user)?);
        }
    }
    Ok(())
}

fn prepare_volume(mount: &MountPlan, user: Option<UserNamespace<'_>>) -> StepResult<Volume> {
    let MountSource::Bind {
        path,
        recursive,
        propagation,
        recursive_propagation,
        ids,
        filled,
    } = &mount.source
    else {
        return Err(failure(Step::Internal, None, Errno::INVAL));
    };
    if matches!(propagation, Propagation::Shared | Propagation::Slave) {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::open(path.as_c_str(), flags, Mode::empty())
            .and_then(|source| shared::check(source.as_fd(), *propagation))
            .step_at(Step::Propagation, path)?;
    }
    let mut volume = clone_volume(
        path.as_c_str(),
        *recursive,
        mount.attributes,
        (*propagation, *recursive_propagation),
    )
    .step_at(Step::PrepareVolume, path)?;
    if let Some(ids) = ids {
        let own = match user {
            Some(user) if user.ids == ids => map_ids(volume.tree.as_fd(), user.namespace),
            _ => userns::create(ids).and_then(|user| map_ids(volume.tree.as_fd(), user.as_fd())),
        };
        own.step_at(Step::MapIds, path)?;
    }
    if *filled {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path.as_c_str(), flags, Mode::empty());
        volume.to_fill = Some(directory.step_at(Step::FillVolume, &mount.target)?);
    }
    Ok(volume)
}

/// Copies what the image has into the volumes that it declares.
pub(crate) fn fill_volumes(plan: &LaunchPlan, sources: &[Source], root: BorrowedFd<'_>) -> StepResult<()> {
    for (mount, source) in plan.mounts.iter().zip(sources) {
        if let Source::Volume(Volume {
            to_fill: Some(directory),
            ..
        }) = source
        {
            volume_fill::fill(
                Root::new(root),
                &mount.target,
                directory.as_fd(),
                plan.user.as_ref(),
            )
            .step_at(Step::FillVolume, &mount.target)?;
        }
    }
    Ok(())
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
    Ok(Volume {
        tree,
        kind,
        to_fill: None,
    })
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

/// Attaches what an image has at `path`, read-only. A clone of a part can only be made of what is attached: the whole
/// is put over a place of the old root, which is about to go.
pub(crate) fn attach_image(
    root: Root<'_>,
    mount: &MountPlan,
    path: &ContainerPath,
    tree: &OwnedFd,
) -> StepResult<()> {
    let shown = || format!("{} (path {path} of the image)", mount.target);
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    let part = match path.is_root() {
        true => rustix::io::fcntl_dupfd_cloexec(tree, 3),
        false => move_mount(tree, "", CWD, "/dev", flags)
            .and_then(|()| Root::new(tree.as_fd()).open(path))
            .and_then(|part| clone_of(part.as_fd(), false)),
    }
    .step_at(Step::ImageVolume, shown())?;
    let change = AttrChange {
        set: MountAttrFlags::from_bits_retain(mount.attributes.set) | MountAttrFlags::MOUNT_ATTR_RDONLY,
        clear: MountAttrFlags::from_bits_retain(mount.attributes.clear),
        propagation: Some(MountPropagationFlags::PRIVATE),
        recursive: false,
    };
    set_attributes(part.as_fd(), change).step_at(Step::ImageVolume, shown())?;
    let kind = match file_type(part.as_fd()).step_at(Step::ImageVolume, shown())? {
        FileType::Directory => Kind::Directory,
        _ => Kind::File,
    };
    let target = root
        .ensure(&mount.target, kind)
        .step_at(Step::Mount, &mount.target)?;
    refuse_covered(root, mount, target.as_fd())?;
    attach(part.as_fd(), target.as_fd()).step_at(Step::ImageVolume, shown())
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

/// Tries to make a mount read-only with everything below it, as recursive read-only volumes need.
///
/// # Errors
/// The kernel's: before Linux 5.12, or under a filter that forbids mount_setattr(2).
pub fn probe_recursive_read_only() -> std::io::Result<()> {
    let tmpfs = fresh(FileSystem::Tmpfs, &[], Attributes::default())?;
    let change = AttrChange {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY,
        recursive: true,
        ..AttrChange::default()
    };
    Ok(set_attributes(tmpfs.as_fd(), change)?)
}
