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

/// Changes the mount that `mount` is a part of; `mount` must be its root.
pub(crate) fn set_attributes(mount: BorrowedFd<'_>, change: AttrChange) -> Result<()> {
    let attr = RawAttr {
        attr_set: change.set.bits().into(),
        attr_clr: change.clear.bits().into(),
        propagation: change.propagation.map_or(0, |flags| flags.bits().into()),
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a static C string, `attr` outlives the call and its true size is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<RawAttr>(),
        )
    })
    .map(drop)
}
