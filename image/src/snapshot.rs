//! The root of a container: an image's layers and a place of its own to write.
//!
//! ```text
//!   rw/<key>/image    which image and layers (so that they are not collected)
//!   rw/<key>/fs       what the container writes        ┐ the supervisor mounts these,
//!   rw/<key>/work     overlayfs's scratch directory    ┘ once, volatile
//! ```
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
mod probe;
mod volume;

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::{Mode, OFlags};

use crate::error::Error;
use crate::image::ImageId;
use crate::layer::{LayerFormat, LayerInfo, LayerKey};
use crate::store::{Inner, Store, blocking, detached};
use crate::trash::Trash;
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

/// The writable layers of a store.
#[derive(Debug)]
pub(crate) struct Snapshots {
    folder: PathBuf,
    mode: SnapshotMode,
    trash: Arc<Trash>,
    known: Mutex<HashMap<String, Record>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    image: ImageId,
    /// Lowest first.
    layers: Vec<LayerKey>,
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

    fn infos(&self, layers: &[LayerKey]) -> Vec<LayerInfo> {
        layers.iter().filter_map(|key| self.layers.info(key)).collect()
    }

    /// Where things are; decided alike when made and when found again.
    fn root_of(&self, key: &str, record: &Record, infos: &[LayerInfo]) -> Result<SnapshotRoot, Error> {
        let folder = self.snapshots.folder.join(key);
        let upper = folder.join(UPPER);
        // overlayfs needs a lower directory, and cannot read whiteouts from a file.
        let complete = infos.len() == record.layers.len();
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

impl Snapshots {
    /// Finds out what works here, and which snapshots there are.
    pub(crate) fn open(
        folder: &Path,
        layers: &Path,
        choice: SnapshotChoice,
        trash: Arc<Trash>,
    ) -> Result<(Style, Self), Error> {
        let style = probe::whiteout_style(layers)?;
        let mode = probe::mode(folder, layers, choice)?;
        let mut known = HashMap::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let path = entry.map_err(Error::io("read", folder))?.path();
            let key = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            match Record::read(&path.join(RECORD)) {
                Some(record) => drop(known.insert(key.to_owned(), record)),
                None => trash.discard(&path).map_err(Error::io("discard", &path))?,
            }
        }
        Ok((
            style,
            Self {
                folder: folder.into(),
                mode,
                trash,
                known: Mutex::new(known),
            },
        ))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Record>> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn used_layers(&self) -> HashSet<LayerKey> {
        self.known()
            .values()
            .flat_map(|record| record.layers.iter().cloned())
            .collect()
    }

    pub(crate) fn mode(&self) -> SnapshotMode {
        self.mode
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn add(&self, key: &str, record: &Record) -> Result<(), Error> {
        {
            let mut known = self.known();
            if known.contains_key(key) {
                return Err(Error::SnapshotExists { key: key.into() });
            }
            known.insert(key.to_owned(), record.clone());
        }
        let folder = self.folder.join(key);
        let made = (|| {
            create_dir(&folder, 0o700)?;
            create_dir(&folder.join(UPPER), 0o755)?;
            create_dir(&folder.join(WORK), 0o700)?;
            record.write(&folder.join(RECORD))
        })();
        if made.is_err() {
            self.known().remove(key);
            if let Err(error) = self.trash.discard(&folder) {
                tracing::warn!(snapshot = key, %error, "cannot discard a snapshot that could not be made");
            }
        }
        made
    }

    /// The image it was on; `None` when there is no such snapshot.
    fn remove(&self, key: &str) -> Result<Option<ImageId>, Error> {
        check(key)?;
        let folder = self.folder.join(key);
        self.trash
            .discard(&folder)
            .map_err(Error::io("discard", &folder))?;
        Ok(self.known().remove(key).map(|record| record.image))
    }
}

impl Record {
    fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let mut lines = text.lines();
        let image = lines.next()?.parse().ok()?;
        let layers = lines.map(LayerKey::parse).collect::<Option<_>>()?;
        // The last line ends in a newline, or the file was cut.
        text.ends_with('\n').then_some(Self { image, layers })
    }

    fn write(&self, path: &Path) -> Result<(), Error> {
        let mut text = format!("{}\n", self.image);
        for layer in &self.layers {
            text.push_str(layer.as_str());
            text.push('\n');
        }
        std::fs::write(path, text).map_err(Error::io("write", path))
    }
}

fn check(key: &str) -> Result<(), Error> {
    let fine = !key.is_empty()
        && key.len() <= 128
        && !key.starts_with('.')
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if fine {
        Ok(())
    } else {
        Err(Error::SnapshotKey {
            key: key.chars().take(140).collect(),
        })
    }
}

fn create_dir(path: &Path, mode: u32) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        .map_err(Error::io("create", path))
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
