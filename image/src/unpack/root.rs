//! A directory tree that is only reached through its file descriptor.
//!
//! Every look-up below it is one `openat2` with `RESOLVE_IN_ROOT | NO_MAGICLINKS | NO_XDEV`: a
//! symlink made by the archive is followed as a container would follow it, and cannot lead out.
//! There is no fallback for kernels without `openat2` (it came with 5.6).

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::path::EntryPath;

/// A look-up in pieces of at most this many bytes; the kernel takes 4096 with the final NUL.
const LONGEST_LOOKUP: usize = 4000;

/// The root of a tree.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    /// The last parent directory: the entries of an archive come directory by directory.
    last: Option<(EntryPath, Arc<OwnedFd>)>,
}

impl Root {
    /// Opens an existing directory of ours.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        let fd = fs::open(path, directory() | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(Self { fd, last: None })
    }

    /// The tree whose root this is, opened for reading: a directory, or the root of a mount.
    pub fn of(fd: OwnedFd) -> Self {
        Self { fd, last: None }
    }

    /// Opens the directory at `path`, following symlinks inside the tree.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP`, ...
    pub fn directory(&mut self, path: &EntryPath) -> Result<Arc<OwnedFd>, Errno> {
        if let Some((last, fd)) = &self.last
            && last == path
        {
            return Ok(fd.clone());
        }
        let fd = Arc::new(self.look_up(path, directory())?);
        self.last = Some((path.clone(), fd.clone()));
        Ok(fd)
    }

    /// Opens what is at `path` (not following a symlink in the last place).
    ///
    /// # Errors
    /// The kernel's.
    pub fn look_up(&self, path: &EntryPath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let bytes = path.as_bytes();
        if bytes.is_empty() {
            return in_root(self.fd.as_fd(), b".", flags);
        }
        if bytes.len() <= LONGEST_LOOKUP {
            return in_root(self.fd.as_fd(), bytes, flags);
        }
        // Deeper than one look-up reaches: in pieces, and then without any symlink, because a
        // symlink in a later piece would be resolved against the wrong root.
        let mut rest = bytes;
        let mut base: Option<OwnedFd> = None;
        while rest.len() > LONGEST_LOOKUP {
            let cut = rest[..LONGEST_LOOKUP]
                .iter()
                .rposition(|b| *b == b'/')
                .ok_or(Errno::NAMETOOLONG)?;
            let from = base.as_ref().unwrap_or(&self.fd);
            base = Some(beneath(from.as_fd(), &rest[..cut], directory())?);
            rest = &rest[cut + 1..];
        }
        beneath(base.as_ref().unwrap_or(&self.fd).as_fd(), rest, flags)
    }

    /// What is at `path`, not following a symlink in the last place; `None` if nothing.
    ///
    /// # Errors
    /// The kernel's, except for "there is nothing".
    pub fn stat(&mut self, path: &EntryPath) -> Result<Option<Stat>, Errno> {
        let Some((parent, name)) = path.split() else {
            return fs::fstat(&self.fd).map(Some);
        };
        match self.directory(&parent) {
            Ok(parent) => stat_at(parent.as_fd(), name),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Removes what is called `name` in `parent`, a directory with everything below it. Never
    /// follows a symlink and never crosses a mount.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&mut self, parent: BorrowedFd<'_>, name: &OsStr, kind: FileType) -> Result<(), Errno> {
        if kind == FileType::Directory {
            self.last = None;
            return crate::trash::remove_tree(parent, name);
        }
        fs::unlinkat(parent, name, AtFlags::empty())
    }

    /// The file descriptor of the root.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What is called `name` in `parent`; `None` if nothing.
///
/// # Errors
/// The kernel's.
pub fn stat_at(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Stat>, Errno> {
    match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn directory() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

fn in_root(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    // With `..` in a symlink the kernel answers EAGAIN when anything on the machine was renamed
    // meanwhile; it asks to be asked again.
    loop {
        match fs::openat2(
            root,
            OsStr::from_bytes(path),
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        ) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

fn beneath(base: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    fs::openat2(
        base,
        OsStr::from_bytes(path),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}
