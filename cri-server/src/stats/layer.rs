//! The size of a writable layer, known without walking through it each time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};

use crate::app::App;
use crate::container::Container;
use crate::time::{Nanos, now};

/// A size as old as this is still told; kubelet asks every ten seconds.
const FRESH: Duration = Duration::from_secs(10);
/// A walk is repeated only after so many times what it took: at most two percent of a disk's time per container.
const REST: u32 = 50;
/// How long the first request for a container waits for the first walk.
const PATIENCE: Duration = Duration::from_millis(500);

/// One walk at a time: they compete for the same disk with the containers themselves.
static WALKS: Semaphore = Semaphore::const_new(1);

/// What a container's own files take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSize {
    /// When it was measured.
    pub at: Nanos,
    /// In whole blocks.
    pub bytes: u64,
    /// Files, directories and the rest.
    pub inodes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    size: LayerSize,
    again: Instant,
}

/// What is remembered of one container.
#[derive(Debug, Default)]
pub(super) struct Layer {
    last: Mutex<Option<Measured>>,
    walking: AtomicBool,
    done: Notify,
}

impl Layer {
    fn last(&self) -> Option<Measured> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The size as last measured. If that was long ago it is measured again, but not waited for; only the very first
/// time is, a little.
pub(super) async fn size(app: &Arc<App>, container: &Arc<Container>) -> Option<LayerSize> {
    let layer = &container.meter.layer;
    let last = layer.last();
    if last.is_none_or(|last| last.again <= Instant::now()) && !layer.walking.swap(true, Ordering::AcqRel) {
        crate::task::spawn(walk(app.clone(), container.clone()));
    }
    if last.is_none() {
        let mut done = std::pin::pin!(layer.done.notified());
        done.as_mut().enable();
        if layer.last().is_none() {
            let _ = tokio::time::timeout(PATIENCE, done).await;
        }
    }
    layer.last().map(|measured| measured.size)
}

async fn walk(app: Arc<App>, container: Arc<Container>) {
    let layer = &container.meter.layer;
    if let Ok(_turn) = WALKS.acquire().await {
        let begun = Instant::now();
        // It may have been removed meanwhile.
        if let Ok(used) = app.images.snapshot_usage(container.record.id.as_str()).await {
            let size = LayerSize {
                at: now(),
                bytes: used.bytes,
                inodes: used.inodes,
            };
            let again = Instant::now() + FRESH.max(begun.elapsed() * REST);
            *layer.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Measured { size, again });
        }
    }
    layer.walking.store(false, Ordering::Release);
    layer.done.notify_waiters();
}
