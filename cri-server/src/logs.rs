//! Opening a container's log file.

use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{self, AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

use crate::container::{ContainerRecord, FdAhead};
use crate::{Error, Result};

/// Opens (and makes, if need be) the log of a container for appending, mode 0640, off the async threads:
/// its file system may hang.
///
/// The directory of the pod is kubelet's; below it no symbolic link is followed, because the path is a
/// request's and the directory may be within reach of a container.
///
/// # Errors
/// [`Error::Io`] naming the path.
pub async fn open_log(pod_directory: String, log_path: String) -> Result<OwnedFd> {
    let whole = Path::new(&pod_directory).join(&log_path);
    let opened =
        tokio::task::spawn_blocking(move || open_below(Path::new(&pod_directory), Path::new(&log_path)));
    match opened.await {
        Ok(opened) => opened.map_err(|errno| Error::io("open log", whole)(errno.into())),
        Err(_) => Err(Error::Crashed),
    }
}

/// As [`open_log`], for a recorded container.
///
/// # Errors
/// As [`open_log`].
pub async fn open(record: &ContainerRecord) -> Result<OwnedFd> {
    let (directory, below) = place(record);
    open_log(directory, below).await
}

/// Begins to open the log of a recorded container before its start, if it has one. Where that fails, whoever starts it tries
/// again and tells why.
pub fn open_ahead(record: &ContainerRecord) -> Option<FdAhead> {
    if record.log_path.is_empty() {
        return None;
    }
    let (directory, below) = place(record);
    let open = move || open_below(Path::new(&directory), Path::new(&below)).ok();
    Some(FdAhead::begun(tokio::task::spawn_blocking(open)))
}

/// Whether an open log still has a name by which it is found. As far as the kernel knows without asking a server, which might
/// not answer.
pub fn has_name(log: &OwnedFd) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    fs::statx(log, "", flags, StatxFlags::NLINK).is_ok_and(|log| log.stx_nlink > 0)
}

/// The directory of the pod's logs, and the container's below it.
fn place(record: &ContainerRecord) -> (String, String) {
    let below = &record.config.log_path;
    let directory = record.log_path.strip_suffix(below.as_str()).unwrap_or("/");
    (directory.to_owned(), below.clone())
}

fn open_below(directory: &Path, path: &Path) -> rustix::io::Result<OwnedFd> {
    std::fs::create_dir_all(directory).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let root = fs::open(
        directory,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut parent = root;
    let names: Vec<_> = path
        .components()
        .filter(|c| matches!(c, Component::Normal(_)))
        .collect();
    let (file, directories) = names.split_last().ok_or(Errno::INVAL)?;
    for name in directories {
        match mkdirat(&parent, name.as_os_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        parent = openat(&parent, name.as_os_str(), flags, Mode::empty())?;
    }
    openat2(
        &parent,
        file.as_os_str(),
        OFlags::WRONLY
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::CLOEXEC
            | OFlags::NONBLOCK
            | OFlags::NOCTTY,
        Mode::from_raw_mode(0o640),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
    .and_then(regular)
}

/// A FIFO or device in place of the log would let its owner stop the writer.
fn regular(file: OwnedFd) -> rustix::io::Result<OwnedFd> {
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if kind == rustix::fs::FileType::RegularFile {
        Ok(file)
    } else {
        Err(Errno::INVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_log_is_made_below_its_directory_and_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let logs = directory.path().join("pod");
        open_below(&logs, Path::new("c/0.log")).unwrap();
        let mode = std::fs::metadata(logs.join("c/0.log"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o640);
        let open = open_below(&logs, Path::new("c/1.log")).unwrap();
        assert!(has_name(&open));
        std::fs::remove_file(logs.join("c/1.log")).unwrap();
        assert!(!has_name(&open));
        let canary = directory.path().join("canary");
        std::fs::write(&canary, "x").unwrap();
        symlink(&canary, logs.join("link")).unwrap();
        symlink(directory.path(), logs.join("dir")).unwrap();
        assert!(open_below(&logs, Path::new("link")).is_err());
        assert!(open_below(&logs, Path::new("dir/new")).is_err());
        assert!(!directory.path().join("new").exists());
        rustix::fs::mknodat(
            rustix::fs::CWD,
            logs.join("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        assert!(open_below(&logs, Path::new("fifo")).is_err(), "a FIFO is no log");
    }
}
