//! The root of a container: an image's layers and a place of its own to write.
//!
//! ```text
//!   rw/<key>/image    which image and layers (so that they are not collected)
//!   rw/<key>/fs       what the container writes        ┐ the supervisor mounts these,
//!   rw/<key>/work     overlayfs's scratch directory    ┘ once, volatile
//! ```
//!
//! Below a container's image lies one more layer, `m/fs`, which only has mount points ([`Store::container_root`]).
//!
//! Nothing here is synced: after a power loss no container of before is run again.
//!
//! Which of three ways is used is found out by a probe mount when the store opens:
//!
//! | mode | when | costs |
//! |---|---|---|
//! | overlay | the data directory can carry an overlay's upper | nothing |
//! | overlay on tmpfs | it cannot (it is itself an overlay, as in a container) | memory, bounded |
//! | copy | overlays cannot be mounted at all | a copy of the image per container |

mod flatten;
mod mount_points;
mod probe;
mod shelf;
mod volume;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

pub(crate) use self::mount_points::MountPoints;
pub(crate) use self::shelf::Snapshots;
use self::shelf::{Record, check, create_dir};
use crate::error::Error;
use crate::image::ImageId;
use crate::layer::{LayerFormat, LayerInfo, LayerKey};
use crate::store::{Inner, Store, blocking, detached};
use crate::unpack::inherit::LayerView;
use crate::unpack::whiteout::Style;
use crate::unpack::{DiskUsage, copy_metadata, times_of};

const UPPER: &str = "fs";
const WORK: &str = "work";
const RECORD: &str = "image";

/// How writable layers are to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotChoice {
    /// The first of the three modes that works here.
    Probe,
    /// This one, come what may.
    Fixed(SnapshotMode),
}

/// How writable layers are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotMode {
    /// Overlay with its upper in the data directory.
    Overlay,
    /// Overlay with its upper on a tmpfs mounted over `rw`.
    OverlayOnTmpfs {
        /// The size of the tmpfs.
        bytes: u64,
    },
    /// A full copy.
    Copy,
}

/// A container's root, ready to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The image below.
    pub image: ImageId,
    /// What to mount.
    pub root: SnapshotRoot,
}

/// What to mount as a container's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotRoot {
    /// An overlay.
    Overlay {
        /// The read-only layers, top first; never empty.
        lower: Vec<Lower>,
        /// Where writes go.
        upper: PathBuf,
        /// overlayfs's scratch directory, on the same file system.
        work: PathBuf,
    },
    /// A directory to bind.
    Directory(PathBuf),
}

/// A read-only layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lower {
    /// A directory of the host.
    Directory(PathBuf),
    /// A mount in a mount namespace that only holds such mounts.
    Mounted {
        /// Where that namespace is pinned.
        namespace: PathBuf,
        /// The mount point's name in its root.
        name: String,
    },
}

impl Store {
    /// How writable layers are made here.
    #[must_use]
    pub fn snapshot_mode(&self) -> SnapshotMode {
        self.inner.snapshots.mode
    }

    /// Makes a writable layer called `key` (a container's id) on an image.
    ///
    /// # Errors
    /// No such image, a snapshot of that name, or the file system's refusal.
    pub async fn prepare(&self, image: &ImageId, key: &str) -> Result<Snapshot, Error> {
        let (inner, image, key) = (self.inner.clone(), image.clone(), key.to_owned());
        blocking("prepare a snapshot", move || inner.prepare(&image, &key)).await
    }

    /// As [`Store::prepare`], with so many volumes, on the calling thread, which waits for the disk.
    ///
    /// # Errors
    /// As [`Store::prepare`].
    pub fn prepare_here(&self, image: &ImageId, key: &str, volumes: usize) -> Result<Snapshot, Error> {
        let snapshot = self.inner.prepare(image, key)?;
        self.make_volumes(key, volumes)?;
        Ok(snapshot)
    }

