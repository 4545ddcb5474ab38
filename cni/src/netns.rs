//! Network namespaces: entering one, telling one from another, pinning one to a path.
//!
//! A thread that entered a pod's namespace never comes back: a failed return would leave a thread of the pool
//! in a pod. So only a thread made for it can enter, and it ends with its work; [`OneWay`] is the proof, and
//! the only way to [`OneWay::enter`]. Sockets opened inside stay in the namespace and may be used anywhere.

use std::fs::OpenOptions;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use crate::error::Error;

/// Proof that the current thread was made for one piece of work and ends with it. It cannot leave the thread.
#[derive(Debug)]
pub(crate) struct OneWay(PhantomData<*const ()>);

impl OneWay {
    /// Moves the thread into the namespace, for the rest of its life.
    pub(crate) fn enter(self, netns: BorrowedFd<'_>) -> Result<(), Error> {
        setns(netns, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| Error::namespace("enter", Path::new("of the pod"), errno))
    }
}

/// Runs `work` on a thread of its own and waits for it without blocking the async threads.
///
/// The work goes on to its end even if the caller stops waiting.
pub(crate) async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce(OneWay) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("cni-pod".into())
        .stack_size(512 * 1024)
        .spawn(move || {
            // Nobody waits any more: the work is done all the same.
            let _ = sender.send(work(OneWay(PhantomData)));
        })
        .map_err(|source| Error::Thread { source })?;
    receiver.await.unwrap_or_else(|_| Err(thread_died()))
}

/// Runs `work` on a thread of its own while the calling thread waits.
pub(crate) fn aside<T: Send>(work: impl FnOnce(OneWay) -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("cni-pod".into())
            .spawn_scoped(scope, || work(OneWay(PhantomData)))
            .map_err(|source| Error::Thread { source })?
            .join()
            .unwrap_or_else(|_| Err(thread_died()))
    })
}

fn thread_died() -> Error {
    Error::Thread {
        source: io::Error::other("it panicked"),
    }
}

/// Which namespace a descriptor or path refers to. Numbers are reused after a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(crate) fn of(netns: BorrowedFd<'_>) -> Result<Self, Error> {
        let stat =
            fstat(netns).map_err(|errno| Error::namespace("examine", Path::new("of the pod"), errno))?;
        Ok(Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }

    /// That of a path, or nothing when no namespace is there (any more).
    pub(crate) fn at(path: &Path) -> Option<Self> {
        let is_namespace = statfs(path).is_ok_and(|stat| stat.filesystem_type() == NSFS_MAGIC);
        let meta = std::fs::metadata(path).ok().filter(|_| is_namespace)?;
        Some(Identity {
            device: meta.dev(),
            inode: meta.ino(),
        })
    }
}

/// Where a pod's namespace is pinned: `<directory>/crisp-<first 12 of the id>`.
pub(crate) fn pin_path(directory: &Path, pod: &str) -> PathBuf {
    directory.join(format!("crisp-{}", pod.get(..12).unwrap_or(pod)))
}

/// Pins the namespace to a path that plugins, and agents of theirs in other mount namespaces, can open.
pub(crate) fn pin(netns: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    // Two first pins at once would bind the directory over itself twice, the second over the first's pin.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(directory) = path.parent() {
        share_directory(directory)?;
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|source| Error::namespace("create pin", path, source))?;
    let source = format!("/proc/thread-self/fd/{}", netns.as_raw_fd());
    mount(
        Some(source.as_str()),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|errno| Error::namespace("bind pin", path, errno))
}

/// Removes a pin; one that is gone, in whole or in part, is a success.
pub(crate) fn unpin(path: &Path) -> Result<(), Error> {
    use nix::errno::Errno;
    match umount2(path, MntFlags::MNT_DETACH) {
        // EINVAL: the file is there, but nothing is mounted on it.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(Error::namespace("unmount pin", path, errno)),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::namespace("remove pin", path, error))
        }
        _ => Ok(()),
    }
}

/// Makes the directory a shared mount, so that a pin is seen in mount namespaces that were made before it
/// (`ip netns` does the same to `/run/netns`).
fn share_directory(directory: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(directory)
        .map_err(|source| Error::namespace("create directory", directory, source))?;
    let shared = |flags| mount(None::<&str>, directory, None::<&str>, flags, None::<&str>);
    if shared(MsFlags::MS_SHARED | MsFlags::MS_REC).is_ok() {
        return Ok(());
    }
    // Not a mount point yet.
    mount(
        Some(directory),
        directory,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .and_then(|()| shared(MsFlags::MS_SHARED | MsFlags::MS_REC))
    .map_err(|errno| Error::namespace("share directory", directory, errno))
}

/// Every descriptor of ours closes on exec, so plugins start with three. What the daemon itself was started with does
/// not unless its start saw to it; that can only be told here, once, because closing it is not this crate's to do.
pub(crate) fn warn_of_inherited_descriptors() {
    const O_CLOEXEC: u32 = 0o2_000_000;
    let Ok(open) = std::fs::read_dir("/proc/self/fdinfo") else {
        return;
    };
    let inherited = open.filter_map(|entry| {
        let entry = entry.ok()?;
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        let info = std::fs::read_to_string(entry.path()).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
        (number > 2 && flags & O_CLOEXEC == 0).then_some(number)
    });
    let inherited: Vec<u32> = inherited.collect();
    if !inherited.is_empty() {
        tracing::warn!(descriptors = ?inherited, "CNI plugins will inherit file descriptors that the daemon was started with");
    }
}

/// Opens the namespace that the current thread is in.
#[cfg(test)]
pub(crate) fn current() -> std::fs::File {
    std::fs::File::open("/proc/thread-self/ns/net").expect("a namespace")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_namespace_is_known_by_its_identity() {
        let here = current();
        assert_eq!(
            Identity::of(here.as_fd()).ok(),
            Identity::at(Path::new("/proc/thread-self/ns/net"))
        );
        assert_eq!(Identity::at(Path::new("/etc/passwd")), None);
        assert_eq!(Identity::at(Path::new("/nonexistent")), None);
    }
}
