//! Operations that are under way.
//!
//! A mutating call runs as a task of its own, under a key that names what it does to which object.
//! The caller only waits for it: a client that gives up loses nothing, and a client that asks again
//! joins the work that is already running and gets its result.
//!
//! ```text
//!   call ──┐                        ┌── result ──► call
//!   call ──┼─► key ─► one task ─────┼── result ──► call (joined)
//!   call ──┘   (client gone)        └─ recorded all the same
//! ```

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::watch;

use crate::Error;

/// The outcome that every waiter of an operation gets a copy of.
pub type Outcome<T> = Result<T, Arc<Error>>;

/// What all waiters of one operation wait for.
type Waiter<T> = Shared<BoxFuture<'static, Outcome<T>>>;
type Running<K, T> = Arc<Mutex<HashMap<K, Waiter<T>>>>;

/// One verb's running operations, by key.
pub struct Inflight<K, T: Clone> {
    running: Running<K, T>,
}

impl<K, T: Clone> Default for Inflight<K, T> {
    fn default() -> Self {
        Self {
            running: Arc::default(),
        }
    }
}

impl<K, T> Inflight<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the operation running under `key`, or starts it.
    ///
    /// # Errors
    /// Those of the operation, and [`Error::Crashed`] when its task panicked.
    pub async fn run<F>(&self, key: K, start: impl FnOnce() -> F) -> Outcome<T>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let waiter = {
            let mut running = lock(&self.running);
            match running.get(&key) {
                Some(waiter) => waiter.clone(),
                None => self.begin(&mut running, key, start),
            }
        };
        waiter.await
    }

    /// Starts the operation, for calls whose result is not that of an earlier one; `None` when one runs under `key`.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub async fn run_alone<F>(&self, key: K, start: impl FnOnce() -> F) -> Option<Outcome<T>>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let waiter = {
            let mut running = lock(&self.running);
            if running.contains_key(&key) {
                return None;
            }
            self.begin(&mut running, key, start)
        };
        Some(waiter.await)
    }

    fn begin<F>(&self, running: &mut HashMap<K, Waiter<T>>, key: K, start: impl FnOnce() -> F) -> Waiter<T>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let waiter = self.spawn(key.clone(), start());
        running.insert(key, waiter.clone());
        waiter
    }

    /// Whether an operation runs under `key`.
    pub fn is_running(&self, key: &K) -> bool {
        lock(&self.running).contains_key(key)
    }

    fn spawn(&self, key: K, operation: impl Future<Output = Result<T, Error>> + Send + 'static) -> Waiter<T> {
        let running = self.running.clone();
        // The entry goes when the work is done, on the task that did it, whoever still waits.
        let task = crate::task::spawn(async move {
            let leave = Leave { running, key };
            let outcome = operation.await.map_err(Arc::new);
            drop(leave);
            outcome
        });
        async move { task.await.unwrap_or_else(|_| Err(Arc::new(Error::Crashed))) }
            .boxed()
            .shared()
    }
}

/// Takes the entry out even when the operation panics.
struct Leave<K: Eq + Hash, T: Clone> {
    running: Running<K, T>,
    key: K,
}

impl<K: Eq + Hash, T: Clone> Drop for Leave<K, T> {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key);
    }
}

/// What the daemon is busy with, for `crisp status` and the verbose Status call.
#[derive(Clone, Default)]
pub struct Operations {
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    /// How many have begun.
    begun: watch::Sender<u64>,
    rows: HashMap<u64, Operation>,
    /// How many are under way that are not listed.
    brief: usize,
    /// When the last of those has ended.
    brief_until: Option<Instant>,
}

/// One operation in flight.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The CRI verb.
    pub verb: &'static str,
    /// Which pod, container or image.
    pub object: String,
    /// The step it is at.
    pub stage: &'static str,
    /// What that step waits for, where that is somebody else.
    pub waits_for: Option<String>,
    /// Since when the operation runs.
    pub since: Instant,
    /// Since when it is at this stage.
    pub stage_since: Instant,
}

impl Operations {
    /// Enters an operation; it is listed until the guard is dropped.
    pub fn enter(&self, verb: &'static str, object: impl Into<String>) -> Progress {
        let now = Instant::now();
        let mut table = lock(&self.table);
        let id = *table.begun.borrow() + 1;
        table.begun.send_replace(id);
        let operation = Operation {
            verb,
            object: object.into(),
            stage: "starting",
            waits_for: None,
            since: now,
            stage_since: now,
        };
        table.rows.insert(id, operation);
        Progress {
            table: self.table.clone(),
            id,
        }
    }

    /// Waits until nothing has been under way for so long; then tells when an operation begins.
    pub async fn rest(&self, duration: Duration) -> watch::Receiver<u64> {
        let mut begun = lock(&self.table).begun.subscribe();
        loop {
            let quiet = tokio::time::timeout(duration, begun.changed()).await.is_err();
            if quiet && lock(&self.table).rows.is_empty() {
                return begun;
            }
        }
    }

