//! Removing images, and collecting what nothing uses any more.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::MutexGuard;

use crate::catalog::Catalog;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::ImageId;
use crate::layer::LayerKey;
use crate::records;
use crate::reference::Reference;
use crate::store::{Inner, Store, blocking, detached};

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

impl Store {
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

    /// Discards what nothing uses: what a crash or a failed removal left over.
    ///
    /// # Errors
    /// The file system's or the record store's.
    pub async fn collect_garbage(&self) -> Result<(), Error> {
        let inner = self.inner.clone();
        detached("collect garbage", async move {
            let changing = inner.changes.lock().await;
            inner.collect_recorded(&changing).await
        })
        .await
    }

    /// Waits until everything that was removed so far is off the disk.
    pub async fn settle(&self) {
        self.inner.trash.settle().await;
    }
}

impl Inner {
    async fn remove(self: &Arc<Self>, name: &str) -> Result<Option<Removed>, Error> {
        let changing = self.changes.lock().await;
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
            self.collect_recorded(&changing).await?;
        }
        let names = names.iter().map(ToString::to_string).collect();
        Ok(Some(Removed {
            id: ImageId(stored.id.clone()),
            names,
            image_removed,
        }))
    }

    /// Discards the layers and blobs that nothing uses, and forgets the layers' records.
    ///
    /// Under the lock of all changes: a pull that makes such a layer anew must not have its
    /// record deleted.
    pub(crate) async fn collect_recorded(
        self: &Arc<Self>,
        _changing: &MutexGuard<'_, ()>,
    ) -> Result<(), Error> {
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

    pub(crate) fn collect(&self) -> Result<Vec<LayerKey>, Error> {
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
