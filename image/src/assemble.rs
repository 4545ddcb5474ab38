//! All layers of one image into the store: several at once, each made once for all who want it,
//! begun and committed from the lowest up.
//!
//! ```text
//!   claim ─► begun below? ─► share of the budget ─► fetch, unpack ─► committed below? ─► commit
//!                              └ tells the layer above: begun                    tells it: committed ┘
//! ```
//!
//! Whoever has a share of the budget keeps it until it is committed, for an unpacked layer still has its names in memory.
//! It waits only for layers below it; those are present or have shares themselves, so the lowest can always go on.

use std::fs::File;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::budget::{Need, Share};
use crate::error::Error;
use crate::layer::stream::{self, Compressed, Expected, NETWORK_PIECES, Target};
use crate::layer::{ChainId, Claim, Lease, Making, Unfinished, Unpacked};
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
    /// Of the layer below, when there is one, and so of all below that.
    lower: Option<watch::Receiver<Stage>>,
    stage: watch::Sender<Stage>,
}

/// How far a layer is, for the one above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Waiting,
    /// It has a share of the budget, or was there already.
    Begun,
    Committed,
}

/// The layer below failed, and will say why.
const BELOW_FAILED: Error = Error::Interrupted {
    operation: "fetch a layer",
};

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
    let mut lower = None;
    for (index, part) in parts.into_iter().enumerate() {
        let (stage, this) = watch::channel(Stage::Waiting);
        let job = Job {
            inner: inner.clone(),
            part,
            index,
            below: chain[..index].iter().rev().cloned().collect(),
            watch: watch.clone(),
            permits: permits.clone(),
            lower: lower.replace(this),
            stage,
        };
        jobs.spawn(async move { (index, job.run().await) });
    }
    let mut interrupted = None;
    while let Some(finished) = jobs.join_next().await {
        match finished {
            Ok((index, Ok(lease))) => leases[index] = Some(lease),
            // Perhaps for a layer below.
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
        let claim = self.inner.layers.claim(&self.part.chain).await;
        self.below_is(Stage::Begun).await?;
        let lease = match claim {
            Claim::Present(lease) => {
                self.stage.send_replace(Stage::Begun);
                self.below_is(Stage::Committed).await?;
                lease
            }
            Claim::Mine(making) => self.make(making).await?,
        };
        self.watch.received(self.index, self.part.expected.size);
        self.watch.layer(self.index, LayerStage::Done);
        self.stage.send_replace(Stage::Committed);
        Ok(lease)
    }

    async fn make(&mut self, making: Making) -> Result<Lease, Error> {
        let permit = self.permits.clone().acquire_owned().await;
        let mut share = self.share().await?;
        self.stage.send_replace(Stage::Begun);
        self.watch.layer(self.index, LayerStage::Fetching);
        let (unfinished, unpacked) = loop {
            let shared = Arc::new(share);
            let fetched = self.fetch(&shared).await;
            let outgrown = shared.is_outgrown();
            share = Arc::into_inner(shared).ok_or(Error::Interrupted {
                operation: "unpack a layer",
            })?;
            if !outgrown {
                break fetched?;
            }
            drop(fetched);
            // Who is large must not wait for a layer that would have to be.
            self.below_is(Stage::Committed).await?;
            share.become_large().await?;
        };
        drop(permit);
        self.watch.layer(self.index, LayerStage::Unpacked);
        self.below_is(Stage::Committed).await?;
        self.commit(making, unfinished, unpacked).await
    }

    /// Waits until all layers below are as far.
    async fn below_is(&mut self, stage: Stage) -> Result<(), Error> {
        let Some(lower) = &mut self.lower else {
            return Ok(());
        };
        let reached = lower.wait_for(|lower| *lower >= stage).await;
        reached.map(drop).map_err(|_| BELOW_FAILED)
    }

    async fn share(&self) -> Result<Share, Error> {
        let lower = self.lower.clone();
        let based = move || {
            lower
                .as_ref()
                .is_none_or(|lower| *lower.borrow() == Stage::Committed)
        };
        self.inner.budget.share(self.need(), Box::new(based)).await
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

    /// Archives do not always say how their layers are compressed.
    fn need(&self) -> Need {
        match &self.part.origin {
            Origin::Registry(_, descriptor) if !descriptor.media_type.contains("zstd") => Need::Plain,
            _ => Need::Window,
        }
    }

    async fn fetch(&self, share: &Arc<Share>) -> Result<(Unfinished, Unpacked), Error> {
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
                    share,
                )
                .await
            }
            (Origin::Archive { file, offset }, _) => {
                let part = Compressed::Part {
                    file: file.clone(),
                    offset: *offset,
                    length: size,
                };
                self.unpack(part, self.inner.config.keep_compressed, share).await
            }
            (Origin::Registry(session, descriptor), _) => {
                let (sink, pieces) = mpsc::channel(NETWORK_PIECES);
                let download = async move {
                    let progress = |bytes| self.watch.received(self.index, bytes);
                    // The sink ends with this block, which is how the other side learns of a failure.
                    session.blob(descriptor, &sink, &progress).await
                };
                let keep = self.inner.config.keep_compressed;
                let unpack = self.unpack(Compressed::Pieces(pieces), keep, share);
                match tokio::join!(Box::pin(download), unpack) {
                    (Ok(()) | Err(RegistryError::Abandoned { .. }), unpacked) => unpacked,
                    (Err(error), _) => Err(error.into()),
                }
            }
        }
    }

    async fn unpack(
        &self,
        source: Compressed,
        keep: bool,
        share: &Arc<Share>,
    ) -> Result<(Unfinished, Unpacked), Error> {
        let (inner, expected, share) = (self.inner.clone(), self.part.expected.clone(), share.clone());
        blocking("unpack a layer", move || {
            unpack(&inner, source, &expected, keep, &share)
        })
        .await
    }
}

fn unpack(
    inner: &Inner,
    source: Compressed,
    expected: &Expected,
    keep: bool,
    share: &Share,
) -> Result<(Unfinished, Unpacked), Error> {
    let unfinished = inner.layers.unfinished()?;
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
    let unpacked = stream::unpack(source, expected, target, &inner.layers.limits, share)?;
    if let Some((writer, digest)) = blob {
        inner.blobs.commit(writer, digest)?;
    }
    Ok((unfinished, unpacked))
}
