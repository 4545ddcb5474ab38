//! The last step of a pull or import, and names given later: records and catalog change together.

use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::catalog::Stored;
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::Image;
use crate::layer::{LayerInfo, LayerKey, Lease};
use crate::records::{self, ImageRecord, NameRecord};
use crate::reference::Reference;
use crate::store::{Inner, Store, blocking, detached};

/// What a pull or import found out about an image.
pub(crate) struct NewImage {
    pub(crate) id: Digest,
    pub(crate) record: ImageRecord,
    pub(crate) names: Vec<(Reference, bool)>,
    pub(crate) leases: Vec<Lease>,
}

impl Store {
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
}

impl Inner {
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
