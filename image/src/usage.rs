//! What the store takes on disk, really.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::Error;
use crate::store::{Inner, Store, blocking};
use crate::unpack::DiskUsage;

/// The walk holds two open files per level; what is deeper is not counted.
const DEEPEST: usize = 400;

/// What the store takes on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUsage {
    /// Layers, kept blobs and records.
    pub images: DiskUsage,
    /// Where the images are.
    pub images_path: PathBuf,
    /// The writable layers of all containers.
    pub containers: DiskUsage,
    /// Where they are.
    pub containers_path: PathBuf,
}

impl Store {
    /// The directory that writable layers are in; a mount point where they are on a tmpfs.
    pub fn containers_path(&self) -> &Path {
        self.inner.snapshots.folder()
    }

    /// Measures images (from records: cheap) and writable layers (by a walk).
    ///
    /// # Errors
    /// The file system's.
    pub async fn usage(&self) -> Result<StoreUsage, Error> {
        let inner = self.inner.clone();
        blocking("measure the store", move || inner.usage()).await
    }
}

impl Inner {
    fn usage(&self) -> Result<StoreUsage, Error> {
        let mut images = self.blobs.usage()?;
        let mut seen = HashSet::new();
        let mut keys = self.snapshots.used_layers();
        self.with_catalog(|catalog| keys.extend(catalog.used_layers()));
        for key in keys {
            if let Some(info) = self.layers.info(&key).filter(|_| seen.insert(key.clone())) {
                images += info.usage;
                images += self.layers.bookkeeping(&key);
            }
        }
        images += DiskUsage::of_one(self.layers.folder());
        images += measure(&self.config.root.join("db"))?;
        let containers_path = self.snapshots.folder().to_owned();
        let containers = measure(&containers_path)?;
        Ok(StoreUsage {
            images,
            images_path: self.config.root.clone(),
            containers,
            containers_path,
        })
    }
}

impl DiskUsage {
    /// What one file or directory takes, without what is in it; nothing when it is not there.
    pub(crate) fn of_one(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        std::fs::symlink_metadata(path).map_or_else(
            |_| Self::default(),
            |metadata| Self {
                bytes: metadata.blocks() * 512,
                inodes: 1,
            },
        )
    }
}

/// Blocks and inodes below a directory (which counts itself); never across a mount or symlink.
pub(crate) fn measure(path: &Path) -> Result<DiskUsage, Error> {
    measure_at(fs::CWD, path.as_os_str()).map_err(|errno| Error::io("measure", path)(errno.into()))
}

/// The same for the directory called `name` in `parent`.
pub(crate) fn measure_at(parent: BorrowedFd<'_>, name: &OsStr) -> Result<DiskUsage, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = fs::openat(parent, name, flags, Mode::empty())?;
    let stat = fs::fstat(&root)?;
    let mut walk = Walk {
        usage: DiskUsage::default(),
        device: stat.st_dev,
        links: HashSet::new(),
    };
    walk.count(&stat);
    walk.directory(root.as_fd(), 0)?;
    Ok(walk.usage)
}

struct Walk {
    usage: DiskUsage,
    device: u64,
    /// Inodes with several names, counted once.
    links: HashSet<u64>,
}

impl Walk {
    fn count(&mut self, stat: &fs::Stat) {
        self.usage.bytes += stat.st_blocks.cast_unsigned() * 512;
        self.usage.inodes += 1;
    }

    fn directory(&mut self, directory: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
        let mut entries = Dir::read_from(directory)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            // Containers go on writing and deleting meanwhile.
            let stat = match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if stat.st_dev != self.device
                || (kind != FileType::Directory && stat.st_nlink > 1 && !self.links.insert(stat.st_ino))
            {
                continue;
            }
            self.count(&stat);
            if kind == FileType::Directory && depth < DEEPEST {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match fs::openat(directory, name, flags, Mode::empty()) {
                    Ok(below) => self.directory(below.as_fd(), depth + 1)?,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(())
    }
}
