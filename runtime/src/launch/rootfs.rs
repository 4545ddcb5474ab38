//! The root file system: made detached in stage-1, attached and pivoted to in the container's mount namespace.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    mount, mount_change, move_mount, open_tree, unmount,
};
use rustix::thread::UnshareFlags;

use super::failure::{InStep, StepResult};
use super::plan::{RootPlan, RootSource};
use super::userns::UserNamespace;
use super::values::HostPath;
use super::{Step, layers};
use crate::seccomp::KernelVersion;
use crate::sys::clone::unshare;
use crate::sys::mount::{AttrChange, map_ids, set_attributes};

/// The longest string that fsconfig(2) takes.
const FSCONFIG_VALUE_MAX: usize = 255;
/// The first kernel that takes an overlay's layers one by one. Older ones print an error for each try.
const LAYERS_ONE_BY_ONE: KernelVersion = KernelVersion { major: 6, minor: 7 };
/// What mount(2) takes as options: a page, with its terminating NUL.
const MOUNT_DATA_MAX: usize = 4095;
/// Spelled out, so that no host configuration changes them. A container's upper is never mounted twice, so what
/// `volatile` gives up, surviving a crash of the kernel, is worth nothing.
pub(super) const FIXED_OPTIONS: [(&str, &str); 3] =
    [("index", "off"), ("redirect_dir", "off"), ("metacopy", "off")];

/// Makes a root file system as a detached mount. That of a container is the first that is made for it, and so the first
/// in its mount table. `None` when only [`prepare_by_mount`] can.
pub(crate) fn prepare(
    source: &RootSource,
    label: Option<&str>,
    user: Option<UserNamespace<'_>>,
) -> StepResult<Option<OwnedFd>> {
    match source {
        RootSource::Directory { path } => directory(path, user).map(Some),
        RootSource::Overlay { .. } if user.is_some() => Ok(None),
        RootSource::Overlay { lower, upper, work } => match overlay_by_fsconfig(lower, upper, work, label) {
            Err(Errno::INVAL | Errno::NOSYS) => Ok(None),
            other => other.map(Some).step_at(Step::PrepareRoot, upper),
        },
        RootSource::Layers { lower, upper, work } => {
            layers::prepare(lower, upper, work, label, user).map(Some)
        }
    }
}

/// Makes an overlay as kernels before 6.7 can, and paths longer than fsconfig(2) takes need: through mount(2), which
/// wants a place to mount at. So the process leaves the host's mount namespace, and everything that comes from there
/// must have been cloned before.
///
/// In a user namespace the layers are shown with its ids. An overlay cannot be id-mapped itself, but its layers can
/// (Linux 5.19): their id-mapped clones are put over them, where only this process sees it.
pub(crate) fn prepare_by_mount(
    source: &RootSource,
    label: Option<&str>,
    user: Option<UserNamespace<'_>>,
) -> StepResult<OwnedFd> {
    match source {
        RootSource::Directory { path } => directory(path, user),
        RootSource::Overlay { lower, upper, work } => {
            leave_host().step(Step::PrepareRoot)?;
            if let Some(user) = user {
                map_layers(lower, upper, user)?;
                match overlay_by_fsconfig(lower, upper, work, label) {
                    Err(Errno::INVAL | Errno::NOSYS) => {}
                    other => return other.step_at(Step::PrepareRoot, upper),
                }
            }
            overlay_by_mount(lower, upper, work, label).step_at(Step::PrepareRoot, upper)
        }
        RootSource::Layers { lower, upper, work } => layers::prepare(lower, upper, work, label, user),
    }
}

fn leave_host() -> rustix::io::Result<()> {
    unshare(UnshareFlags::NEWNS)?;
    make_all_private()
}

/// Puts id-mapped clones over the layers. The upper directory cannot be one: overlayfs works in it as the host's root,
/// whom the mapping does not know. So what is written is stored with the host's ids, and its root belongs to them.
fn map_layers(lower: &[HostPath], upper: &HostPath, user: UserNamespace<'_>) -> StepResult<()> {
    for layer in lower {
        let mapped = (|| {
            let tree = open_tree(CWD, layer.as_c_str(), clone_flags())?;
            map_ids(tree.as_fd(), user.namespace)?;
            move_mount(
                &tree,
                "",
                CWD,
                layer.as_c_str(),
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
            )
        })();
        mapped.step_at(Step::MapIds, layer)?;
    }
    give_upper(upper, user)
}

