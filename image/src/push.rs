//! Images to a registry.
//!
//! What the registry has is not sent again: when it still has all compressed layers that the image was
//! pulled with (or they are kept here), the original manifest goes back and the digest stays the same.
//! Otherwise each layer's tar is made again by its recipe, verified, and compressed with gzip; the
//! configuration, and so the image's id, is unchanged, the manifest is a new one.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::catalog::Stored;
use crate::digest::Digest;
use crate::error::Error;
use crate::export::write_layer;
use crate::layer::Lease;
use crate::manifest::{Descriptor, Document, media_type};
use crate::reference::{Reference, Version};
use crate::registry::{Content, Credentials, Session, Target};
use crate::spool::Spool;
use crate::store::{Inner, Store, blocking};

const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What to push, where to, and as whom.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// A name or id here.
    pub image: String,
    /// What it is to be called there; must name a tag.
    pub destination: Reference,
    /// As whom.
    pub credentials: Credentials,
}

/// How far a push is.
#[derive(Debug, Default)]
pub struct PushProgress {
    layers: AtomicU64,
    done: AtomicU64,
    sent: Arc<AtomicU64>,
}

impl PushProgress {
    /// Layers in all, layers that are there, and bytes sent of the one under way.
    #[must_use]
    pub fn look(&self) -> (u64, u64, u64) {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        (read(&self.layers), read(&self.done), read(&self.sent))
    }
}

impl Store {
    /// Pushes an image; gives the digest of its manifest there.
    ///
    /// # Errors
    /// No such image, a destination without a tag, the registry's refusals;
    /// [`Error::Irreproducible`] when a layer's files do not give its tar any more.
    pub async fn push(&self, request: PushRequest, progress: Arc<PushProgress>) -> Result<Digest, Error> {
        let inner = self.inner.clone();
        let Version::Tag(tag) = request.destination.version().clone() else {
            return Err(Error::PushToDigest {
                destination: request.destination.to_string(),
            });
        };
        let (stored, leases) = inner.leased(&request.image)?;
        progress
            .layers
            .store(stored.config().diff_ids.len() as u64, Ordering::Relaxed);
        let config = inner.registry();
        let session = Session::open(&config, &inner.lanes, &request.destination, request.credentials).await?;
        let push = Push {
            target: session.target().await?,
            inner: &inner,
            stored: &stored,
            progress: &progress,
        };
        push.run(&tag, leases).await
    }
}

struct Push<'a> {
    target: Target<'a>,
    inner: &'a Arc<Inner>,
    stored: &'a Arc<Stored>,
    progress: &'a PushProgress,
}

impl Push<'_> {
    async fn run(&self, tag: &str, leases: Vec<Lease>) -> Result<Digest, Error> {
        let (kind, manifest) = match self.original().await? {
            Some(original) => original,
            None => (media_type::OCI_MANIFEST.to_owned(), self.anew(leases).await?),
        };
        let config = Content::Bytes(self.stored.record.config.clone().into());
        self.give(&self.stored.id, &config).await?;
        self.target.publish(tag, &kind, &manifest).await?;
        Ok(Digest::sha256(&manifest))
    }

    /// The manifest that the image came with, when all its layers are there or can be given as they came.
    async fn original(&self) -> Result<Option<(String, Bytes)>, Error> {
        let bytes = &self.stored.record.manifest;
        let Ok(Document::Manifest(manifest)) = Document::parse(bytes, None) else {
            return Ok(None);
        };
        for layer in &manifest.layers {
            let kept = self.inner.blobs.find(&layer.digest);
            let whole = kept.filter(|(_, size)| *size == layer.size);
            match whole {
                Some((file, size)) => {
                    self.give(&layer.digest, &Content::File(Arc::new(file), size))
                        .await?;
                }
                None if self.target.has(&layer.digest).await? => {}
                None => return Ok(None),
            }
            self.progress.done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Some((kind_of(&manifest.config), bytes.clone().into())))
    }

    /// A new manifest, its layers compressed and given one after the other.
    async fn anew(&self, leases: Vec<Lease>) -> Result<Bytes, Error> {
        self.progress.done.store(0, Ordering::Relaxed);
        let mut layers = Vec::new();
        for (lease, diff_id) in leases.into_iter().zip(self.stored.config().diff_ids.clone()) {
            let inner = self.inner.clone();
            let compressed = blocking("compress a layer", move || compress(&inner, &diff_id, &lease));
            let (file, size, digest) = compressed.await?;
            self.give(&digest, &Content::File(Arc::new(file), size)).await?;
            self.progress.done.fetch_add(1, Ordering::Relaxed);
            layers.push(json!({ "mediaType": GZIP_LAYER, "digest": digest, "size": size }));
        }
        let config = &self.stored.record.config;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": { "mediaType": media_type::OCI_CONFIG, "digest": self.stored.id, "size": config.len() },
            "layers": layers,
        });
        Ok(manifest.to_string().into())
    }

    async fn give(&self, digest: &Digest, content: &Content) -> Result<(), Error> {
        self.progress.sent.store(0, Ordering::Relaxed);
        if !self.target.has(digest).await? {
            self.target.upload(digest, content, &self.progress.sent).await?;
        }
        Ok(())
    }
}

/// A manifest need not name its own type; that of its configuration tells the family.
fn kind_of(config: &Descriptor) -> String {
    let kind = match config.media_type.as_str() {
        media_type::DOCKER_CONFIG => media_type::DOCKER_MANIFEST,
        _ => media_type::OCI_MANIFEST,
    };
    kind.into()
}

/// A layer's tar as a gzip file without a name, its size and digest. The same layer always gives the same
/// bytes, so a second push finds them there.
fn compress(inner: &Inner, diff_id: &Digest, lease: &Lease) -> Result<(File, u64, Digest), Error> {
    let mut gzip = GzEncoder::new(Spool::new(&inner.blobs)?, Compression::default());
    write_layer(inner, diff_id, lease, &mut gzip)?;
    let spooled = gzip.finish().and_then(Spool::finish);
    spooled.map_err(Error::io("compress a layer in", &inner.config.root))
}
