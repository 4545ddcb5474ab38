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

/// A root file system that is being made, or was; attached nowhere, so it goes with its last descriptor.
#[derive(Clone)]
pub struct RootAhead(Shared<BoxFuture<'static, Made>>);

type Made = Arc<Mutex<Option<OwnedFd>>>;

impl RootAhead {
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

    /// Waits until nobody works on it any more, and lets go of it: only then may its layers be removed.
    pub async fn discard(&self) {
        let root = self.take().await;
        // The kernel waits for all who may still look at the mount.
        let _ = tokio::task::spawn_blocking(move || drop(root)).await;
    }
}
