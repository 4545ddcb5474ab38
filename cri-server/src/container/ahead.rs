//! What is made for a container before its start is asked for.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::task::JoinHandle;

/// A cgroup that is being made, or was.
#[derive(Clone)]
pub struct Ahead(Shared<BoxFuture<'static, bool>>);

impl Ahead {
    /// Work on it, which says in the end whether it is there.
    pub fn begun(work: JoinHandle<bool>) -> Self {
        Self(work.map(|made| made.unwrap_or(false)).boxed().shared())
    }

    /// Waits until nobody works on it any more. Whether it is there then, with its limits.
    pub async fn settled(&self) -> bool {
        self.0.clone().await
    }
}

/// A file that is being made or opened, or was: a root file system, which is attached nowhere and goes with its last
/// descriptor, or a log.
#[derive(Clone)]
pub struct FdAhead(Shared<BoxFuture<'static, Made>>);

type Made = Arc<Mutex<Option<OwnedFd>>>;

impl FdAhead {
    /// Work on it, which gives it in the end if it could be made.
    pub fn begun(work: JoinHandle<Option<OwnedFd>>) -> Self {
        let made = work.map(|made| Arc::new(Mutex::new(made.unwrap_or_default())));
        Self(made.boxed().shared())
    }

    /// Waits until nobody works on it any more, and gives it to the first who asks.
    pub async fn take(&self) -> Option<OwnedFd> {
        let made = self.0.clone().await;
        made.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until nobody works on it any more, and lets go of it: only then may what it is made of be removed.
    pub async fn discard(&self) {
        let made = self.take().await;
        // The kernel waits for all who may still look at a mount.
        let _ = tokio::task::spawn_blocking(move || drop(made)).await;
    }
}
