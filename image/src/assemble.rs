//! All layers of one image into the store: several at once, each made once for all who want it,
//! committed from the lowest up.

use std::fs::File;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::error::Error;
use crate::layer::stream::{self, Compressed, Expected, NETWORK_PIECES, Target};
use crate::layer::{ChainId, Claim, Layers, Lease, Making, Unfinished, Unpacked};
use crate::manifest::Descriptor;
use crate::progress::{LayerStage, Watch};
use crate::registry::{RegistryError, Session};
use crate::store::{Inner, blocking};

/// Where a layer comes from.
#[derive(Clone)]
pub(crate) enum Origin {
    /// A registry.
    Registry(Arc<Session>, Descriptor),
    /// A part of an archive.
    Archive { file: Arc<File>, offset: u64 },
}

/// One layer to be had.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) chain: ChainId,
    pub(crate) expected: Expected,
    pub(crate) origin: Origin,
}

struct Job {
    inner: Arc<Inner>,
    part: Part,
    index: usize,
    /// The layers below, top first.
    below: Vec<ChainId>,
    watch: Arc<Watch>,
    permits: Arc<Semaphore>,
    /// Says that all layers below are present.
    ready: Option<oneshot::Receiver<()>>,
    done: oneshot::Sender<()>,
}

/// Makes sure that all layers (lowest first) are present; gives leases on them, in that order.
pub(crate) async fn assemble(
    inner: &Arc<Inner>,
    parts: Vec<Part>,
    watch: &Arc<Watch>,
) -> Result<Vec<Lease>, Error> {
    let permits = Arc::new(Semaphore::new(inner.config.parallel_layers.max(1)));
    let chain: Vec<ChainId> = parts.iter().map(|part| part.chain.clone()).collect();
    let mut leases: Vec<Option<Lease>> = parts.iter().map(|_| None).collect();
    // Dropping the set (a failure, or the end of the runtime) ends what is left of it.
    let mut jobs = JoinSet::new();
    let mut ready = None;
    for (index, part) in parts.into_iter().enumerate() {
        let (done, next) = oneshot::channel();
        let job = Job {
            inner: inner.clone(),
            part,
            index,
            below: chain[..index].iter().rev().cloned().collect(),
            watch: watch.clone(),
            permits: permits.clone(),
            ready: ready.replace(next),
            done,
        };
        jobs.spawn(async move { (index, job.run().await) });
    }
    let mut interrupted = None;
    while let Some(finished) = jobs.join_next().await {
        match finished {
            Ok((index, Ok(lease))) => leases[index] = Some(lease),
            // A layer below failed, and will say why.
            Ok((_, Err(error @ Error::Interrupted { .. }))) => interrupted = Some(error),
            Ok((_, Err(error))) => return Err(error),
            Err(_) => {
                interrupted = Some(Error::Interrupted {
                    operation: "fetch a layer",
                });
            }
        }
    }
    let leases: Option<Vec<Lease>> = leases.into_iter().collect();
    leases.ok_or_else(|| {
        interrupted.unwrap_or(Error::Interrupted {
            operation: "fetch a layer",
        })
    })
}

impl Job {
    async fn run(mut self) -> Result<Lease, Error> {
        let lease = match self.inner.layers.claim(&self.part.chain).await {
            Claim::Present(lease) => {
                self.layers_below().await?;
                lease
            }
            Claim::Mine(making) => {
                let permit = self.permits.clone().acquire_owned().await;
                self.watch.layer(self.index, LayerStage::Fetching);
                let (unfinished, unpacked) = self.fetch().await?;
                drop(permit);
                self.watch.layer(self.index, LayerStage::Unpacked);
                self.layers_below().await?;
                self.commit(making, unfinished, unpacked).await?
            }
        };
        self.watch.received(self.index, self.part.expected.size);
        self.watch.layer(self.index, LayerStage::Done);
        // The layer above may have failed already.
        let _ = self.done.send(());
        Ok(lease)
    }

    async fn layers_below(&mut self) -> Result<(), Error> {
        match self.ready.take() {
            Some(ready) => ready.await.map_err(|_| Error::Interrupted {
                operation: "fetch a layer",
            }),
            None => Ok(()),
        }
    }

    async fn commit(
        &self,
        making: Making,
        unfinished: Unfinished,
        unpacked: Unpacked,
    ) -> Result<Lease, Error> {
        let below = self.below.clone();
        blocking("commit a layer", move || {
            making.commit(unfinished, unpacked, &below)
        })
        .await
    }

    async fn fetch(&self) -> Result<(Unfinished, Unpacked), Error> {
        let size = self.part.expected.size;
        let kept = self
            .part
            .expected
            .compressed
            .as_ref()
            .and_then(|digest| self.inner.blobs.find(digest));
        match (&self.part.origin, kept) {
            (_, Some((file, length))) if length == size => {
                self.unpack(
                    Compressed::Part {
                        file: Arc::new(file),
                        offset: 0,
                        length,
                    },
                    false,
                )
                .await
            }
            (Origin::Archive { file, offset }, _) => {
                let part = Compressed::Part {
                    file: file.clone(),
                    offset: *offset,
                    length: size,
                };
                self.unpack(part, self.inner.config.keep_compressed).await
            }
            (Origin::Registry(session, descriptor), _) => {
                let (sink, pieces) = mpsc::channel(NETWORK_PIECES);
                let download = async move {
                    let progress = |bytes| self.watch.received(self.index, bytes);
                    // The sink ends with this block, which is how the other side learns of a failure.
                    session.blob(descriptor, &sink, &progress).await
                };
                let unpack = self.unpack(Compressed::Pieces(pieces), self.inner.config.keep_compressed);
                match tokio::join!(Box::pin(download), unpack) {
                    (Ok(()) | Err(RegistryError::Abandoned { .. }), unpacked) => unpacked,
                    (Err(error), _) => Err(error.into()),
                }
            }
        }
    }

    async fn unpack(&self, source: Compressed, keep: bool) -> Result<(Unfinished, Unpacked), Error> {
        let (inner, expected) = (self.inner.clone(), self.part.expected.clone());
        blocking("unpack a layer", move || {
            unpack(&inner, &inner.layers, source, &expected, keep)
        })
        .await
    }
}

fn unpack(
    inner: &Inner,
    layers: &Arc<Layers>,
    source: Compressed,
    expected: &Expected,
    keep: bool,
) -> Result<(Unfinished, Unpacked), Error> {
    let unfinished = layers.unfinished()?;
    let (files, recipe) = (unfinished.files(), unfinished.recipe());
    let (blob, file) = match (keep, &expected.compressed) {
        (true, Some(digest)) => {
            let (writer, file) = inner.blobs.writer()?;
            (Some((writer, digest)), Some(file))
        }
        _ => (None, None),
    };
    let target = Target {
        format: unfinished.format,
        files: &files,
        recipe: &recipe,
        keep: file,
    };
    let unpacked = stream::unpack(source, expected, target, &layers.limits)?;
    if let Some((writer, digest)) = blob {
        inner.blobs.commit(writer, digest)?;
    }
    Ok((unfinished, unpacked))
}