/// Gives the upper directory, which is the root of what is shown, to the ids that the container's owner has here.
pub(super) fn give_upper(upper: &HostPath, user: UserNamespace<'_>) -> StepResult<()> {
    let owned = (|| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(upper.as_c_str(), flags, Mode::empty())?;
        let stored = rustix::fs::fstat(&directory)?;
        let uid = user.ids.host_uid(stored.st_uid).map(Uid::from_raw);
        let gid = user.ids.host_gid(stored.st_gid).map(Gid::from_raw);
        rustix::fs::fchown(&directory, uid, gid)?;
        // A change of owner takes these away.
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(stored.st_mode))
    })();
    owned.step_at(Step::MapIds, upper)
}

fn directory(path: &HostPath, user: Option<UserNamespace<'_>>) -> StepResult<OwnedFd> {
    let tree = open_tree(CWD, path.as_c_str(), clone_flags()).step_at(Step::PrepareRoot, path)?;
    let change = AttrChange {
        set: MountAttrFlags::MOUNT_ATTR_NODEV,
        propagation: Some(MountPropagationFlags::PRIVATE),
        ..AttrChange::default()
    };
    set_attributes(tree.as_fd(), change).step_at(Step::PrepareRoot, path)?;
    if let Some(user) = user {
        map_ids(tree.as_fd(), user.namespace).step_at(Step::MapIds, path)?;
    }
    Ok(tree)
}

fn clone_flags() -> OpenTreeFlags {
    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC
}

fn overlay_by_fsconfig(
    lower: &[HostPath],
    upper: &HostPath,
    work: &HostPath,
    label: Option<&str>,
) -> rustix::io::Result<OwnedFd> {
    if KernelVersion::host() < LAYERS_ONE_BY_ONE {
        return Err(Errno::NOSYS);
    }
    if lower
        .iter()
        .chain([upper, work])
        .any(|path| path.to_bytes().len() > FSCONFIG_VALUE_MAX)
    {
        return Err(Errno::INVAL);
    }
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", "overlay")?;
    for layer in lower {
        fsconfig_set_string(context.as_fd(), "lowerdir+", layer.as_c_str())?;
    }
    fsconfig_set_string(context.as_fd(), "upperdir", upper.as_c_str())?;
    fsconfig_set_string(context.as_fd(), "workdir", work.as_c_str())?;
    for (name, value) in FIXED_OPTIONS {
        fsconfig_set_string(context.as_fd(), name, value)?;
    }
    fsconfig_set_flag(context.as_fd(), "volatile")?;
    // Otherwise each new upper gets an attribute written to it, for users of file handles that there are none of.
    fsconfig_set_string(context.as_fd(), "uuid", "null")?;
    if let Some(label) = label {
        fsconfig_set_string(context.as_fd(), "context", label)?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NODEV,
    )
}

fn overlay_by_mount(
    lower: &[HostPath],
    upper: &HostPath,
    work: &HostPath,
    label: Option<&str>,
) -> rustix::io::Result<OwnedFd> {
    // Names relative to the layers' common directory, so that well over a hundred of them fit into a page.
    let common = common_directory(lower);
    rustix::process::chdir(OsStr::from_bytes(&common))?;
    let mut options = Vec::with_capacity(MOUNT_DATA_MAX);
    for (index, layer) in lower.iter().enumerate() {
        options.extend_from_slice(if index == 0 { b"lowerdir=" } else { b":" });
        options.extend_from_slice(&layer.to_bytes()[common.len()..]);
    }
    for (name, value) in [("upperdir", upper), ("workdir", work)] {
        options.extend_from_slice(format!(",{name}=").as_bytes());
        options.extend_from_slice(value.to_bytes());
    }
    for (name, value) in FIXED_OPTIONS {
        options.extend_from_slice(format!(",{name}={value}").as_bytes());
    }
    options.extend_from_slice(b",volatile");
    if let Some(label) = label {
        // Quoted, as a level may list categories with commas.
        options.extend_from_slice(format!(",context=\"{label}\"").as_bytes());
    }
    if options.len() > MOUNT_DATA_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
    // The upper directory itself serves as the mount point: it exists, and only this namespace sees it covered.
    mount(
        "overlay",
        upper.as_c_str(),
        "overlay",
        MountFlags::NODEV,
        Some(options.as_c_str()),
    )?;
    let root = open_tree(CWD, upper.as_c_str(), clone_flags())?;
    unmount(upper.as_c_str(), UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(root)
}

/// The longest directory, with its trailing slash, that all paths have in common.
fn common_directory(paths: &[HostPath]) -> Vec<u8> {
    let mut common = paths.first().map_or(&b"/"[..], HostPath::to_bytes);
    for path in paths {
        let equal = common
            .iter()
            .zip(path.to_bytes())
            .take_while(|(a, b)| a == b)
            .count();
        common = &common[..equal];
    }
    let end = common
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |slash| slash + 1);
    common[..end].to_vec()
}

