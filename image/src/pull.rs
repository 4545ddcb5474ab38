//! From a reference to an image in the store.
//!
//! ```text
//!   resolve ─► (index ─► manifest) ─► configuration ─► layers in parallel ─► syncfs ─► record
//! ```
//!
//! One flight per (reference, credentials): it runs as a task of its own, so a caller that goes
//! away loses nothing, and one that comes again joins it.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use crate::assemble::{Origin, Part, assemble};
use crate::commit::NewImage;
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::document::DocumentError;
use crate::error::Error;
use crate::image::Image;
use crate::layer::ChainId;
use crate::layer::stream::Expected;
use crate::manifest::{DEEPEST_INDEX, Descriptor, Document, Manifest};
use crate::platform::Platform;
use crate::progress::{PullProgress, PullStage, Watch};
use crate::records::ImageRecord;
use crate::reference::Reference;
use crate::registry::{Credentials, Session};
use crate::store::{Inner, Store};

/// What to pull, and as whom.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// What.
    pub reference: Reference,
    /// As whom.
    pub credentials: Credentials,
}

impl PullRequest {
    /// An anonymous pull.
    #[must_use]
    pub fn anonymous(reference: Reference) -> Self {
        Self {
            reference,
            credentials: Credentials::Anonymous,
        }
    }
}

/// The pulls under way.
pub(crate) type Pulls = HashMap<(Reference, Credentials), Flight>;

#[derive(Debug, Clone)]
pub(crate) struct Flight {
    outcome: Shared<BoxFuture<'static, Outcome>>,
    watch: Arc<Watch>,
}

/// Errors are shared by all who wait for the same pull.
type Outcome = Result<Image, Arc<Error>>;

impl Store {
    /// Pulls an image, or joins the same pull already under way. Dropping the future leaves the
    /// pull running.
    ///
    /// # Errors
    /// See [`Error::kind`]; nothing of a failed pull stays but layers that another one uses.
    pub async fn pull(&self, request: PullRequest) -> Outcome {
        let outcome = self.inner.flight(request).outcome;
        outcome.await
    }

    /// The pulls under way.
    #[must_use]
    pub fn pulls(&self) -> Vec<PullProgress> {
        self.inner
            .pulls()
            .values()
            .map(|flight| flight.watch.look())
            .collect()
    }
}

impl Inner {
    fn pulls(&self) -> MutexGuard<'_, Pulls> {
        self.pulls.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn flight(self: &Arc<Self>, request: PullRequest) -> Flight {
        let key = (request.reference.canonical(), request.credentials.clone());
        let mut pulls = self.pulls();
        if let Some(flight) = pulls.get(&key) {
            return flight.clone();
        }
        let watch = Arc::new(Watch::new(key.0.to_string(), (self.config.clock)()));
        let (inner, task_watch, task_key) = (self.clone(), watch.clone(), key.clone());
        let task = tokio::spawn(async move {
            let outcome = Box::pin(inner.pull(request, &task_watch)).await.map_err(Arc::new);
            inner.pulls().remove(&task_key);
            outcome
        });
        let interrupted = |_| {
            Err(Arc::new(Error::Interrupted {
                operation: "pull an image",
            }))
        };
        let outcome = task
            .map(move |joined| joined.unwrap_or_else(interrupted))
            .boxed()
            .shared();
        let flight = Flight { outcome, watch };
        pulls.insert(key, flight.clone());
        flight
    }