    /// A snapshot made before (also by a former life of the store).
    ///
    /// # Errors
    /// The file system's.
    pub fn snapshot(&self, key: &str) -> Result<Option<Snapshot>, Error> {
        let Some(record) = self.inner.snapshots.known().get(key).cloned() else {
            return Ok(None);
        };
        let infos = self.inner.infos(&record.layers);
        self.inner.root_of(key, &record, &infos).map(|root| {
            Some(Snapshot {
                image: record.image,
                root,
            })
        })
    }

    /// Mounts of those layers of a snapshot that are [`Lower::Mounted`], in their order, for who cannot enter the namespace
    /// that they are in. Blocks.
    ///
    /// # Errors
    /// No such snapshot, a layer that is gone, or the file system's.
    pub fn snapshot_mounts(&self, key: &str) -> Result<Vec<OwnedFd>, Error> {
        self.inner.mounts_of(key)
    }

    /// Gives a snapshot's scratch directory anew: a volatile overlay refuses one that was used. Nothing may use it now.
    /// Blocks.
    ///
    /// # Errors
    /// The file system's.
    pub fn renew_work(&self, key: &str) -> Result<(), Error> {
        check(key)?;
        self.inner.snapshots.renew_work(key)
    }

    /// The keys of all snapshots.
    #[must_use]
    pub fn snapshots(&self) -> Vec<String> {
        self.inner.snapshots.known().keys().cloned().collect()
    }

    /// Removes a snapshot, if there is one; its disk is freed in the background. It must not be
    /// mounted any more.
    ///
    /// # Errors
    /// The file system's.
    pub async fn remove_snapshot(&self, key: &str) -> Result<(), Error> {
        let (inner, key) = (self.inner.clone(), key.to_owned());
        detached("remove a snapshot", async move {
            let remover = inner.clone();
            let removed = blocking("remove a snapshot", move || remover.snapshots.remove(&key)).await?;
            // Its image may be gone already, and the layers were kept for it alone.
            match removed {
                Some(image) if inner.with_catalog(|catalog| !catalog.images.contains_key(image.digest())) => {
                    let changing = inner.changes.lock().await;
                    inner.collect_recorded(&changing).await
                }
                _ => Ok(()),
            }
        })
        .await
    }

    /// For a clean stop: waits until what was removed is off the disk, and takes away the tmpfs for writable layers,
    /// if one was made and nothing is in it. Containers that go on keep it.
    ///
    /// # Errors
    /// The file system's.
    pub async fn close(&self) -> Result<(), Error> {
        self.settle().await;
        let inner = self.inner.clone();
        blocking("close the image store", move || {
            if inner.snapshots.known().is_empty() {
                inner.layers.unmount_all();
            }
            probe::unmount_empty_tmpfs(&inner.snapshots.folder)
        })
        .await
    }

    /// What a snapshot's own files take on disk.
    ///
    /// # Errors
    /// The file system's.
    pub async fn snapshot_usage(&self, key: &str) -> Result<DiskUsage, Error> {
        check(key)?;
        let path = self.inner.snapshots.folder.join(key).join(UPPER);
        blocking("measure a snapshot", move || crate::usage::measure(&path)).await
    }
}

impl Inner {
    fn prepare(&self, image: &ImageId, key: &str) -> Result<Snapshot, Error> {
        check(key)?;
        let missing = || Error::NoSuchImage {
            name: image.to_string(),
        };
        let chain = self.with_catalog(|catalog| {
            catalog
                .images
                .get(image.digest())
                .map(|stored| stored.chain.clone())
        });
        let key_of = |chain| Some(self.layers.find(chain)?.0);
        let layers: Option<Vec<LayerKey>> = chain.ok_or_else(missing)?.iter().map(key_of).collect();
        let layers = layers.ok_or_else(missing)?;
        // Until the snapshot itself counts as their user.
        let _leases: Vec<_> = layers
            .iter()
            .map(|key| self.layers.lease(key).ok_or_else(missing))
            .collect::<Result<_, _>>()?;
        let record = Record {
            image: image.clone(),
            layers,
        };
        let infos = self.infos(&record.layers);
        self.snapshots.add(key, &record)?;
        self.fill(key, &record, &infos).inspect_err(|_| {
            if let Err(error) = self.snapshots.remove(key) {
                tracing::warn!(snapshot = key, %error, "cannot remove a snapshot that could not be made");
            }
        })
    }

