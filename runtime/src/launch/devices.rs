//! `/dev`: a tmpfs that is complete before it is attached, so that nothing in the image can get in the way.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, makedev};
use rustix::io::Errno;

use super::Step;
use super::failure::{InStep, StepResult};
use super::plan::{DeviceKind, DeviceNode};
use super::userns::IdMapping;

/// The links that every container has (OCI runtime spec, "Default Devices" and "Dev symbolic links").
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Where other file systems are usually mounted: found more cheaply than made on the way.
const MOUNT_POINTS: [&str; 3] = ["pts", "shm", "mqueue"];

/// Fills the detached tmpfs `dev`. With `ids` all of it belongs to those of a user namespace.
pub(crate) fn populate(dev: BorrowedFd<'_>, nodes: &[DeviceNode], ids: Option<&IdMapping>) -> StepResult<()> {
    for node in nodes {
        create(dev, node, ids).step_at(Step::Device, &node.path)?;
    }
    for name in MOUNT_POINTS {
        rustix::fs::mkdirat(dev, name, Mode::from(0o755))
            .step_at(Step::Device, format_args!("/dev/{name}"))?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, dev, name).step_at(Step::Device, format_args!("/dev/{name}"))?;
    }
    match ids {
        Some(ids) => give(dev, ids).step_at(Step::Device, "/dev"),
        None => Ok(()),
    }
}

/// Gives the directories and links to the root of a user namespace; the nodes have their owners.
fn give(dev: BorrowedFd<'_>, ids: &IdMapping) -> rustix::io::Result<()> {
    let (uid, gid) = ids.root();
    let own = |name: &str| rustix::fs::chownat(dev, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
    MOUNT_POINTS.into_iter().try_for_each(own)?;
    LINKS.into_iter().try_for_each(|(name, _)| own(name))?;
    rustix::fs::chownat(dev, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
}

/// The umask is 0 here, so the mode is what the plan says.
fn create(dev: BorrowedFd<'_>, node: &DeviceNode, ids: Option<&IdMapping>) -> rustix::io::Result<()> {
    let path = node
        .path
        .below_root()
        .strip_prefix("dev")
        .map_err(|_| Errno::INVAL)?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => Some(directories(dev, parent)?),
        _ => None,
    };
    let parent = parent.as_ref().map_or(dev, AsFd::as_fd);
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let (kind, number) = match node.kind {
        DeviceKind::Char => (FileType::CharacterDevice, makedev(node.major, node.minor)),
        DeviceKind::Block => (FileType::BlockDevice, makedev(node.major, node.minor)),
        DeviceKind::Fifo => (FileType::Fifo, 0),
    };
    rustix::fs::mknodat(parent, name, kind, Mode::from(node.mode), number)?;
    if (node.uid, node.gid) != (0, 0) || ids.is_some() {
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        // A node whose owner the namespace does not know belongs to its root, and is used through its mode.
        let (uid, gid) = ids.map_or((uid, gid), |ids| {
            let (root, root_group) = ids.root();
            (
                ids.host_uid(node.uid).map_or(root, Uid::from_raw),
                ids.host_gid(node.gid).map_or(root_group, Gid::from_raw),
            )
        });
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Makes the directories of a node such as `/dev/net/tun`. The tmpfs is ours alone, so there is nothing to race with.
fn directories(dev: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let mut current = rustix::io::fcntl_dupfd_cloexec(dev, 3)?;
    for name in path.as_os_str().as_bytes().split(|byte| *byte == b'/') {
        match rustix::fs::mkdirat(&current, name, Mode::from(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        current = rustix::fs::openat(&current, name, flags, Mode::empty())?;
    }
    Ok(current)
}

/// Whether `fd` is the null device, by its number and not by its name.
pub(crate) fn is_null(fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3))
}