    async fn pull(self: &Arc<Self>, request: PullRequest, watch: &Arc<Watch>) -> Result<Image, Error> {
        let reference = request.reference.canonical();
        let config = self.registry();
        let session = Session::open(&config, &self.lanes, &reference, request.credentials);
        let session = Arc::new(session.await?);
        let found = find_manifest(&session, &reference, &self.config.platform).await?;
        if let Some(verifier) = &self.config.verifier {
            watch.stage(PullStage::Verifying);
            verifier.verify(&reference, &found.top).await?;
        }
        let config_json = session.small_blob(&found.manifest.config).await?;
        let id = found.manifest.config.digest.clone();
        let config = parse_config(&id, &config_json, &found.manifest)?;
        if !found.by_platform {
            check_platform(&reference, &config, &self.config.platform)?;
        }
        let parts = parts(&session, &found.manifest, &config);
        watch.expect(
            parts
                .iter()
                .zip(&found.manifest.layers)
                .map(|(_, layer)| (layer.digest.clone(), layer.size)),
        );
        let leases = assemble(self, parts, watch).await?;
        watch.stage(PullStage::Committing);
        let record = ImageRecord {
            manifest: found.bytes.to_vec(),
            config: config_json.to_vec(),
            pinned: false,
            stored_at: self.now(),
        };
        let names = match reference.digest() {
            Some(_) => vec![(reference, false)],
            None => vec![(reference.at(found.top.digest), true), (reference, false)],
        };
        self.commit(NewImage {
            id,
            record,
            names,
            leases,
        })
        .await
    }
}

struct Found {
    /// What the reference names: an index or the manifest.
    top: Descriptor,
    manifest: Manifest,
    bytes: bytes::Bytes,
    /// Chosen from an index by its platform.
    by_platform: bool,
}

async fn find_manifest(
    session: &Session,
    reference: &Reference,
    platform: &Platform,
) -> Result<Found, Error> {
    let resolved = session.resolve().await?;
    let top = resolved.descriptor.clone();
    let (mut descriptor, mut bytes) = (resolved.descriptor, resolved.bytes);
    let mut by_platform = false;
    for _ in 0..=DEEPEST_INDEX {
        let refused = |problem| Error::Document {
            what: format!("{reference} ({})", descriptor.digest),
            problem,
        };
        match Document::parse(&bytes, Some(&descriptor.media_type)).map_err(refused)? {
            Document::Manifest(manifest) => {
                return Ok(Found {
                    top,
                    manifest,
                    bytes,
                    by_platform,
                });
            }
            Document::Index(index) => {
                let chosen = index.choose(platform).map_err(refused)?.clone();
                by_platform |= chosen.platform.is_some();
                bytes = session.manifest(&chosen).await?;
                descriptor = chosen;
            }
        }
    }
    Err(Error::Document {
        what: reference.to_string(),
        problem: DocumentError::NestedIndexes,
    })
}

/// Parses a configuration and checks it against its manifest.
pub(crate) fn parse_config(id: &Digest, json: &[u8], manifest: &Manifest) -> Result<ImageConfig, Error> {
    let refused = |problem| Error::Document {
        what: format!("configuration {id}"),
        problem,
    };
    let config = ImageConfig::parse(json).map_err(refused)?;
    if config.diff_ids.len() != manifest.layers.len() {
        let counts = DocumentError::LayerCount {
            manifest: manifest.layers.len(),
            config: config.diff_ids.len(),
        };
        return Err(refused(counts));
    }
    Ok(config)
}

/// An image that stands alone names its platform only in its configuration.
fn check_platform(reference: &Reference, config: &ImageConfig, platform: &Platform) -> Result<(), Error> {
    let fits = config.platform.architecture.is_empty() || platform.rank(&config.platform).is_some();
    if fits {
        return Ok(());
    }
    let problem = DocumentError::NoPlatform {
        wanted: platform.clone(),
        offered: vec![config.platform.clone()],
    };
    Err(Error::Document {
        what: reference.to_string(),
        problem,
    })
}

fn parts(session: &Arc<Session>, manifest: &Manifest, config: &ImageConfig) -> Vec<Part> {
    let part = |(layer, (diff_id, chain)): (&Descriptor, (&Digest, ChainId))| Part {
        chain,
        expected: Expected {
            compressed: Some(layer.digest.clone()),
            diff_id: diff_id.clone(),
            size: layer.size,
        },
        origin: Origin::Registry(session.clone(), layer.clone()),
    };
    manifest
        .layers
        .iter()
        .zip(config.diff_ids.iter().zip(ChainId::of(&config.diff_ids)))
        .map(part)
        .collect()
}
