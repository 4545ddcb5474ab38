//! A mount namespace that holds nothing but mounts of layers, and outlives whoever made it.
//!
//! ```text
//!   host:       <run>/layers     tmpfs, unbindable: a namespace cannot be pinned where mounts propagate, and a container that
//!                                is shown <run>, or /, would have it in its own, which the kernel refuses
//!               <run>/layers/ns  the namespace (nsfs)
//!   namespace:  /                tmpfs
//!               /<key>           one layer each
//! ```
//!
//! A thread that is to work in there enters alone and ends with its work: the rest of the process stays where it is.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Dir, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::thread::{
    CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_getaffinity, sched_setaffinity,
};

use crate::error::Error;

const FILE: &str = "ns";
const NSFS_MAGIC: u64 = 0x6e73_6673;
const EROFS_MAGIC: u64 = 0xe0f5_e1e2;
/// Room for the mount points.
const OPTIONS: &std::ffi::CStr = c"size=1m,mode=0700";

/// The namespace.
#[derive(Debug)]
pub(super) struct Pin {
    at: PathBuf,
    namespace: OwnedFd,
}

impl Pin {
    /// Finds the namespace pinned in the directory `at`.
    pub(super) fn find(at: &Path) -> std::result::Result<Option<Self>, Error> {
        let file = Self::file_in(at);
        let found = pinned(&file).map_err(|errno| Error::io("look at", &file)(errno.into()))?;
        if found.is_some() {
            // An earlier version made it private only.
            let hide = mount_change(at, MountPropagationFlags::UNBINDABLE);
            hide.map_err(|errno| Error::io("make unbindable", at)(errno.into()))?;
        }
        Ok(found.map(|namespace| Self {
            at: at.into(),
            namespace,
        }))
    }

    /// Makes one, and pins it.
    pub(super) fn make(at: &Path) -> std::result::Result<Self, Error> {
        let file = Self::file_in(at);
        let failed = |errno: Errno| Error::io("pin a mount namespace at", &file)(errno.into());
        Ok(Self {
            at: at.into(),
            namespace: make(at, &file).map_err(failed)?,
        })
    }

    /// Whether it is still there for others to enter.
    pub(super) fn is_pinned(&self) -> Result<bool> {
        pinned(&Self::file_in(&self.at)).map(|found| found.is_some())
    }

    /// Where it is pinned.
    pub(super) fn file_in(at: &Path) -> PathBuf {
        at.join(FILE)
    }

    /// A clone of the mount called so, if there is one.
    pub(super) fn clone_of(&self, name: &str) -> Result<Option<OwnedFd>> {
        self.inside(|| {
            let path = place(name);
            match rustix::fs::statfs(&path) {
                Err(Errno::NOENT) => Ok(None),
                Err(errno) => Err(errno),
                // A mount point without a mount: its maker died in between.
                Ok(found) if found.f_type.cast_unsigned() != EROFS_MAGIC => Ok(None),
                Ok(_) => clone_at(&path).map(Some),
            }
        })
    }

    /// Takes a mount in under a name; gives a clone of it.
    pub(super) fn attach(&self, name: &str, mount: OwnedFd) -> Result<OwnedFd> {
        self.inside(|| {
            let path = place(name);
            match rustix::fs::mkdir(&path, Mode::RWXU) {
                Err(Errno::EXIST) => {}
                other => other?,
            }
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(mount.as_fd(), "", CWD, &path, flags)?;
            clone_at(&path)
        })
    }

