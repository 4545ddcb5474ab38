//! The store as its users see it: open, list, resolve, remove.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::blob::Blobs;
use crate::catalog::{Catalog, Stored};
use crate::config::{ImageConfig, ImageUser};
use crate::database::{Database, Opened};
use crate::digest::Digest;
use crate::error::Error;
use crate::layer::{ChainId, LayerInfo, LayerKey, Layers, Lease};
use crate::platform::Platform;
use crate::pull::Pulls;
use crate::records::{self, ImageRecord, NameRecord, Records, SCHEMA};
use crate::reference::Reference;
use crate::registry::RegistryConfig;
use crate::snapshot::{SnapshotChoice, Snapshots};
use crate::trash::Trash;
use crate::unpack::Limits;

/// Everything a store depends on; nothing else of the host is looked at.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The data directory (`/var/lib/crisp`): `db`, `blobs`, `l`, `rw`, `trash` are made in it.
    pub root: PathBuf,
    /// How registries are reached.
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
    /// Names that count as pinned (canonical; a final `*` matches any rest).
    pub pinned: Vec<String>,
    /// What time it is.
    pub clock: fn() -> SystemTime,
}

impl StoreConfig {
    /// The defaults, at `root`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            registry: RegistryConfig::default(),
            platform: Platform::host(),
            keep_compressed: false,
            parallel_layers: 3,
            limits: Limits::default(),
            snapshots: SnapshotChoice::Probe,
            pinned: Vec::new(),
            clock: SystemTime::now,
        }
    }
}

/// The id of an image: the digest of its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId(pub(crate) Digest);

impl ImageId {
    /// The digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl std::fmt::Display for ImageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for ImageId {
    type Err = crate::digest::DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// An image in the store, whole: all its layers are unpacked and verified.
#[derive(Debug, Clone)]
pub struct Image {
    /// `sha256:...` of its configuration.
    pub id: ImageId,
    /// Canonical names with tags, sorted.
    pub repo_tags: Vec<String>,
    /// Canonical names with digests, sorted.
    pub repo_digests: Vec<String>,
    /// Bytes its layers and documents take on disk; shared layers count for each image.
    pub size: u64,
    /// Never to be collected as garbage.
    pub pinned: bool,
    /// When it was stored.
    pub stored_at: SystemTime,
    /// The configuration.
    pub config: Arc<ImageConfig>,
    /// The configuration as it came (JSON).
    pub config_json: Arc<[u8]>,
    /// The manifest as it came (JSON); empty for an import without one.
    pub manifest_json: Arc<[u8]>,
    /// The chain ids of its layers, lowest first.
    pub chain: Arc<[ChainId]>,
}

impl Image {
    /// The default user of its containers.
    #[must_use]
    pub fn user(&self) -> Option<ImageUser> {
        self.config.user()
    }
}

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The image concerned.
    pub id: ImageId,
    /// The names that are gone.
    pub names: Vec<String>,
    /// Whether the image itself is gone (its last name was).
    pub image_removed: bool,
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
    pub(crate) pulls: Mutex<Pulls>,
    pub(crate) trash: Arc<Trash>,
    report: OpenReport,
    /// Locks the data directory for as long as the store is open.
    _lock: OwnedFd,
}