    fn fill(&self, key: &str, record: &Record, infos: &[LayerInfo]) -> Result<Snapshot, Error> {
        let root = self.root_of(key, record, infos)?;
        match &root {
            SnapshotRoot::Overlay { upper, .. } => {
                let top = record.layers.iter().rev().take(1).cloned();
                for mut top in self.layers.views(top)? {
                    take_root_attributes(&mut top, upper)?;
                }
            }
            SnapshotRoot::Directory(target) => {
                let views = self.layers.views(record.layers.iter().cloned())?;
                flatten::flatten(views, target)?;
            }
        }
        Ok(Snapshot {
            image: record.image.clone(),
            root,
        })
    }

    fn mounts_of(&self, key: &str) -> Result<Vec<OwnedFd>, Error> {
        let record = self.snapshots.known().get(key).cloned();
        let missing = || Error::NoSuchImage { name: key.to_owned() };
        let record = record.ok_or_else(missing)?;
        let infos = self.infos(&record.layers);
        let root = self.root_of(key, &record, &infos)?;
        let SnapshotRoot::Overlay { lower, .. } = root else {
            return Ok(Vec::new());
        };
        let named = |name: &String| record.layers.iter().find(|key| key.as_str() == name);
        let mounted = lower.iter().filter_map(|layer| match layer {
            Lower::Directory(_) => None,
            Lower::Mounted { name, .. } => named(name),
        });
        mounted
            .map(|key| self.layers.mounted(key).map(|(_, mount)| mount))
            .collect()
    }

    fn infos(&self, layers: &[LayerKey]) -> Vec<LayerInfo> {
        layers.iter().filter_map(|key| self.layers.info(key)).collect()
    }

    /// Where things are; decided alike when made and when found again.
    fn root_of(&self, key: &str, record: &Record, infos: &[LayerInfo]) -> Result<SnapshotRoot, Error> {
        let folder = self.snapshots.folder.join(key);
        let upper = folder.join(UPPER);
        // overlayfs needs a lower directory, and cannot read whiteouts from a file.
        let complete = infos.len() == record.layers.len();
        // A copy needs its layers no more. Where whiteouts are devices nothing was copied, and an upper directory alone
        // would be a root without its image.
        let copied = self.snapshots.mode == SnapshotMode::Copy || self.layers.style == Style::SideFile;
        if !complete && !copied {
            return Err(Error::NoSuchImage {
                name: record.image.to_string(),
            });
        }
        let stackable = complete && !infos.is_empty() && infos.iter().all(|info| !info.side_file);
        if self.snapshots.mode == SnapshotMode::Copy || !stackable {
            return Ok(SnapshotRoot::Directory(upper));
        }
        let from = infos.iter().rposition(|info| info.opaque_root).unwrap_or(0);
        let lower = record.layers[from..].iter().zip(&infos[from..]).rev();
        let lower = lower.map(|(key, info)| {
            Ok(match info.format {
                LayerFormat::Directory => Lower::Directory(self.layers.tree(key)),
                LayerFormat::Erofs => Lower::Mounted {
                    namespace: self.layers.mount(key)?,
                    name: key.to_string(),
                },
            })
        });
        let lower = lower.collect::<Result<_, Error>>()?;
        Ok(SnapshotRoot::Overlay {
            lower,
            upper,
            work: folder.join(WORK),
        })
    }
}

/// The root of an overlay shows the attributes of its upper directory.
fn take_root_attributes(from: &mut LayerView, to: &Path) -> Result<(), Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let copied = (|| {
        let upper = rustix::fs::open(to, flags, Mode::empty())?;
        let stat = copy_metadata(from.root().as_fd(), upper.as_fd())?;
        rustix::fs::futimens(&upper, &times_of(&stat))
    })();
    copied.map_err(|errno| Error::io("set attributes of", to)(errno.into()))
}
