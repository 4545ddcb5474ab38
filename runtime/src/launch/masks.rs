//! Masked and read-only paths.
//!
//! A file is masked by a null device that we made and verified, never by what the container calls `/dev/null`
//! (CVE-2025-31133); a directory by an empty read-only tmpfs. Only a path that does not exist is skipped.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, move_mount};

use super::Step;
use super::devices::is_null;
use super::failure::{InStep, StepResult};
use super::mounts::{attach, clone_of, fresh};
use super::plan::{Attributes, FileSystem};
use super::rooted::{Root, file_type};
use super::stock::Shelf;
use super::values::ContainerPath;
use crate::sys::mount::{AttrChange, set_attributes};

/// What covers masked paths. Each kind is made once and cloned after that; a clone can only be made of a mount
/// that is attached, so the first of each is attached and the fd kept.
struct Covers<'fd, 'shelf> {
    dev: Option<BorrowedFd<'fd>>,
    shelf: Shelf<'shelf>,
    null: Option<OwnedFd>,
    empty: Option<OwnedFd>,
}

/// Hides each of `paths`, before the pivot. `dev` is the container's `/dev` if we made it, and `shelf` what is left of the
/// stock.
pub(crate) fn mask(
    root: Root<'_>,
    paths: &[ContainerPath],
    dev: Option<BorrowedFd<'_>>,
    shelf: Shelf<'_>,
) -> StepResult<()> {
    let mut covers = Covers {
        dev,
        shelf,
        null: None,
        empty: None,
    };
    for path in paths {
        let target = match root.open(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            other => other.step_at(Step::Mask, path)?,
        };
        covers.put_on(target.as_fd()).step_at(Step::Mask, path)?;
    }
    Ok(())
}

impl Covers<'_, '_> {
    fn put_on(&mut self, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let directory = file_type(target)? == FileType::Directory;
        let dev = self.dev;
        let cover = if directory {
            &mut self.empty
        } else {
            &mut self.null
        };
        match cover {
            Some(attached) => attach(clone_of(attached.as_fd(), false)?.as_fd(), target),
            None => {
                let made = if directory {
                    self.shelf.take_cover().map_or_else(empty_directory, Ok)?
                } else {
                    null_device(dev)?
                };
                attach(made.as_fd(), target)?;
                *cover = Some(made);
                Ok(())
            }
        }
    }
}

/// What covers a directory, detached.
pub(crate) fn empty_directory() -> rustix::io::Result<OwnedFd> {
    let options = [
        ("mode".to_owned(), "755".to_owned()),
        ("nr_inodes".to_owned(), "1".to_owned()),
    ];
    let readonly = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fresh(
        FileSystem::Tmpfs,
        &options,
        Attributes {
            set: readonly.bits(),
            ..Attributes::default()
        },
    )
}

/// A mount of nothing but a null device: the one on the `/dev` that we filled ourselves, reached by its fd. A
/// container whose `/dev` is a volume gets one made for the purpose.
fn null_device(dev: Option<BorrowedFd<'_>>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = match dev {
        Some(dev) => rustix::fs::openat(dev, "null", flags, Mode::empty())?,
        None => {
            let options = [("mode".to_owned(), "700".to_owned())];
            let tmpfs = fresh(FileSystem::Tmpfs, &options, Attributes::default())?;
            rustix::fs::mknodat(
                &tmpfs,
                "null",
                FileType::CharacterDevice,
                Mode::from(0o666),
                makedev(1, 3),
            )?;
            // A clone can only be made of what is attached. The old root is still ours to cover, and about to go.
            move_mount(&tmpfs, "", CWD, "/dev", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            rustix::fs::openat(&tmpfs, "null", flags, Mode::empty())?
        }
    };
    if !is_null(node.as_fd())? {
        return Err(Errno::NXIO);
    }
    clone_of(node.as_fd(), false)
}

/// Makes each of `paths`, with everything mounted below it, read-only.
pub(crate) fn make_readonly(root: Root<'_>, paths: &[ContainerPath]) -> StepResult<()> {
    for path in paths {
        let target = match root.open(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            other => other.step_at(Step::ReadonlyPath, path)?,
        };
        cover_readonly(target.as_fd()).step_at(Step::ReadonlyPath, path)?;
    }
    Ok(())
}

fn cover_readonly(target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let tree = clone_of(target, true)?;
    let change = AttrChange {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY,
        recursive: true,
        ..AttrChange::default()
    };
    set_attributes(tree.as_fd(), change)?;
    attach(tree.as_fd(), target)
}
