//! The daemon's use of `image`.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use image::registry::RegistryConfig;
use image::{ErrorKind, Image, ImageId, Lower, SnapshotRoot, StoreConfig};
use runtime::launch::{Layer, Rootfs};

use super::App;
use crate::config::Config;
use crate::container::ContainerRecord;
use crate::ids::ContainerId;
use crate::spec::identity::{Databases, MAX_DATABASE};
use crate::{Error, Result};

/// So many images' user databases are kept.
const KEPT: usize = 16;
/// Larger ones, those of an image together, are read each time, in bytes.
const KEPT_BYTES: usize = 16 << 10;

/// The user databases of the images that containers were made of last. What an image id names never changes.
#[derive(Default)]
pub(super) struct KeptDatabases(Mutex<VecDeque<(ImageId, Arc<Databases>)>>);

impl KeptDatabases {
    fn get(&self, image: &ImageId) -> Option<Arc<Databases>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, databases) = kept.iter().find(|(of, _)| of == image)?;
        Some(databases.clone())
    }

    fn keep(&self, image: &ImageId, databases: &Arc<Databases>) {
        if databases.passwd.len() + databases.group.len() > KEPT_BYTES {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(of, _)| of != image);
        kept.truncate(KEPT - 1);
        kept.push_front((image.clone(), databases.clone()));
    }
}

/// The container that a snapshot belongs to: its writable layer has its id, the images that it shows more than that.
fn owner(key: &str) -> &str {
    key.split('.').next().unwrap_or(key)
}

pub(super) fn store_config(config: &Config) -> StoreConfig {
    let image = &config.image;
    StoreConfig {
        registry: registry_config(config),
        verifier: image.verifier.clone(),
        keep_compressed: image.keep_compressed,
        parallel_layers: image.max_parallel_layers,
        layer_format: image.layer_format,
        layer_mounts: config.state_dir.join("layers"),
        pinned: image.pinned.clone(),
        ..StoreConfig::at(&config.data_dir)
    }
}

fn registry_config(config: &Config) -> RegistryConfig {
    let registry = &config.registry;
    RegistryConfig {
        mirrors: registry.mirrors.clone(),
        insecure: registry.insecure.clone(),
        docker_config: registry.docker_config.clone(),
        connections_per_host: registry.connections_per_host,
        hosts_folders: registry.config_dirs.clone(),
        progress_timeout: config.image.progress_timeout,
        ..RegistryConfig::default()
    }
}

fn rootfs(root: SnapshotRoot) -> Rootfs {
    match root {
        SnapshotRoot::Overlay { lower, upper, work } => overlay(lower, upper, work),
        SnapshotRoot::Directory(path) => Rootfs::Directory(path),
    }
}

fn no_layer(key: &str) -> Error {
    Error::NotFound {
        kind: "layer of container",
        name: key.to_owned(),
    }
}

/// Directories alone work on every kernel.
fn overlay(lower: Vec<Lower>, upper: PathBuf, work: PathBuf) -> Rootfs {
    let directories = lower.iter().map(|layer| match layer {
        Lower::Directory(path) => Some(path.clone()),
        Lower::Mounted { .. } => None,
    });
    if let Some(lower) = directories.collect() {
        return Rootfs::Overlay { lower, upper, work };
    }
    let layer = |layer| match layer {
        Lower::Directory(path) => Layer::Directory(path),
        Lower::Mounted { namespace, name } => Layer::Mounted {
            namespace,
            path: Path::new("/").join(name),
        },
    };
    Rootfs::Layers {
        lower: lower.into_iter().map(layer).collect(),
        upper,
        work,
    }
}

impl App {
    /// Takes up what the configuration files say of registries now: a mirror is added or a registry
    /// declared insecure without a restart. A file that became wrong changes nothing but the log.
    pub async fn reread_registries(&self) {
        let config = self.config.clone();
        match tokio::task::spawn_blocking(move || config.again()).await {
            Ok(Some(Ok(config))) => self.images.set_registry(registry_config(&config)),
            Ok(Some(Err(error))) => {
                tracing::warn!(%error, "the configuration cannot be read again; registries are reached as before");
            }
            Ok(None) | Err(_) => {}
        }
    }