/// Cuts the mount namespace off from the host's: nothing mounted from here on propagates either way.
pub(crate) fn make_all_private() -> rustix::io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
}

/// Puts the detached root on top of the current one, or at a place where hooks look for it; there it can be the parent
/// of mounts.
pub(crate) fn attach(root: BorrowedFd<'_>, at: &Path) -> StepResult<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root, "", CWD, at, flags).step(Step::AttachRoot)
}

/// How the container's root becomes the root of its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It takes the place of the old root, which is the host's and goes.
    Pivot,
    /// It lies on the old root, in which there is nothing. Whoever looks for the root of the mount namespace finds what lies
    /// on top, so nothing tells this one from the other but the fifty to a hundred microseconds that the end of a mount
    /// waits for the other processors.
    Cover,
}

/// Makes the attached root the root.
pub(crate) fn enter(root: BorrowedFd<'_>, entry: Entry) -> StepResult<()> {
    match entry {
        Entry::Pivot => pivot(root),
        Entry::Cover => cover(root).step(Step::PivotRoot),
    }
}

fn cover(root: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::chroot(".")
}

/// Makes the attached root the only one: the old root and everything on it is gone from this namespace.
fn pivot(root: BorrowedFd<'_>) -> StepResult<()> {
    rustix::process::fchdir(root).step(Step::PivotRoot)?;
    // With both names ".", the old root ends up stacked on the new one, where "." finds it (pivot_root(2)).
    rustix::process::pivot_root(".", ".").step(Step::PivotRoot)?;
    unmount(".", UnmountFlags::DETACH).step(Step::PivotRoot)?;
    rustix::process::chdir("/").step(Step::PivotRoot)
}

/// Gives the root its last attributes, when nothing has to be created on it any more.
pub(crate) fn finish(root: BorrowedFd<'_>, plan: &RootPlan) -> StepResult<()> {
    let change = AttrChange {
        set: if plan.readonly {
            MountAttrFlags::MOUNT_ATTR_RDONLY
        } else {
            MountAttrFlags::empty()
        },
        propagation: plan.shared.then_some(MountPropagationFlags::SHARED),
        ..AttrChange::default()
    };
    if change.set.is_empty() && change.propagation.is_none() {
        return Ok(());
    }
    set_attributes(root, change).step_at(Step::ReadonlyPath, "/")
}

/// Opens the directory at `path` of the current root for use as a root.
pub(crate) fn open_root() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(paths: &[&str]) -> Vec<HostPath> {
        paths
            .iter()
            .map(|path| HostPath::parse(path.as_bytes()).unwrap())
            .collect()
    }

    #[test]
    fn the_common_directory_ends_at_a_slash() {
        assert_eq!(common_directory(&paths(&["/var/l/aa", "/var/l/ab"])), b"/var/l/");
        assert_eq!(
            common_directory(&paths(&["/var/l/aa", "/var/l/aa/b"])),
            b"/var/l/"
        );
        assert_eq!(common_directory(&paths(&["/a", "/b"])), b"/");
        assert_eq!(common_directory(&paths(&["/var/l/one"])), b"/var/l/");
    }
}
