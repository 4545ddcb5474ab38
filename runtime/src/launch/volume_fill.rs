//! Filling a volume that an image declares (`VOLUME`) with what the image has there.
//!
//! Both ends are descriptors: the image's side is resolved within the container's root, the other is a directory that
//! nobody else knows yet (CVE-2022-23648). Owners, modes, times and extended attributes come along.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, StatxFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};

use super::rooted::{Root, file_type};
use super::userns::IdMapping;
use super::values::ContainerPath;

/// The walk holds two descriptors per level.
const DEEPEST: usize = 300;

/// Copies what is at `path` below `root` into the directory `target`. An image that has nothing there leaves it as it
/// is. `ids` is how `root` is mapped: what is stored is what the container sees.
pub(crate) fn fill(
    root: Root<'_>,
    path: &ContainerPath,
    target: BorrowedFd<'_>,
    ids: Option<&IdMapping>,
) -> Result<()> {
    let found = match root.open(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other?,
    };
    if file_type(found.as_fd())? != FileType::Directory {
        return Ok(());
    }
    let mut copy = Copy {
        ids,
        links: HashMap::new(),
        target: reopen(target)?,
    };
    let (from, to) = (reopen(found.as_fd())?, reopen(target)?);
    copy.directory(&from, &to, &mut Vec::new())
}

fn reopen(directory: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, ".", flags, Mode::empty())
}

struct Copy<'a> {
    ids: Option<&'a IdMapping>,
    /// Where the first name of a file with several went.
    links: HashMap<(u64, u64), CString>,
    target: OwnedFd,
}

impl Copy<'_> {
    /// `at` are the names that lead here from the target.
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd, at: &mut Vec<CString>) -> Result<()> {
        if at.len() > DEEPEST {
            return Err(Errno::NAMETOOLONG);
        }
        for entry in Dir::read_from(from)? {
            let name = entry?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                at.push(name);
                self.entry(from, to, at)?;
                at.pop();
            }
        }
        self.attributes(from, to)
    }

    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, at: &mut Vec<CString>) -> Result<()> {
        let name = at.last().cloned().ok_or(Errno::INVAL)?;
        let name = name.as_c_str();
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let path = CString::new(
                at.iter()
                    .map(|name| name.to_bytes())
                    .collect::<Vec<_>>()
                    .join(&b'/'),
            )
            .map_err(|_| Errno::INVAL)?;
            match self.links.get(&(stat.st_dev, stat.st_ino)) {
                Some(first) => {
                    return rustix::fs::linkat(&self.target, first.as_c_str(), to, name, AtFlags::empty());
                }
                None => drop(self.links.insert((stat.st_dev, stat.st_ino), path)),
            }
        }
        match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::RWXU)?;
                let open = |parent: &OwnedFd| open(parent, name, OFlags::RDONLY | OFlags::DIRECTORY);
                self.directory(&open(from)?, &open(to)?, at)
            }
            FileType::RegularFile => {
                let source = open(from, name, OFlags::RDONLY)?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let copy = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
                content(&source, &copy, u64::try_from(stat.st_size).unwrap_or(0))?;
                self.attributes(&source, &copy)
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(&link, to, name)?;
                self.own(to, name, &stat)
            }
            kind => {
                rustix::fs::mknodat(to, name, kind, Mode::empty(), stat.st_rdev)?;
                self.own(to, name, &stat)?;
                let mode = Mode::from_raw_mode(stat.st_mode);
                rustix::fs::chmodat(to, name, mode, AtFlags::empty())
            }
        }
    }

    /// The ids as they are stored: those that the container sees.
    fn owner(&self, stat: &Stat) -> (Option<Uid>, Option<Gid>) {
        let (uid, gid) = match self.ids {
            None => (stat.st_uid, stat.st_gid),
            Some(ids) => (
                ids.container_uid(stat.st_uid).unwrap_or(stat.st_uid),
                ids.container_gid(stat.st_gid).unwrap_or(stat.st_gid),
            ),
        };
        (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
    }

    fn own(&self, to: &OwnedFd, name: &CStr, stat: &Stat) -> Result<()> {
        let (uid, gid) = self.owner(stat);
        rustix::fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Owner first, since it clears set-uid bits and capabilities; times last.
    fn attributes(&self, from: &OwnedFd, to: &OwnedFd) -> Result<()> {
        let stat = rustix::fs::fstat(from)?;
        let (uid, gid) = self.owner(&stat);
        rustix::fs::fchown(to, uid, gid)?;
        extended(from, to)?;
        rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
        let times = rustix::fs::statx(from, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        let time = |seconds, nanoseconds: u32| Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds.into(),
        };
        rustix::fs::futimens(
            to,
            &Timestamps {
                last_access: time(times.stx_atime.tv_sec, times.stx_atime.tv_nsec),
                last_modification: time(times.stx_mtime.tv_sec, times.stx_mtime.tv_nsec),
            },
        )
    }
}

fn open(parent: &OwnedFd, name: &CStr, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::openat(
        parent,
        name,
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// In the kernel where it can; a file that shrinks meanwhile is as long as it then is.
fn content(from: &OwnedFd, to: &OwnedFd, length: u64) -> Result<()> {
    let mut left = length;
    while left > 0 {
        let chunk = usize::try_from(left.min(1 << 30)).unwrap_or(1 << 30);
        match rustix::fs::sendfile(to, from, None, chunk) {
            Ok(0) => break,
            Ok(sent) => left -= sent as u64,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// What belongs to the file and not to the overlay that shows it.
fn extended(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let mut names = vec![0u8; 64 << 10];
    let length = match rustix::fs::flistxattr(from, names.as_mut_slice()) {
        Err(Errno::NOTSUP) => return Ok(()),
        other => other?,
    };
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let wanted = name.starts_with(b"user.") || name == b"security.capability";
        if !wanted || name.starts_with(b"user.overlay.") {
            continue;
        }
        let name = std::ffi::OsStr::from_bytes(name);
        let mut value = vec![0u8; 64 << 10];
        let length = rustix::fs::fgetxattr(from, name, value.as_mut_slice())?;
        match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Err(Errno::NOTSUP) => {}
            other => other?,
        }
    }
    Ok(())
}
