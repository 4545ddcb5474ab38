//! How much memory the layers on their way may take, over all pulls and imports of a store.
//!
//! What a layer needs while it is unpacked is bounded, and known before its first byte comes: the pieces in its channels,
//! a decoder with an ordinary window, and the names of an ordinary number of files. So many layers are under way at
//! once as fit into [`TOTAL`]; the others wait, and no connection with them.
//!
//! Two kinds of layer need more: those with larger zstd windows (`--ultra` or `--long` make them), and those with very
//! many names. That shows only on the way, where waiting is not allowed: a layer that waits holds a connection, which the
//! one it waits for may need to go on. So a layer takes the right to be large if it is free, and otherwise gives up
//! and starts again when it has it. One layer at a time is large, and it is beyond the budget. It waits for nobody: only
//! a layer that has all layers below it may be large.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;
use crate::unpack::decompress::LARGEST_WINDOW_LOG;

/// MiB for all layers under way.
const TOTAL: u32 = 48;
/// MiB for a layer, without its decoder's window.
const LAYER: u32 = 6;
/// The zstd window that every decoder has to support (RFC 8878, 3.1.1.1.2): 8 MiB. Larger ones are large.
const WINDOW_LOG: u32 = 23;
const WINDOW: u32 = 1 << (WINDOW_LOG - 20);

/// What is left.
#[derive(Debug)]
pub(crate) struct Budget {
    layers: Arc<Semaphore>,
    /// The right to be large.
    large: Arc<Semaphore>,
}

/// What a layer expects to need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// No window to speak of.
    Plain,
    /// A zstd window, perhaps.
    Window,
}

/// Tells, at any time, whether all layers below are committed.
pub(crate) type Based = Box<dyn Fn() -> bool + Send + Sync>;

/// A layer's part of the budget, for as long as it is unpacked.
pub(crate) struct Share {
    budget: Arc<Budget>,
    need: Need,
    _part: OwnedSemaphorePermit,
    /// All layers below it are committed.
    based: Based,
    large: Mutex<Option<OwnedSemaphorePermit>>,
    /// It needed more while another one was large.
    outgrown: AtomicBool,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            layers: Arc::new(Semaphore::new(TOTAL as usize)),
            large: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Budget {
    /// Waits until there is room for one more layer.
    pub(crate) async fn share(self: &Arc<Self>, need: Need, based: Based) -> Result<Share, Error> {
        let part = match need {
            Need::Plain => LAYER,
            Need::Window => LAYER + WINDOW,
        };
        let part = self.layers.clone().acquire_many_owned(part).await;
        Ok(Share {
            budget: self.clone(),
            need,
            _part: part.map_err(|_| CLOSED)?,
            based,
            large: Mutex::default(),
            outgrown: AtomicBool::new(false),
        })
    }

    /// How large (2^n bytes) the windows of an archive may be that is spooled, and the right to that, to be kept as
    /// long. Blocks; for a blocking thread of the runtime, which holds nothing that others wait for.
    pub(crate) fn window_for_archive(&self, first: Option<u64>) -> (u32, Option<OwnedSemaphorePermit>) {
        if first.is_some_and(|first| first <= 1 << WINDOW_LOG) {
            return (WINDOW_LOG, None);
        }
        let right = tokio::runtime::Handle::current().block_on(self.large.clone().acquire_owned());
        (LARGEST_WINDOW_LOG, right.ok())
    }
}

impl Share {
    /// How large (2^n bytes) a decoder's windows may be, when the first is of this size.
    pub(crate) fn window_log(&self, first: Option<u64>) -> u32 {
        let own = match self.need {
            // What gzip has, and more.
            Need::Plain => 20,
            Need::Window => WINDOW_LOG,
        };
        let wanted = self.is_large() || first.is_some_and(|first| first > 1 << own);
        if wanted && self.allows_more() {
            LARGEST_WINDOW_LOG
        } else {
            own
        }
    }

    /// Whether the layer may take more than its share from now on. If not, it should give up.
    pub(crate) fn allows_more(&self) -> bool {
        let mut large = self.large();
        if large.is_none() && (self.based)() {
            *large = self.budget.large.clone().try_acquire_owned().ok();
        }
        if large.is_none() {
            self.outgrown.store(true, Ordering::Relaxed);
        }
        large.is_some()
    }

    /// The layer needs more than it has, and cannot go on.
    pub(crate) fn outgrow(&self) {
        if !self.is_large() {
            self.outgrown.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it should start again as a large one: then its failure means nothing.
    pub(crate) fn is_outgrown(&self) -> bool {
        self.outgrown.load(Ordering::Relaxed)
    }

    fn is_large(&self) -> bool {
        self.large().is_some()
    }

    fn large(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the right to be large, for another attempt, when all below is committed.
    pub(crate) async fn become_large(&mut self) -> Result<(), Error> {
        let permit = self.budget.large.clone().acquire_owned().await;
        *self.large.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(permit.map_err(|_| CLOSED)?);
        self.outgrown.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// Nobody closes the semaphores.
const CLOSED: Error = Error::Interrupted {
    operation: "wait for memory",
};

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn based() -> Based {
        Box::new(|| true)
    }

    #[tokio::test]
    async fn so_many_layers_fit_and_the_next_waits() {
        let budget = Arc::new(Budget::default());
        let mut shares = Vec::new();
        while let Some(share) = budget.share(Need::Window, based()).now_or_never() {
            shares.push(share.unwrap());
        }
        assert_eq!(shares.len() as u32, TOTAL / (LAYER + WINDOW));
        let waiting = budget.share(Need::Window, based());
        shares.pop();
        assert!(waiting.now_or_never().is_some());
    }

    #[tokio::test]
    async fn one_at_a_time_is_large() {
        let budget = Arc::new(Budget::default());
        let first = budget.share(Need::Plain, based()).await.unwrap();
        let mut second = budget.share(Need::Plain, based()).await.unwrap();
        assert_eq!(second.window_log(Some(32 << 10)), 20);
        assert_eq!(second.window_log(None), 20, "it may be small");
        assert_eq!(first.window_log(Some(9 << 20)), LARGEST_WINDOW_LOG);
        assert!(first.allows_more());
        assert_eq!(second.window_log(Some(9 << 20)), 20);
        assert!(second.is_outgrown() && !first.is_outgrown());
        assert!(second.become_large().now_or_never().is_none());
        drop(first);
        second.become_large().await.unwrap();
        assert!(second.allows_more() && !second.is_outgrown());
        assert_eq!(second.window_log(None), LARGEST_WINDOW_LOG);
    }

    #[tokio::test]
    async fn who_waits_for_layers_below_is_not_large() {
        let budget = Arc::new(Budget::default());
        let below = Arc::new(AtomicBool::new(false));
        let look = below.clone();
        let based = Box::new(move || look.load(Ordering::Relaxed));
        let share = budget.share(Need::Plain, based).await.unwrap();
        assert!(!share.allows_more());
        below.store(true, Ordering::Relaxed);
        assert!(share.allows_more());
    }
}