impl Store {
    /// Opens or creates the store and puts right what a crash left: unfinished work goes to the
    /// trash, images with a missing layer are forgotten.
    ///
    /// # Errors
    /// The directory is in use by another store, or the file system or record store refuses.
    pub async fn open(config: StoreConfig) -> Result<Self, Error> {
        blocking("open the image store", move || {
            Inner::open(config).map(|inner| Self {
                inner: Arc::new(inner),
            })
        })
        .await
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

    /// Removes a name, or (given an id) all names; with its last name goes the image. The disk
    /// is freed in the background, layers that other images or snapshots use excepted.
    ///
    /// A tag takes the digests that came along with it, once it is the repository's last tag.
    /// `None` when there is no such image.
    ///
    /// # Errors
    /// An ambiguous or malformed name, or the record store's.
    pub async fn remove(&self, name: &str) -> Result<Option<Removed>, Error> {
        let inner = self.inner.clone();
        let name = name.to_owned();
        detached("remove an image", async move { inner.remove(&name).await }).await
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// No such image, or the record store's.
    pub async fn tag(&self, name: &str, new: &Reference) -> Result<Image, Error> {
        let inner = self.inner.clone();
        let (name, new) = (name.to_owned(), new.canonical());
        detached("tag an image", async move {
            let _changing = inner.changes.lock().await;
            let (stored, _) = inner.with_catalog(|catalog| catalog.find(&name))?;
            let record = NameRecord {
                image: stored.id.clone(),
                implied: false,
            };
            let (key, value) = (new.clone(), record.clone());
            inner
                .database
                .write(move |tx| records::put_name(tx, &key, &value))
                .await?;
            Ok(inner.change_catalog(|catalog| {
                catalog.names.insert(new, record);
                catalog.image(&stored, &inner.config.pinned)
            }))
        })
        .await
    }

    /// Waits until everything that was removed so far is off the disk.
    pub async fn settle(&self) {
        self.inner.trash.settle().await;
    }
}

/// What a pull or import found out about an image.
pub(crate) struct NewImage {
    pub(crate) id: Digest,
    pub(crate) record: ImageRecord,
    pub(crate) names: Vec<(Reference, bool)>,
    pub(crate) leases: Vec<Lease>,
}

impl Inner {
    fn open(config: StoreConfig) -> Result<Self, Error> {
        let folder = |name: &str| config.root.join(name);
        let (layer_folder, database_folder) = (folder("l"), folder("db"));
        std::fs::create_dir_all(&config.root).map_err(Error::io("create", &config.root))?;
        let lock = lock(&config.root)?;
        // Layers hold set-id programs of strangers: nobody but root may walk in.
        for folder in [
            &layer_folder,
            &folder("rw"),
            &folder("blobs"),
            &database_folder,
            &folder("trash"),
        ] {
            private_folder(folder)?;
        }
        let trash = Arc::new(Trash::open(&folder("trash")).map_err(Error::io("open", &folder("trash")))?);
        let (database, opened) = Database::open(&database_folder.join("images.db"), &SCHEMA)?;
        let found = read_all(&database_folder.join("images.db"))?;
        let (style, snapshots) =
            Snapshots::open(&folder("rw"), &layer_folder, config.snapshots, trash.clone())?;
        let layers = Layers::open(
            &layer_folder,
            found.layers.clone(),
            style,
            config.limits,
            trash.clone(),
        )?;
        let (catalog, lost_images) = Catalog::build(found, &layers);
        for name in &lost_images {
            tracing::warn!(image = %name, "an image is no longer whole and was forgotten; pull it again");
        }
        let inner = Self {
            database,
            catalog: RwLock::new(catalog),
            changes: tokio::sync::Mutex::default(),
            layers: Arc::new(layers),
            blobs: Blobs::open(&folder("blobs"), trash.clone())?,
            snapshots,
            pulls: Mutex::default(),
            trash,
            report: OpenReport {
                database: opened,
                lost_images,
            },
            _lock: lock,
            config,
        };
        inner.collect()?;
        Ok(inner)
    }

    pub(crate) fn with_catalog<T>(&self, look: impl FnOnce(&Catalog) -> T) -> T {
        look(
            &self
                .catalog
                .read()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        )
    }

    fn change_catalog<T>(&self, change: impl FnOnce(&mut Catalog) -> T) -> T {
        change(
            &mut self
                .catalog
                .write()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        )
    }

    pub(crate) fn now(&self) -> u64 {
        (self.config.clock)()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs()
    }

    /// Makes an image durable: its layers by one `syncfs`, then its record.
    pub(crate) async fn commit(self: &Arc<Self>, new: NewImage) -> Result<Image, Error> {
        let config = ImageConfig::parse(&new.record.config).map_err(|problem| Error::Document {
            what: new.id.to_string(),
            problem,
        })?;
        let infos: Vec<(LayerKey, LayerInfo)> = new
            .leases
            .iter()
            .filter_map(|lease| Some((lease.key.clone(), self.layers.info(&lease.key)?)))
            .collect();
        let root = self.config.root.clone();
        blocking("write an image to the disk", move || sync(&root)).await?;

        let _changing = self.changes.lock().await;
        let mut record = new.record;
        if let Some(known) = self.with_catalog(|catalog| catalog.images.get(&new.id).cloned()) {
            record.pinned |= known.record.pinned;
        }
        let names: Vec<(Reference, NameRecord)> = self.with_catalog(|catalog| {
            let explicit = |name: &Reference| {
                catalog
                    .names
                    .get(name)
                    .is_some_and(|known| known.image == new.id && !known.implied)
            };
            let record = |name: &Reference, implied| NameRecord {
                image: new.id.clone(),
                implied: implied && !explicit(name),
            };
            new.names
                .into_iter()
                .map(|(name, implied)| (name.clone(), record(&name, implied)))
                .collect()
        });
        let (id, stored_record, stored_names) = (new.id.clone(), record.clone(), names.clone());
        let stored_infos = infos.clone();
        self.database
            .write(move |tx| {
                records::put_image(tx, &id, &stored_record)?;
                stored_names
                    .iter()
                    .try_for_each(|(name, record)| records::put_name(tx, name, record))?;
                stored_infos
                    .iter()
                    .try_for_each(|(key, info)| records::put_layer(tx, key, info))
            })
            .await?;
        let stored = Arc::new(Stored::new(
            new.id,
            record,
            config,
            infos.iter().map(|(_, info)| info),
        ));
        Ok(self.change_catalog(|catalog| {
            catalog.images.insert(stored.id.clone(), stored.clone());
            catalog.names.extend(names);
            catalog.image(&stored, &self.config.pinned)
        }))
        // The leases end here: the catalog uses the layers now.
    }

    async fn remove(self: &Arc<Self>, name: &str) -> Result<Option<Removed>, Error> {
        let _changing = self.changes.lock().await;
        let (stored, named) = match self.with_catalog(|catalog| catalog.find(name)) {
            Err(Error::NoSuchImage { .. }) => return Ok(None),
            other => other?,
        };
        let all: Vec<Reference> =
            self.with_catalog(|catalog| catalog.names_of(&stored.id).cloned().collect());
        let names = match &named {
            None => all.clone(),
            Some(named) => self.with_catalog(|catalog| catalog.goes_with(named, &stored.id)),
        };
        let image_removed = names.len() == all.len();
        let (id, gone) = (stored.id.clone(), names.clone());
        self.database
            .write(move |tx| {
                if image_removed {
                    return records::delete_image(tx, &id);
                }
                gone.iter().try_for_each(|name| records::delete_name(tx, name))
            })
            .await?;
        self.change_catalog(|catalog| {
            for name in &names {
                catalog.names.remove(name);
            }
            if image_removed {
                catalog.images.remove(&stored.id);
            }
        });
        if image_removed {
            self.collect_recorded().await?;
        }
        let names = names.iter().map(ToString::to_string).collect();
        Ok(Some(Removed {
            id: ImageId(stored.id.clone()),
            names,
            image_removed,
        }))
    }

    /// Discards the layers and blobs that nothing uses, and forgets the layers' records.
    pub(crate) async fn collect_recorded(self: &Arc<Self>) -> Result<(), Error> {
        let inner = self.clone();
        let free = blocking("collect unused layers", move || inner.collect()).await?;
        if free.is_empty() {
            return Ok(());
        }
        let forget = move |tx: &rusqlite::Transaction<'_>| {
            free.iter().try_for_each(|key| records::delete_layer(tx, key))
        };
        self.database.write(forget).await.map_err(Error::from)
    }

    fn collect(&self) -> Result<Vec<LayerKey>, Error> {
        let free = self.layers.collect(|| {
            let mut used = self.snapshots.used_layers();
            self.with_catalog(|catalog| used.extend(catalog.used_layers()));
            used
        });
        let blobs: HashSet<Digest> = match self.config.keep_compressed {
            true => self.with_catalog(Catalog::used_blobs),
            false => HashSet::new(),
        };
        self.blobs.collect(&blobs)?;
        Ok(free)
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

fn sync(root: &Path) -> Result<(), Error> {
    let io = |errno: rustix::io::Errno| Error::io("sync", root)(errno.into());
    let folder = rustix::fs::open(
        root,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(io)?;
    rustix::fs::syncfs(&folder).map_err(io)
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
