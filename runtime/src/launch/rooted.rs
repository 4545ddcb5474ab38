//! Paths below a container's root, resolved by fd and never by string.
//!
//! The image, and containers that share a volume with this one, may hold symbolic links anywhere and may swap
//! them while we look. So every look-up is `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` and every creation
//! walks component by component on fds; what was opened once is used by fd from then on.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

use super::values::ContainerPath;

/// `openat2` gives EAGAIN when a rename or mount anywhere raced with a `..`; a racer could repeat that for ever.
const ATTEMPTS: u32 = 128;
/// The kernel's own limit (MAXSYMLINKS).
const LINKS_MAX: u32 = 40;

/// The root of a container's file tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Root<'fd>(BorrowedFd<'fd>);

/// What is to be at the end of a path that is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

impl<'fd> Root<'fd> {
    pub(crate) fn new(root: BorrowedFd<'fd>) -> Self {
        Root(root)
    }

    /// Opens what is at `path` as an `O_PATH` fd, following symbolic links within the root.
    pub(crate) fn open(self, path: &ContainerPath) -> Result<OwnedFd> {
        self.open_with(path, OFlags::PATH, ResolveFlags::empty())
    }

    /// As [`Root::open`], but no component may be a symbolic link.
    pub(crate) fn open_plain(self, path: &ContainerPath, flags: OFlags) -> Result<OwnedFd> {
        self.open_with(path, flags, ResolveFlags::NO_SYMLINKS)
    }

    fn open_with(self, path: &ContainerPath, flags: OFlags, more: ResolveFlags) -> Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        let mut result = Err(Errno::AGAIN);
        for _ in 0..ATTEMPTS {
            result = rustix::fs::openat2(
                self.0,
                path.below_root(),
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            );
            if !matches!(result, Err(Errno::AGAIN)) {
                break;
            }
        }
        result
    }

    /// Whether `fd` is the root itself.
    pub(crate) fn is(self, fd: BorrowedFd<'_>) -> Result<bool> {
        let (ours, theirs) = (rustix::fs::fstat(self.0)?, rustix::fs::fstat(fd)?);
        Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
    }

    /// Opens `path`, creating what is missing: directories with mode 0755, an empty file with 0644.
    pub(crate) fn ensure(self, path: &ContainerPath, kind: Kind) -> Result<OwnedFd> {
        let found = match self.open(path) {
            Err(Errno::NOENT) => self.create(path, kind)?,
            other => other?,
        };
        match (kind, file_type(found.as_fd())?) {
            (Kind::Directory, FileType::Directory) => Ok(found),
            (Kind::Directory, _) => Err(Errno::NOTDIR),
            (Kind::File, FileType::Directory) => Err(Errno::ISDIR),
            (Kind::File, _) => Ok(found),
        }
    }

    /// Opens or creates a real directory: neither it nor a parent may be a symbolic link.
    pub(crate) fn ensure_plain_directory(self, path: &ContainerPath) -> Result<OwnedFd> {
        match self.open_plain(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {
                self.create(path, Kind::Directory)?;
                self.open_plain(path, OFlags::PATH | OFlags::DIRECTORY)
            }
            other => other,
        }
    }

    /// Walks to `path` one component at a time. The fds of the parents are kept, so that `..` in a link goes back
    /// to the directory the walk came from and never above the root, wherever a racer has moved it meanwhile.
    fn create(self, path: &ContainerPath, kind: Kind) -> Result<OwnedFd> {
        let mut walked: Vec<OwnedFd> = Vec::new();
        let mut ahead: VecDeque<CString> = split(path.to_bytes())?.collect();
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name.as_bytes() == b".." {
                walked.pop();
                continue;
            }
            let parent = walked.last().map_or(self.0, AsFd::as_fd);
            let wanted = if ahead.is_empty() { kind } else { Kind::Directory };
            let next = open_or_create(parent, &name, wanted)?;
            match file_type(next.as_fd())? {
                FileType::Symlink => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    let target = rustix::fs::readlinkat(&next, c"", Vec::new())?;
                    if target.as_bytes().starts_with(b"/") {
                        walked.clear();
                    }
                    for (index, component) in split(target.as_bytes())?.enumerate() {
                        ahead.insert(index, component);
                    }
                }
                FileType::Directory => walked.push(next),
                _ if ahead.is_empty() => walked.push(next),
                _ => return Err(Errno::NOTDIR),
            }
        }
        match walked.pop() {
            Some(last) => Ok(last),
            None => rustix::io::fcntl_dupfd_cloexec(self.0, 3),
        }
    }
}

