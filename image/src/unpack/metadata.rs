//! Owners, modes, times and extended attributes, set through file descriptors.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::tar::{Entry, Xattr};

/// What is set on a file or directory besides its content and time.
pub(super) struct Attributes<'a> {
    uid: u32,
    gid: u32,
    mode: u32,
    xattrs: &'a [Xattr],
}

impl<'a> Attributes<'a> {
    pub(super) fn of(entry: &'a Entry) -> Self {
        Self {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
            xattrs: &entry.xattrs,
        }
    }

    /// What a directory gets that nobody described.
    pub(super) fn plain_directory() -> Self {
        Self {
            uid: 0,
            gid: 0,
            mode: 0o755,
            xattrs: &[],
        }
    }
}

/// Owner first: changing it clears set-id bits and `security.capability`.
pub(super) fn apply(fd: BorrowedFd<'_>, attributes: &Attributes<'_>) -> Result<(), Errno> {
    fs::fchown(
        fd,
        Some(Uid::from_raw(attributes.uid)),
        Some(Gid::from_raw(attributes.gid)),
    )?;
    fs::fchmod(fd, Mode::from_raw_mode(attributes.mode))?;
    for (name, value) in attributes.xattrs {
        set_xattr(fd, name, value)?;
    }
    Ok(())
}

pub(super) fn set_time(fd: BorrowedFd<'_>, mtime: (i64, u32)) -> Result<(), Errno> {
    fs::futimens(fd, &timestamps(mtime))
}

pub(super) fn apply_to_symlink(parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> Result<(), Errno> {
    let owner = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
    fs::chownat(parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    fs::utimensat(parent, name, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
}

/// A device or pipe just made by us in a private directory: opening it to get a descriptor
/// would wake a driver, so it is named; it is no symlink.
pub(super) fn apply_to_node(parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> Result<(), Errno> {
    apply_to_symlink(parent, name, entry)?;
    fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
    fs::utimensat(parent, name, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
}

fn timestamps((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Whether an image may bring this attribute. `trusted.overlay.*` and `user.overlay.*` steer
/// overlayfs, and labels of a security module are the host's to give.
fn is_kept(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}

/// The attributes that an image may bring, of those it has; the last of a name counts.
pub(super) fn kept(xattrs: &[Xattr]) -> Vec<Xattr> {
    let mut kept: Vec<Xattr> = Vec::new();
    for (name, value) in xattrs.iter().filter(|(name, _)| is_kept(name)) {
        match kept.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => known.clone_from(value),
            None => kept.push((name.clone(), value.clone())),
        }
    }
    kept
}

fn set_xattr(fd: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    if !is_kept(name) {
        return Ok(());
    }
    match fs::fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
        // A file system without user attributes or ACLs (tmpfs of old) still runs containers;
        // a lost file capability would break programs in ways nobody could explain.
        Err(Errno::OPNOTSUPP) if name != b"security.capability" => Ok(()),
        other => other,
    }
}

/// Copies owner, mode and attributes (not times) from one open file or directory to another.
pub(crate) fn copy_metadata(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<Stat, Errno> {
    let stat = fs::fstat(from)?;
    let xattrs = read_xattrs(from)?;
    let mode = stat.st_mode & 0o7777;
    apply(
        to,
        &Attributes {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode,
            xattrs: &xattrs,
        },
    )?;
    Ok(stat)
}

/// The extended attributes that may go from one tree to another: those of overlayfs itself do not.
pub(crate) fn read_xattrs(fd: BorrowedFd<'_>) -> Result<Vec<Xattr>, Errno> {
    let mut names = vec![0u8; 64 << 10];
    let length = match fs::flistxattr(fd, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let mut xattrs = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| is_kept(name)) {
        let mut value = vec![0u8; 64 << 10];
        let size = fs::fgetxattr(fd, OsStr::from_bytes(name), &mut value[..])?;
        value.truncate(size);
        xattrs.push((name.to_vec(), value));
    }
    Ok(xattrs)
}

/// Copies what is called `name` in `from` (anything but a directory) to `to_name` in `to`.
pub(crate) fn copy_node(
    from: BorrowedFd<'_>,
    name: &OsStr,
    stat: &Stat,
    to: BorrowedFd<'_>,
    to_name: &OsStr,
) -> Result<(), Errno> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let source = fs::openat(
                from,
                name,
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let copy = fs::openat(to, to_name, flags, Mode::RUSR | Mode::WUSR)?;
            copy_contents(source.as_fd(), copy.as_fd(), stat.st_size.cast_unsigned())?;
            copy_metadata(source.as_fd(), copy.as_fd())?;
            return fs::futimens(&copy, &times_of(stat));
        }
        FileType::Symlink => {
            let target = fs::readlinkat(from, name, Vec::new())?;
            fs::symlinkat::<&CStr, _, _>(&target, to, to_name)?;
        }
        kind => {
            fs::mknodat(to, to_name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?;
        }
    }
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    fs::chownat(to, to_name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        fs::chmodat(
            to,
            to_name,
            Mode::from_raw_mode(stat.st_mode & 0o7777),
            AtFlags::empty(),
        )?;
    }
    fs::utimensat(to, to_name, &times_of(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// The times of a file, to be set on a copy.
pub(crate) fn times_of(stat: &Stat) -> Timestamps {
    let nanos = |nanos| Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: nanos,
    };
    let time = nanos(stat.st_mtime_nsec.cast_signed());
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Shares the blocks where the file system can, copies inside the kernel otherwise; holes stay
/// holes.
fn copy_contents(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
    if size == 0 || fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    fs::ftruncate(to, size)?;
    let mut position = 0;
    while position < size {
        let start = match fs::seek(from, fs::SeekFrom::Data(position)) {
            Err(Errno::NXIO) => break,
            other => other?,
        };
        let end = fs::seek(from, fs::SeekFrom::Hole(start))?;
        copy_range(from, to, start, end)?;
        position = end;
    }
    Ok(())
}

fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> Result<(), Errno> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let count = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), count) {
            Ok(0) => return Err(Errno::IO),
            Ok(_) => {}
            // Not between these file systems.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => break,
            Err(errno) => return Err(errno),
        }
    }
    let mut buffer = vec![0; 128 << 10];
    while read_at < end {
        let wanted = buffer
            .len()
            .min(usize::try_from(end - read_at).unwrap_or(usize::MAX));
        let count = rustix::io::pread(from, &mut buffer[..wanted], read_at)?;
        if count == 0 {
            return Err(Errno::IO);
        }
        let mut written = 0;
        while written < count {
            written += rustix::io::pwrite(to, &buffer[written..count], read_at + written as u64)?;
        }
        read_at += count as u64;
    }
    Ok(())
}