    /// Unmounts what is called so; nothing is fine.
    pub(super) fn detach(&self, name: &str) -> Result<()> {
        self.inside(|| {
            let path = place(name);
            match unmount(&path, UnmountFlags::DETACH) {
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            match rustix::fs::rmdir(&path) {
                Err(Errno::NOENT) => Ok(()),
                other => other,
            }
        })
    }

    /// The names of all mounts.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        self.inside(|| {
            let root = rustix::fs::open("/", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            let mut names = Vec::new();
            let mut entries = Dir::new(root)?;
            while let Some(entry) = entries.read() {
                if let Ok(name) = entry?.file_name().to_str()
                    && name != "."
                    && name != ".."
                {
                    names.push(name.to_owned());
                }
            }
            Ok(names)
        })
    }

    /// Unpins the namespace, which ends with it.
    pub(super) fn remove(&self) -> std::result::Result<(), Error> {
        let io = |errno: Errno| Error::io("unmount", &self.at)(errno.into());
        for path in [&Self::file_in(&self.at), &self.at] {
            match unmount(path, UnmountFlags::DETACH) {
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
                Err(errno) => return Err(io(errno)),
            }
        }
        match std::fs::remove_dir(&self.at) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &self.at)(error))
            }
            _ => Ok(()),
        }
    }

    /// Runs `work` on a thread that is in the namespace.
    fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = self.namespace.as_fd();
        on_a_thread(move || {
            // Who shares its root with others cannot enter another mount namespace.
            unshare(CloneFlags::CLONE_FS).map_err(errno)?;
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Mount))?;
            work()
        })
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("layer-mounts".into())
            .spawn_scoped(scope, work)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        thread.join().unwrap_or(Err(Errno::NOTRECOVERABLE))
    })
}

/// What is pinned there already.
fn pinned(file: &Path) -> Result<Option<OwnedFd>> {
    let fd = match rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    let is_namespace = rustix::fs::fstatfs(&fd)?.f_type.cast_unsigned() == NSFS_MAGIC;
    Ok(is_namespace.then_some(fd))
}

fn make(at: &Path, file: &Path) -> Result<OwnedFd> {
    std::fs::create_dir_all(at).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    // What a maker left that died half-way.
    while unmount(at, UnmountFlags::DETACH).is_ok() {}
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("crisp-layers", at, "tmpfs", flags, OPTIONS)?;
    let attempt = || {
        mount_change(at, MountPropagationFlags::UNBINDABLE)?;
        let created = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        drop(rustix::fs::open(file, created, Mode::RUSR)?);
        pin_new(at, file)
    };
    attempt().inspect_err(|_| {
        let _ = unmount(at, UnmountFlags::DETACH);
    })
}

/// Pins a new namespace.
///
/// A namespace can only be pinned in an older one (or they might hold each other), and the kernel tells by their ids.
/// Since Linux 6.18 each processor has ids in stock, so to an older namespace that is young itself, as in a container,
/// a new one may look older: then it is made on another processor.
fn pin_new(at: &Path, file: &Path) -> Result<OwnedFd> {
    let allowed = sched_getaffinity(None)?;
    let mut answer = Err(Errno::INVAL);
    for processor in (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)) {
        let namespace = new_namespace(at, processor)?;
        answer = mount_bind(format!("/proc/self/fd/{}", namespace.as_raw_fd()), file).map(|()| namespace);
        if !matches!(answer, Err(Errno::INVAL)) {
            break;
        }
    }
    answer
}

/// A mount namespace with an empty root, made on this processor. `spare` is a directory to build it on, inside.
fn new_namespace(spare: &Path, processor: usize) -> Result<OwnedFd> {
    let (give, take) = mpsc::sync_channel(1);
    on_a_thread(move || {
        let mut only = CpuSet::new();
        only.set(processor);
        // The thread ends here, and with it this.
        sched_setaffinity(None, &only)?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(errno)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        // Opened through the /proc that is about to go.
        let own = rustix::fs::open(
            "/proc/thread-self/ns/mnt",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("crisp-layers", spare, "tmpfs", flags, OPTIONS)?;
        rustix::process::chdir(spare)?;
        // With both names ".", the old root ends up stacked on the new one, where "." finds it (pivot_root(2)).
        rustix::process::pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        give.send(own).map_err(|_| Errno::PIPE)
    })?;
    take.recv().map_err(|_| Errno::PIPE)
}

fn clone_at(path: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, path, flags)
}

fn place(name: &str) -> PathBuf {
    Path::new("/").join(OsStr::from_bytes(name.as_bytes()))
}

fn errno(errno: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}