/// Opens one component without following it, creating it when it is missing.
fn open_or_create(parent: BorrowedFd<'_>, name: &CString, kind: Kind) -> Result<OwnedFd> {
    let open = || {
        rustix::fs::openat(
            parent,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
    };
    match open() {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let created = match kind {
        Kind::Directory => rustix::fs::mkdirat(parent, name, Mode::from(0o755)),
        Kind::File => rustix::fs::openat(
            parent,
            name,
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from(0o644),
        )
        .map(drop),
    };
    match created {
        // Somebody else was faster: whatever it is, it is judged after it has been opened.
        Ok(()) | Err(Errno::EXIST) => open(),
        Err(errno) => Err(errno),
    }
}

fn split(path: &[u8]) -> Result<impl Iterator<Item = CString>> {
    if path.contains(&0) {
        return Err(Errno::INVAL);
    }
    Ok(path
        .split(|byte| *byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
        .map(|name| CString::new(name).expect("checked for NUL above")))
}

/// The type of the file behind an fd.
pub(crate) fn file_type(fd: BorrowedFd<'_>) -> Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn path(path: &str) -> ContainerPath {
        ContainerPath::parse(path.as_bytes()).unwrap()
    }

    fn open_dir(path: &std::path::Path) -> OwnedFd {
        OwnedFd::from(fs::File::open(path).unwrap())
    }

    #[test]
    fn missing_directories_and_files_are_made_within_the_root() {
        let temp = tempfile::tempdir().unwrap();
        let fd = open_dir(temp.path());
        let root = Root::new(fd.as_fd());
        root.ensure(&path("/a/b/c"), Kind::Directory).unwrap();
        root.ensure(&path("/a/d/file"), Kind::File).unwrap();
        assert!(temp.path().join("a/b/c").is_dir());
        assert_eq!(fs::metadata(temp.path().join("a/d/file")).unwrap().len(), 0);
        assert_eq!(
            root.ensure(&path("/a/d/file/x"), Kind::Directory).unwrap_err(),
            Errno::NOTDIR
        );
        assert_eq!(root.ensure(&path("/a/b"), Kind::File).unwrap_err(), Errno::ISDIR);
    }

    #[test]
    fn links_never_lead_out_of_the_root() {
        let temp = tempfile::tempdir().unwrap();
        let canary = tempfile::tempdir().unwrap();
        let fd = open_dir(temp.path());
        let root = Root::new(fd.as_fd());
        symlink(canary.path(), temp.path().join("absolute")).unwrap();
        symlink("../../../../../../../../tmp", temp.path().join("relative")).unwrap();
        symlink("/proc/self/root", temp.path().join("magic")).unwrap();
        fs::create_dir(temp.path().join("deep")).unwrap();
        symlink("../../../deep/../new", temp.path().join("deep/link")).unwrap();
        for target in ["/absolute/x", "/relative/y/z", "/magic/w", "/deep/link/v"] {
            root.ensure(&path(target), Kind::Directory).unwrap();
        }
        assert_eq!(
            fs::read_dir(canary.path()).unwrap().count(),
            0,
            "the canary is untouched"
        );
        let inside = temp.path().join(canary.path().strip_prefix("/").unwrap());
        assert!(inside.join("x").is_dir());
        assert!(temp.path().join("tmp/y/z").is_dir());
        assert!(temp.path().join("proc/self/root/w").is_dir());
        assert!(temp.path().join("new/v").is_dir());
    }

    #[test]
    fn loops_end() {
        let temp = tempfile::tempdir().unwrap();
        let fd = open_dir(temp.path());
        symlink("loop", temp.path().join("loop")).unwrap();
        symlink("b/x", temp.path().join("a")).unwrap();
        symlink("a/x", temp.path().join("b")).unwrap();
        let root = Root::new(fd.as_fd());
        assert_eq!(
            root.ensure(&path("/loop/x"), Kind::Directory).unwrap_err(),
            Errno::LOOP
        );
        assert_eq!(
            root.create(&path("/a"), Kind::Directory).unwrap_err(),
            Errno::LOOP
        );
    }

    #[test]
    fn a_plain_directory_is_no_link() {
        let temp = tempfile::tempdir().unwrap();
        let fd = open_dir(temp.path());
        let root = Root::new(fd.as_fd());
        fs::create_dir(temp.path().join("elsewhere")).unwrap();
        symlink("elsewhere", temp.path().join("proc")).unwrap();
        assert_eq!(
            root.ensure_plain_directory(&path("/proc")).unwrap_err(),
            Errno::LOOP
        );
        let made = root.ensure_plain_directory(&path("/sys")).unwrap();
        let inode = fs::metadata(temp.path().join("sys")).unwrap().ino();
        assert_eq!(rustix::fs::fstat(&made).unwrap().st_ino, inode);
    }
}