    /// Notes an operation that is not listed, and no reason to call the daemon busy, until the guard is dropped.
    pub fn enter_briefly(&self) -> Brief {
        lock(&self.table).brief += 1;
        Brief {
            table: self.table.clone(),
        }
    }

    /// Waits until nothing at all has been under way for so long.
    pub async fn lull(&self, duration: Duration) {
        loop {
            self.rest(duration).await;
            let left = {
                let table = lock(&self.table);
                let since = table.brief_until.map_or(duration, |until| until.elapsed());
                match table.brief {
                    0 => duration.saturating_sub(since),
                    _ => duration,
                }
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// All operations, the oldest first.
    pub fn list(&self) -> Vec<Operation> {
        let mut rows: Vec<_> = lock(&self.table).rows.values().cloned().collect();
        rows.sort_by_key(|o| o.since);
        rows
    }
}

/// An operation that is not listed.
pub struct Brief {
    table: Arc<Mutex<Table>>,
}

impl Drop for Brief {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        table.brief -= 1;
        table.brief_until = Some(Instant::now());
    }
}

/// The place of one operation in the table.
pub struct Progress {
    table: Arc<Mutex<Table>>,
    id: u64,
}

impl Progress {
    /// Says which step the operation is at.
    pub fn stage(&self, stage: &'static str) {
        self.set(stage, None);
    }

    /// Says which step the operation is at and whom it waits for.
    pub fn waiting(&self, stage: &'static str, waits_for: impl Into<String>) {
        self.set(stage, Some(waits_for.into()));
    }

    fn set(&self, stage: &'static str, waits_for: Option<String>) {
        if let Some(row) = lock(&self.table).rows.get_mut(&self.id) {
            row.stage = stage;
            row.waits_for = waits_for;
            row.stage_since = Instant::now();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        lock(&self.table).rows.remove(&self.id);
    }
}

/// The maps above are valid between any two statements, so a panic elsewhere cannot spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn a_repeated_call_joins_and_a_dropped_one_changes_nothing() {
        let inflight = Inflight::<u8, u32>::default();
        let runs = Arc::new(AtomicU32::new(0));
        let go = Arc::new(Notify::new());
        let operation = || {
            let (runs, go) = (runs.clone(), go.clone());
            async move {
                go.notified().await;
                Ok(runs.fetch_add(1, Ordering::SeqCst) + 1)
            }
        };
        // The first caller gives up at once; the work goes on.
        assert!(inflight.run(7, operation).now_or_never().is_none());
        let (a, b) = tokio::join!(inflight.run(7, operation), async {
            go.notify_one();
            inflight.run(7, operation).await
        });
        assert_eq!((a.unwrap(), b.unwrap()), (1, 1));
        // Done: the next call is a new operation.
        go.notify_one();
        assert_eq!(inflight.run(7, operation).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn who_wants_to_be_alone_joins_nobody() {
        let inflight = Inflight::<u8, u32>::default();
        let go = Arc::new(Notify::new());
        let operation = || {
            let go = go.clone();
            async move {
                go.notified().await;
                Ok(1)
            }
        };
        let (first, second) = tokio::join!(inflight.run_alone(7, operation), async {
            let refused = inflight.run_alone(7, operation).await;
            go.notify_one();
            refused
        });
        assert!(second.is_none());
        assert_eq!(first.unwrap().unwrap(), 1);
        go.notify_one();
        assert!(
            inflight.run_alone(7, operation).await.is_some(),
            "nobody is under way"
        );
    }

    #[tokio::test]
    async fn a_panic_is_an_error_for_its_callers_only() {
        let inflight = Inflight::<u8, u32>::default();
        let crashed = inflight.run(1, || async { panic!("on purpose") }).await;
        assert!(matches!(*crashed.unwrap_err(), Error::Crashed));
        assert_eq!(inflight.run(1, || async { Ok(5) }).await.unwrap(), 5);
    }

    #[tokio::test]
    async fn a_lull_waits_for_what_is_not_listed_too() {
        let operations = Operations::default();
        let brief = operations.enter_briefly();
        let lull = operations.lull(Duration::from_millis(5));
        let mut lull = std::pin::pin!(lull);
        let early = tokio::time::timeout(Duration::from_millis(50), &mut lull).await;
        assert!(early.is_err() && operations.list().is_empty());
        let ended = Instant::now();
        drop(brief);
        lull.await;
        assert!(ended.elapsed() >= Duration::from_millis(5));
    }

    #[test]
    fn operations_are_listed_while_they_run() {
        let operations = Operations::default();
        let progress = operations.enter("RunPodSandbox", "ns/pod");
        progress.waiting("network", "plugin bridge");
        let listed = operations.list();
        assert_eq!(
            (listed[0].stage, listed[0].waits_for.as_deref()),
            ("network", Some("plugin bridge"))
        );
        drop(progress);
        assert!(operations.list().is_empty());
    }
}
