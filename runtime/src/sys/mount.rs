//! `mount_setattr(2)`, which rustix lacks.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Result;
use rustix::mount::{MountAttrFlags, MountPropagationFlags};

use super::check;

/// The kernel's `struct mount_attr`, version 0 (Linux 5.12).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct RawAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A change of a mount's attributes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttrChange {
    pub(crate) set: MountAttrFlags,
    pub(crate) clear: MountAttrFlags,
    pub(crate) propagation: Option<MountPropagationFlags>,
    /// Also all mounts below it.
    pub(crate) recursive: bool,
}

impl Default for AttrChange {
    fn default() -> Self {
        AttrChange {
            set: MountAttrFlags::empty(),
            clear: MountAttrFlags::empty(),
            propagation: None,
            recursive: false,
        }
    }
}

/// `MOUNT_ATTR_IDMAP`.
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// Shows the files of a detached mount with the ids of a user namespace: what is stored as 0 belongs to its root.
/// Submounts stay as they are. `EINVAL` where the file system cannot be id-mapped.
pub(crate) fn map_ids(mount: BorrowedFd<'_>, user: BorrowedFd<'_>) -> Result<()> {
    let attr = RawAttr {
        attr_set: MOUNT_ATTR_IDMAP,
        userns_fd: u64::try_from(user.as_raw_fd()).map_err(|_| rustix::io::Errno::BADF)?,
        ..RawAttr::default()
    };
    set(mount, &attr, libc::AT_EMPTY_PATH)
}

/// Changes the mount that `mount` is a part of; `mount` must be its root.
pub(crate) fn set_attributes(mount: BorrowedFd<'_>, change: AttrChange) -> Result<()> {
    let attr = RawAttr {
        attr_set: change.set.bits().into(),
        attr_clr: change.clear.bits().into(),
        propagation: change.propagation.map_or(0, |flags| flags.bits().into()),
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    set(mount, &attr, flags)
}

fn set(mount: BorrowedFd<'_>, attr: &RawAttr, flags: libc::c_int) -> Result<()> {
    // SAFETY: the path is a static C string, `attr` outlives the call and its true size is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<RawAttr>(),
        )
    })
    .map(drop)
}
