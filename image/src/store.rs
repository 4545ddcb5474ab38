//! The store as its users see it, and what its parts share.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::blob::Blobs;
use crate::budget::Budget;
use crate::catalog::Catalog;
use crate::database::{Database, Opened};
use crate::error::Error;
use crate::image::Image;
use crate::layer::{LayerFormat, LayerFormatChoice, LayerFormatInUse, Layers};
use crate::platform::Platform;
use crate::pull::Pulls;
use crate::registry::{Lanes, RegistryConfig};
use crate::snapshot::{MountPoints, SnapshotChoice, Snapshots};
use crate::trash::Trash;
use crate::unpack::Limits;
use crate::verify::Verifier;

/// Everything a store depends on; nothing else of the host is looked at.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The data directory (`/var/lib/crisp`): `db`, `blobs`, `l`, `m`, `rw`, `trash` are made in it.
    pub root: PathBuf,
    /// How registries are reached, until [`Store::set_registry`] says otherwise.
    pub registry: RegistryConfig,
    /// For which platform images are chosen.
    pub platform: Platform,
    /// Keep compressed layers after unpacking.
    pub keep_compressed: bool,
    /// Layers fetched at once, per image.
    pub parallel_layers: usize,
    /// What a layer may cost.
    pub limits: Limits,
    /// How writable layers are made.
    pub snapshots: SnapshotChoice,
    /// How layers are kept.
    pub layer_format: LayerFormatChoice,
    /// A directory for the mounts of layers, should there be any; it is made when needed, and outlives the store as
    /// long as containers do. Not in `root`: what is there ends with the boot.
    pub layer_mounts: PathBuf,
    /// Names that count as pinned (canonical; a final `*` matches any rest).
    pub pinned: Vec<String>,
    /// Who decides which images may be pulled.
    pub verifier: Option<Verifier>,
    /// What time it is.
    pub clock: fn() -> SystemTime,
}

impl StoreConfig {
    /// The defaults, at `root`; layers are directories, which work on every kernel.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self {
            layer_format: LayerFormatChoice::Fixed(LayerFormat::Directory),
            layer_mounts: root.with_extension("mounts"),
            root,
            registry: RegistryConfig::default(),
            platform: Platform::host(),
            keep_compressed: false,
            parallel_layers: 3,
            limits: Limits::default(),
            snapshots: SnapshotChoice::Probe,
            pinned: Vec::new(),
            verifier: None,
            clock: SystemTime::now,
        }
    }
}

/// What [`Store::open`] found, for the log and `crisp check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReport {
    /// The state of the record file.
    pub database: Opened,
    /// Images whose layers are missing or whose records are damaged: forgotten, to be pulled
    /// again.
    pub lost_images: Vec<String>,
}

/// The image store. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: StoreConfig,
    pub(crate) database: Database,
    pub(crate) catalog: RwLock<Catalog>,
    /// One change of catalog and records at a time.
    pub(crate) changes: tokio::sync::Mutex<()>,
    pub(crate) layers: Arc<Layers>,
    pub(crate) blobs: Blobs,
    pub(crate) snapshots: Snapshots,
    pub(crate) mount_points: MountPoints,
    pub(crate) pulls: Mutex<Pulls>,
    pub(crate) lanes: Arc<Lanes>,
    pub(crate) budget: Arc<Budget>,
    /// As it is for the next pull.
    pub(crate) registry: RwLock<RegistryConfig>,
    pub(crate) trash: Arc<Trash>,
    pub(crate) report: OpenReport,
    /// Locks the data directory for as long as the store is open.
    pub(crate) _lock: OwnedFd,
}

impl Store {
    /// Opens or creates the store and puts right what a crash left: unfinished work goes to the
    /// trash, images with a missing layer are forgotten.
    ///
    /// # Errors
    /// The directory is in use by another store, or the file system or record store refuses.
    pub async fn open(config: StoreConfig) -> Result<Self, Error> {
        let (inner, stale) = blocking("open the image store", move || Inner::open(config)).await?;
        inner.database.write(move |tx| stale.forget(tx)).await?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// How registries are reached from the next pull on.
    pub fn set_registry(&self, config: RegistryConfig) {
        *self
            .inner
            .registry
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = config;
    }

    /// How layers are made here, and why so.
    #[must_use]
    pub fn layer_format(&self) -> &LayerFormatInUse {
        &self.inner.layers.format
    }

    /// What opening found.
    #[must_use]
    pub fn report(&self) -> &OpenReport {
        &self.inner.report
    }

    /// All images, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Image> {
        self.inner
            .with_catalog(|catalog| catalog.list(&self.inner.config.pinned))
    }

    /// The image of a name, an id, or a unique prefix of an id.
    ///
    /// # Errors
    /// None or several are called so, or it is no name at all.
    pub fn resolve(&self, name: &str) -> Result<Image, Error> {
        self.inner.with_catalog(|catalog| {
            let (stored, _) = catalog.find(name)?;
            Ok(catalog.image(&stored, &self.inner.config.pinned))
        })
    }
}

impl Inner {
    pub(crate) fn with_catalog<T>(&self, look: impl FnOnce(&Catalog) -> T) -> T {
        look(
            &self
                .catalog
                .read()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        )
    }

    pub(crate) fn change_catalog<T>(&self, change: impl FnOnce(&mut Catalog) -> T) -> T {
        change(
            &mut self
                .catalog
                .write()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        )
    }

    pub(crate) fn registry(&self) -> RegistryConfig {
        self.registry
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }

    pub(crate) fn now(&self) -> u64 {
        (self.config.clock)()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs()
    }
}

/// Runs what blocks on a thread where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Interrupted { operation })?
}

/// Runs a change to its end even when the caller goes away.
pub(crate) async fn detached<T: Send + 'static>(
    operation: &'static str,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work)
        .await
        .map_err(|_| Error::Interrupted { operation })?
}