    /// The image that a container names: by id, by a unique prefix of one, or by reference.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was never pulled, [`Error::Image`] when the name is none.
    pub fn image(&self, name: &str) -> Result<Image> {
        self.find_image(name)?.ok_or_else(|| Error::NotFound {
            kind: "image",
            name: name.to_owned(),
        })
    }

    /// As [`App::image`]; `None` when it was never pulled.
    ///
    /// # Errors
    /// [`Error::Image`] when the name is none.
    pub fn find_image(&self, name: &str) -> Result<Option<Image>> {
        match self.images.resolve(name) {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The user databases of an image.
    ///
    /// # Errors
    /// [`Error::Image`] for a database that is no file of bearable size.
    pub async fn user_databases(&self, image: &Image) -> Result<Arc<Databases>> {
        if let Some(known) = self.user_databases.get(&image.id) {
            return Ok(known);
        }
        let read = |path| self.images.read_file(&image.id, path, MAX_DATABASE);
        let databases = Arc::new(Databases {
            passwd: read("/etc/passwd").await?.unwrap_or_default(),
            group: read("/etc/group").await?.unwrap_or_default(),
        });
        self.user_databases.keep(&image.id, &databases);
        Ok(databases)
    }

    /// The root file system of a container that was created.
    ///
    /// # Errors
    /// [`Error::Image`] when its writable layer is gone.
    pub fn rootfs(&self, container: &ContainerId) -> Result<Rootfs> {
        let root = self.images.container_root(container.as_str())?;
        root.map(rootfs).ok_or_else(|| no_layer(container.as_str()))
    }

    /// The images that a container's volumes show, by the names that its specification has for them.
    ///
    /// # Errors
    /// As [`App::rootfs`].
    pub fn image_volumes(&self, record: &ContainerRecord) -> Result<BTreeMap<String, Rootfs>> {
        let keys = record.image_volumes.keys();
        keys.map(|mount| ContainerRecord::image_volume_key(&record.id, *mount))
            .map(|key| match self.images.snapshot(&key)? {
                Some(snapshot) => Ok((key, rootfs(snapshot.root))),
                None => Err(no_layer(&key)),
            })
            .collect()
    }

    /// Removes the writable layer of a container, with its volumes, and lets go of the images that it showed.
    ///
    /// # Errors
    /// [`Error::Image`] of the first that cannot be removed.
    pub async fn remove_layers(&self, record: &ContainerRecord) -> Result<()> {
        for mount in record.image_volumes.keys() {
            let key = ContainerRecord::image_volume_key(&record.id, *mount);
            self.images.remove_snapshot(&key).await?;
        }
        Ok(self.images.remove_snapshot(record.id.as_str()).await?)
    }

    /// Removes writable layers that no container owns, and the cgroups of their names beside those of `pods`: a daemon that
    /// was killed while it made a container told nobody of it. The cgroups that stand ready for `firsts`, the first container of
    /// a pod each, go as well: the daemon that made them knew how far they were.
    ///
    /// # Errors
    /// [`Error::Image`] and [`Error::Cgroup`] of the first that cannot be removed.
    pub async fn collect_unrecorded(
        &self,
        owners: &std::collections::HashSet<String>,
        pods: &[String],
        firsts: Vec<(ContainerId, String)>,
    ) -> Result<()> {
        for (id, pod) in firsts {
            self.remove_unrecorded_cgroup(&id, &[pod]).await?;
        }
        for orphan in self
            .images
            .snapshots()
            .into_iter()
            .filter(|key| !owners.contains(owner(key)))
        {
            // First, since it is the layer that tells of it.
            if let Some(id) = ContainerId::parse(&orphan) {
                self.remove_unrecorded_cgroup(&id, pods).await?;
            }
            self.images.remove_snapshot(&orphan).await?;
        }
        Ok(())
    }
}
