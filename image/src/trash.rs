//! Deleting: renamed away at once, removed later by one background thread.
//!
//! Removing 40,000 files takes seconds and slows the creation of files beside it, so nobody
//! waits for it. What is in `trash/` at start is what a former life did not get to.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

/// Deeper directories are first moved up, so that the walk holds few open files.
const DEEPEST_WALK: usize = 64;

/// So long whoever discards something has the disk and the processors to itself: usually it has more to do, for which
/// somebody waits.
const PAUSE: Duration = Duration::from_millis(20);

/// The folder of what is to be deleted, and the thread that does it.
#[derive(Debug)]
pub(crate) struct Trash {
    folder: PathBuf,
    counter: AtomicU64,
    /// Ends a deletion in the middle: the next start goes on with it.
    closing: Arc<AtomicBool>,
    /// `None` once closed.
    bin: Option<mpsc::Sender<Command>>,
    thread: Option<thread::JoinHandle<()>>,
}

enum Command {
    Delete(OsString),
    /// Answered when everything before it is gone.
    Settle(tokio::sync::oneshot::Sender<()>),
}

impl Trash {
    /// Opens the folder and goes on with what is left in it.
    pub(crate) fn open(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let fd = fs::open(
            folder,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let (bin, commands) = mpsc::channel();
        let closing = Arc::new(AtomicBool::new(false));
        let stop = closing.clone();
        let mut newest = 0;
        for left in std::fs::read_dir(folder)? {
            let name = left?.file_name();
            newest = newest.max(name.to_str().and_then(|name| name.parse().ok()).unwrap_or(0));
            let _ = bin.send(Command::Delete(name));
        }
        let thread = thread::Builder::new()
            .name("trash".into())
            .spawn(move || empty(&fd, &commands, &stop))?;
        Ok(Self {
            folder: folder.into(),
            counter: AtomicU64::new(newest + 1),
            closing,
            bin: Some(bin),
            thread: Some(thread),
        })
    }

    /// Takes `path` out of sight and deletes it in the background. Nothing there is fine.
    pub(crate) fn discard(&self, path: &Path) -> std::io::Result<()> {
        let name = OsString::from(self.counter.fetch_add(1, Ordering::Relaxed).to_string());
        match std::fs::rename(path, self.folder.join(&name)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            // Another file system (a tmpfs of uppers): there is no cheaper way than now.
            Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
                return remove_path(path);
            }
            Err(error) => return Err(error),
        }
        if let Some(bin) = &self.bin {
            // A thread that is gone leaves the rest to the next start.
            let _ = bin.send(Command::Delete(name));
        }
        Ok(())
    }

