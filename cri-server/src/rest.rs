//! Memory is given back when there is nothing to do.
//!
//! A start, a pull or a burst of pods touches code and memory that a quiet node never needs again. Once nothing has been
//! under way for a while, that goes back to the kernel; once, until there has been work again.

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;

/// How long nothing must have been under way.
const QUIET: Duration = Duration::from_secs(2);

/// Gives memory back whenever the daemon comes to rest, for as long as it lives.
pub fn watch(app: &Arc<App>) {
    let app = app.clone();
    crate::task::spawn(async move {
        loop {
            let mut work = app.operations.rest(QUIET).await;
            // Off the threads that answer calls: a large heap takes a while.
            let _ = tokio::task::spawn_blocking(runtime::client::give_memory_back).await;
            if work.changed().await.is_err() {
                return;
            }
        }
    });
}
