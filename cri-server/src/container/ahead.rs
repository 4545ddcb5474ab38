//! What is made for a container before its start is asked for.

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