    /// Waits until what was discarded so far is gone.
    pub(crate) async fn settle(&self) {
        let (done, settled) = tokio::sync::oneshot::channel();
        if let Some(bin) = &self.bin
            && bin.send(Command::Settle(done)).is_ok()
        {
            let _ = settled.await;
        }
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        drop(self.bin.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn empty(folder: &OwnedFd, commands: &mpsc::Receiver<Command>, closing: &AtomicBool) {
    while let Some(command) = next(commands) {
        if closing.load(Ordering::Relaxed) {
            return;
        }
        match command {
            Command::Delete(name) => {
                let removed = remove_any(folder.as_fd(), &name, closing);
                if let Err(errno) = removed
                    && errno != Errno::CANCELED
                {
                    tracing::warn!(entry = ?name, %errno, "cannot delete from the trash; the next start tries again");
                }
            }
            Command::Settle(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// The next command; the first after a rest not at once. `None` when there will be no more.
fn next(commands: &mpsc::Receiver<Command>) -> Option<Command> {
    if let Ok(waiting) = commands.try_recv() {
        return Some(waiting);
    }
    let command = commands.recv().ok()?;
    if let Command::Delete(_) = command {
        thread::sleep(PAUSE);
    }
    Some(command)
}

/// Removes a path of ours with everything below it, now.
pub(crate) fn remove_path(path: &Path) -> std::io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let parent = fs::open(
        parent,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    match remove_any(parent.as_fd(), name, &NEVER) {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn remove_any(parent: BorrowedFd<'_>, name: &OsStr, stop: &AtomicBool) -> Result<(), Errno> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => remove_unless(parent, name, stop),
        other => other,
    }
}

/// Removes a directory and everything below it, never following a symlink or crossing a mount.
///
/// # Errors
/// The kernel's; `EXDEV` where something is mounted inside.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    remove_unless(parent, name, &NEVER)
}

/// For removals that nothing interrupts.
static NEVER: AtomicBool = AtomicBool::new(false);

/// Ends with `ECANCELED` when told to stop.
fn remove_unless(parent: BorrowedFd<'_>, name: &OsStr, stop: &AtomicBool) -> Result<(), Errno> {
    let top = open_child(parent, name)?;
    let mut lifted = Vec::new();
    clear(top.as_fd(), top.as_fd(), 0, &mut lifted, stop)?;
    // What was too deep lies now at the top, and may hold more of the kind.
    while let Some(name) = lifted.pop() {
        let child = open_child(top.as_fd(), &name)?;
        clear(child.as_fd(), top.as_fd(), 0, &mut lifted, stop)?;
        fs::unlinkat(&top, &name, AtFlags::REMOVEDIR)?;
    }
    drop(top);
    fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn clear(
    directory: BorrowedFd<'_>,
    top: BorrowedFd<'_>,
    depth: usize,
    lifted: &mut Vec<OsString>,
    stop: &AtomicBool,
) -> Result<(), Errno> {
    if stop.load(Ordering::Relaxed) {
        return Err(Errno::CANCELED);
    }
    let mut subdirectories = Vec::new();
    let mut reading = Dir::read_from(directory)?;
    while let Some(entry) = reading.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let name = OsStr::from_bytes(name);
        if entry.file_type() != FileType::Directory {
            match fs::unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) => continue,
                Err(Errno::ISDIR) => {}
                Err(errno) => return Err(errno),
            }
        }
        subdirectories.push(name.to_owned());
    }
    drop(reading);
    for name in subdirectories {
        if depth >= DEEPEST_WALK {
            lifted.push(lift(directory, &name, top)?);
            continue;
        }
        let child = open_child(directory, &name)?;
        clear(child.as_fd(), top, depth + 1, lifted, stop)?;
        drop(child);
        fs::unlinkat(directory, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Moves a directory to the top under a name that is free there.
fn lift(directory: BorrowedFd<'_>, name: &OsStr, top: BorrowedFd<'_>) -> Result<OsString, Errno> {
    for number in 0u64.. {
        let free = OsString::from(format!(".lifted-{number}"));
        match fs::renameat_with(directory, name, top, &free, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other.map(|()| free),
        }
    }
    Err(Errno::EXIST)
}

fn open_child(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    fs::openat2(parent, name, flags, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn discards_in_the_background_and_goes_on_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (bin, victim) = (folder.path().join("trash"), folder.path().join("victim"));
        std::fs::create_dir_all(bin.join("7/left/over")).unwrap();
        std::fs::create_dir_all(victim.join("a/b")).unwrap();
        let canary = folder.path().join("canary");
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("song"), "sings").unwrap();
        std::os::unix::fs::symlink(&canary, victim.join("a/b/link")).unwrap();
        let trash = Trash::open(&bin).unwrap();
        trash.discard(&victim).unwrap();
        trash.discard(&folder.path().join("never was")).unwrap();
        assert!(!victim.exists());
        trash.settle().await;
        assert_eq!(std::fs::read_dir(&bin).unwrap().count(), 0);
        assert_eq!(std::fs::read_to_string(canary.join("song")).unwrap(), "sings");
    }

    #[test]
    fn removes_trees_deeper_than_any_path() {
        let folder = tempfile::tempdir().unwrap();
        let open = |path: &Path| fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let top = open(folder.path());
        let mut here = open(folder.path());
        for depth in 0..2000 {
            let name = if depth == 0 { "deep" } else { ".lifted-0" };
            fs::mkdirat(&here, name, Mode::from_raw_mode(0o755)).unwrap();
            fs::mkdirat(&here, format!("side{depth}"), Mode::from_raw_mode(0o755)).unwrap();
            here = fs::openat(&here, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        remove_tree(top.as_fd(), OsStr::new("deep")).unwrap();
        assert!(!folder.path().join("deep").exists());
    }
}
