//! A connection's life as its session sees it.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::channel::{Activity, Outbox};

/// How long a peer may take to close its side after we have said goodbye. Closing before it has read
/// everything would destroy what is on its way: a close with unread input is a TCP reset.
const LINGER: Duration = Duration::from_secs(10);

/// The two tasks of a connection; dropped, both end.
pub struct Tasks {
    reading: Task,
    writing: Task,
}

/// A task whose end can be awaited any number of times.
struct Task {
    handle: AbortHandle,
    alive: watch::Receiver<()>,
}

impl Task {
    fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        let (alive, seen) = watch::channel(());
        let handle = crate::task::spawn(async move {
            work.await;
            drop(alive);
        });
        Self {
            handle: handle.abort_handle(),
            alive: seen,
        }
    }

    async fn ended(&self) {
        // Nothing is ever sent: only the end of the sender is heard.
        let _ = self.alive.clone().changed().await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Tasks {
    /// Starts both.
    pub fn spawn(
        reading: impl Future<Output = ()> + Send + 'static,
        writing: impl Future<Output = std::io::Result<()>> + Send + 'static,
    ) -> Self {
        Self {
            reading: Task::spawn(reading),
            writing: Task::spawn(async move {
                if let Err(error) = writing.await {
                    tracing::debug!(%error, "the peer takes no more");
                }
            }),
        }
    }
}

/// The connection's end, and how to bring it about.
pub struct Link {
    outbox: Outbox,
    activity: Activity,
    tasks: Tasks,
}

impl Link {
    /// Of a connection's parts.
    pub fn new(outbox: Outbox, activity: Activity, tasks: Tasks) -> Self {
        Self {
            outbox,
            activity,
            tasks,
        }
    }

    /// Resolves when the peer is gone (it has closed, or cannot be written to, or has broken the protocol), or when
    /// nothing has moved for `idle`.
    pub async fn closed(&self, idle: Duration) {
        tokio::select! {
            () = self.tasks.reading.ended() => {}
            () = self.tasks.writing.ended() => {}
            () = self.activity.idle(idle) => tracing::info!("streaming session closed: idle for too long"),
        }
    }

    /// Says goodbye behind everything that was sent, and gives the peer time to take it.
    pub async fn finish(self, idle: Duration) {
        let sent = async {
            self.outbox.farewell().await;
            self.tasks.writing.ended().await;
        };
        tokio::select! {
            () = sent => {
                let _ = tokio::time::timeout(LINGER, self.tasks.reading.ended()).await;
            }
            () = self.activity.idle(idle) => {}
        }
    }
}
