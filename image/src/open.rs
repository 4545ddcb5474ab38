//! Opening a store: taking over what a former life left.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::blob::Blobs;
use crate::catalog::{Catalog, Lost};
use crate::database::Database;
use crate::error::Error;
use crate::layer::{
    self, LayerFormat, LayerFormatChoice, LayerFormatInUse, LayerFormatReason, LayerKey, Layers, Mounts,
};
use crate::records::{self, Records, SCHEMA};
use crate::snapshot::{MountPoints, SnapshotMode, Snapshots};
use crate::store::{Inner, OpenReport, StoreConfig};
use crate::trash::Trash;

/// Records of what is no longer there.
pub(crate) struct Stale {
    lost: Lost,
    layers: Vec<LayerKey>,
}

impl Stale {
    pub(crate) fn forget(&self, tx: &rusqlite::Transaction<'_>) -> rusqlite::Result<()> {
        self.lost
            .images
            .iter()
            .try_for_each(|id| records::delete_image(tx, id))?;
        self.lost
            .names
            .iter()
            .try_for_each(|name| records::delete_name(tx, name))?;
        self.layers
            .iter()
            .try_for_each(|key| records::delete_layer(tx, key))
    }
}

impl Inner {
    pub(crate) fn open(config: StoreConfig) -> Result<(Self, Stale), Error> {
        let folder = |name: &str| config.root.join(name);
        let (layer_folder, database_folder) = (folder("l"), folder("db"));
        std::fs::create_dir_all(&config.root).map_err(Error::io("create", &config.root))?;
        // Layers hold set-id programs of strangers: nobody but root may walk in.
        for folder in [
            &layer_folder,
            &folder("m"),
            &folder("rw"),
            &folder("blobs"),
            &database_folder,
            &folder("trash"),
        ] {
            private_folder(folder)?;
        }
        let lock = lock(&layer_folder)?;
        let trash = Arc::new(Trash::open(&folder("trash")).map_err(Error::io("open", &folder("trash")))?);
        let (database, opened) = Database::open(&database_folder.join("images.db"), &SCHEMA)?;
        let found = read_all(&database_folder.join("images.db"))?;
        let (style, snapshots) =
            Snapshots::open(&folder("rw"), &layer_folder, config.snapshots, trash.clone())?;
        let images = found
            .layers
            .values()
            .any(|info| info.format == LayerFormat::Erofs);
        let (format, mounts) = layer_format(&config, snapshots.mode(), images)?;
        let layers = Layers::open(
            &layer_folder,
            found.layers.clone(),
            &snapshots.used_layers(),
            (format, style),
            mounts,
            config.limits,
            trash.clone(),
        )?;
        let recorded: Vec<LayerKey> = found.layers.keys().cloned().collect();
        let (catalog, lost) = Catalog::build(found, &layers);
        let lost_images = lost.describe();
        for name in &lost_images {
            tracing::warn!(image = %name, "an image is no longer whole and was forgotten; pull it again");
        }
        let inner = Self {
            database,
            catalog: RwLock::new(catalog),
            changes: tokio::sync::Mutex::default(),
            layers: Arc::new(layers),
            blobs: Blobs::open(&folder("blobs"), trash.clone())?,
            mount_points: MountPoints::open(&folder("m"), &snapshots, &trash),
            snapshots,
            pulls: Mutex::default(),
            lanes: Arc::default(),
            budget: Arc::default(),
            registry: RwLock::new(config.registry.clone()),
            trash,
            report: OpenReport {
                database: opened,
                lost_images,
            },
            _lock: lock,
            config,
        };
        inner.collect()?;
        let layers = recorded
            .into_iter()
            .filter(|key| inner.layers.info(key).is_none())
            .collect();
        Ok((inner, Stale { lost, layers }))
    }
}

/// In which format layers are made, and where those in images (there may be some of a former life) are mounted.
fn layer_format(
    config: &StoreConfig,
    mode: SnapshotMode,
    images: bool,
) -> Result<(LayerFormatInUse, Option<Mounts>), Error> {
    let directories = |reason| LayerFormatInUse {
        format: LayerFormat::Directory,
        reason,
    };
    let chosen = match mode {
        // A copy is made of files; those of a directory share their blocks where the disk can.
        SnapshotMode::Copy => directories(LayerFormatReason::Copied),
        _ => layer::choose(
            config.layer_format,
            &config.root.join("l"),
            &config.root.join("rw"),
        )?,
    };
    if chosen.format == LayerFormat::Directory && !images {
        return Ok((chosen, None));
    }
    match Mounts::open(&config.layer_mounts) {
        Ok(mounts) => Ok((chosen, Some(mounts))),
        Err(error) if config.layer_format == LayerFormatChoice::Fixed(LayerFormat::Erofs) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "layers cannot be mounted once for all; new ones are kept as directories");
            Ok((directories(LayerFormatReason::NotShared(error.to_string())), None))
        }
    }
}

fn read_all(path: &Path) -> Result<Records, Error> {
    Ok(crate::database::ReadOnlyDatabase::open(path, &SCHEMA)?.read(Records::load)?)
}

fn private_folder(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path).map_err(Error::io("create", path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(Error::io("protect", path))
}

/// Two stores in one directory would collect each other's work.
fn lock(root: &Path) -> Result<OwnedFd, Error> {
    let io = |errno: rustix::io::Errno| Error::io("lock", root)(errno.into());
    let folder = rustix::fs::open(
        root,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(io)?;
    match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(folder),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse { path: root.into() }),
        Err(errno) => Err(Error::io("lock", root)(errno.into())),
    }
}
