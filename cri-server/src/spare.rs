//! A sandbox begun in advance.
//!
//! Half of what a sandbox takes is the start of its supervisor and a network namespace, and neither depends on what the
//! request says. So one of each is kept ready while the node has pods, and for a moment after the last has gone:
//!
//! ```text
//!   RunPodSandbox ── take ──► sandbox          the id was the spare's before it was the pod's
//!        └─ in a quiet moment ── refill ──► spare
//!   last pod removed ── a second ──► none      a node without pods holds nothing
//! ```
//!
//! A spare has a directory, a cgroup and a process, all under its id, and no record: when the daemon dies its supervisor,
//! which keeps no pod, leaves by itself, the namespace goes with the daemon's descriptor, and the next daemon
//! [collects](collect) the rest.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use crate::app::App;
use crate::begin::{self, Begun};
use crate::ids::PodId;
use crate::pod::PodConfig;
use crate::spec::PodFiles;
use crate::{Error, Result};

/// How long a spare outlives the last pod: pods are often replaced by others.
const LINGER: Duration = Duration::from_secs(1);

/// A spare is made when nothing has been under way for this long: after a sandbox come its containers, and whoever waits
/// for those needs the processors more.
const QUIET: Duration = Duration::from_millis(5);
/// So long a busy node is waited for.
const PATIENCE: Duration = Duration::from_millis(200);

/// A sandbox of which that has been made.
pub struct Spare {
    /// The supervisor.
    pub begun: Begun,
    /// The network namespace.
    pub network: OwnedFd,
}

/// The spare, if there is one.
#[derive(Default)]
pub struct Spares {
    /// Held while one is made, so that whoever ends the daemon waits for that; nobody else does.
    slot: Mutex<Slot>,
    /// Counts what happens, to tell whether anything has since a moment.
    uses: AtomicU64,
    /// Somebody waits for a quiet moment to make one.
    waiting: AtomicBool,
}

#[derive(Default)]
enum Slot {
    #[default]
    Empty,
    Ready(Spare),
    /// The daemon ends.
    Closed,
}

impl Slot {
    /// What is ready, for another owner; anything else stays as it is.
    fn take_ready(&mut self) -> Option<Spare> {
        match std::mem::take(self) {
            Slot::Ready(spare) => Some(spare),
            other => {
                *self = other;
                None
            }
        }
    }

    fn is_connected(&self) -> bool {
        matches!(self, Slot::Ready(spare) if spare.begun.supervisor.is_connected())
    }
}

impl Spares {
    /// The spare, when there is one and it suits such a pod.
    pub fn take(&self, config: &PodConfig) -> Option<Spare> {
        if !begin::makes_network(config) {
            return None;
        }
        self.uses.fetch_add(1, Ordering::Relaxed);
        // Being made, it is not ready.
        let mut slot = self.slot.try_lock().ok()?;
        // One that was lost is discarded by whoever refills.
        if slot.is_connected() {
            slot.take_ready()
        } else {
            None
        }
    }

    /// Makes a spare in the background unless there is one, when the node has a moment.
    pub fn refill(app: &Arc<App>) {
        app.spares.uses.fetch_add(1, Ordering::Relaxed);
        if app.spares.waiting.swap(true, Ordering::AcqRel) {
            return;
        }
        let app = app.clone();
        crate::task::spawn(async move {
            // Too late is better than never: a busy node has use for it, too.
            let _ = tokio::time::timeout(PATIENCE, app.operations.lull(QUIET)).await;
            app.spares.waiting.store(false, Ordering::Release);
            make_unless_there(&app).await;
            // The last pod may have gone meanwhile, and another be about to come.
            Self::release_unused(&app);
        });
    }

    /// A pod has gone, or has come to nothing: without any, the spare goes as well after a while.
    pub fn release_unused(app: &Arc<App>) {
        if !app.registry.pods().is_empty() {
            return;
        }
        let seen = app.spares.uses.load(Ordering::Relaxed);
        let app = app.clone();
        crate::task::spawn(async move {
            tokio::time::sleep(LINGER).await;
            let mut slot = app.spares.slot.lock().await;
            let unused = app.spares.uses.load(Ordering::Relaxed) == seen && app.registry.pods().is_empty();
            if unused && let Some(spare) = slot.take_ready() {
                discard(&app, spare).await;
            }
        });
    }

    /// The daemon ends: there will be no spare any more.
    pub async fn close(app: &App) {
        let mut slot = app.spares.slot.lock().await;
        if let Some(spare) = slot.take_ready() {
            discard(app, spare).await;
        }
        *slot = Slot::Closed;
    }
}

async fn make_unless_there(app: &Arc<App>) {
    // Somebody makes one already.
    let Ok(mut slot) = app.spares.slot.try_lock() else {
        return;
    };
    if matches!(*slot, Slot::Closed) || slot.is_connected() {
        return;
    }
    if let Some(lost) = slot.take_ready() {
        discard(app, lost).await;
    }
    match make(app).await {
        Ok(spare) => *slot = Slot::Ready(spare),
        // The next sandbox begins at the beginning, and tells why it cannot.
        Err(error) => tracing::debug!(%error, "no sandbox could be begun in advance"),
    }
}

async fn make(app: &Arc<App>) -> Result<Spare> {
    let id = PodId::generate().map_err(Error::io("read", "/dev/urandom"))?;
    let (begun, network) = tokio::join!(begin::supervisor(app, &id), begin::network());
    match (begun, network) {
        (Ok(begun), Ok(network)) => {
            if let Some(plan) = app.usual.sealed()
                && let Err(error) = begun.supervisor.stock(plan).await
            {
                tracing::debug!(%error, "nothing could be made for the first container of the next sandbox");
            }
            Ok(Spare { begun, network })
        }
        (begun, network) => {
            let failed = network.map(drop).and(begun.map(drop));
            clear(app, &id).await;
            Err(failed.err().unwrap_or(Error::Crashed))
        }
    }
}

async fn discard(app: &App, Spare { begun, .. }: Spare) {
    // One that cannot be told to leave is collected with its cgroup.
    let _ = begun.supervisor.shutdown().await;
    clear(app, &begun.id).await;
}

async fn clear(app: &App, id: &PodId) {
    let files = PodFiles::new(&app.config.state_dir, id);
    let cleared = match app.remove_supervisor_cgroup(id).await {
        Ok(()) => app.host.remove_files(files).await,
        Err(error) => Err(error),
    };
    if let Err(error) = cleared {
        tracing::warn!(pod = id.short(), %error, "what was begun of a sandbox stays");
    }
}

/// Removes what an earlier daemon had begun: in advance, or of a sandbox whose record it did not come to write. That is the
/// directories that belong to no pod of `known` and were never a pod's.
///
/// # Errors
/// [`Error::Io`] when the directory of sandboxes cannot be read.
pub async fn collect(app: &App, known: &HashSet<String>) -> Result<()> {
    let sandboxes = app.config.state_dir.join("sandboxes");
    let listed = std::fs::read_dir(&sandboxes).map_err(Error::io("read directory", &sandboxes))?;
    let ids = listed
        .flatten()
        .filter_map(|entry| PodId::parse(entry.file_name().to_str()?))
        .filter(|id| !known.contains(id.as_str()));
    for id in ids {
        // The first thing that a pod gives to its directory.
        if !PodFiles::new(&app.config.state_dir, &id).hostname().exists() {
            clear(app, &id).await;
        }
    }
    Ok(())
}
