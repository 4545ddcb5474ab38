//! Tasks and threads of the runtime, behind one type of work.
//!
//! The machinery of a task is compiled for each type of future: with a boxed one, once per result instead of once per call.

use std::future::Future;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::JoinHandle;

use crate::{Error, Result};

/// Runs a future as a task of its own.
pub fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    let work: BoxFuture<'static, T> = work.boxed();
    tokio::spawn(work)
}

/// Does work that may wait for a disk or a lock, on a thread for such work: from this call on, also before it is waited for.
///
/// # Errors
/// Those of the work, and [`Error::Crashed`] when it panicked.
pub fn blocking<T, F>(work: F) -> impl Future<Output = Result<T>> + Send + use<T, F>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let work: Box<dyn FnOnce() -> Result<T> + Send> = Box::new(work);
    let work = tokio::task::spawn_blocking(work);
    async move { work.await.unwrap_or(Err(Error::Crashed)) }
}
