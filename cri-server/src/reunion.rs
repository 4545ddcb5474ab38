//! Getting hold of a pod's supervisor that runs already: one that an earlier daemon started, or whose connection has ended.
//!
//! ```text
//!   reach ─┬─ nobody listens ──────────────────► Nobody: its containers have no parent any more
//!          ├─ this daemon cannot (descriptors, memory): tried again
//!          └─ There ─► meet: greet, list ─┬─ an answer ──────► reconcile, followed from here on
//!                                         ├─ none, or no use ► asked again
//!                                         └─ connection ends ► reach
//! ```
//! Containers are only given up when the kernel says that nobody listens. That a supervisor is slow does not mean that it is gone: on
//! a node without a processor to spare all are. Nor does the end of a connection: a supervisor drops a client that does not
//! read, and a daemon one whose descriptors it has no room for.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use runtime::client::ClientError;
use runtime::protocol::{ContainerState as Seen, Listing};

use crate::app::App;
use crate::container::{Container, ContainerState, Exit};
use crate::ids::PodId;
use crate::pod::Pod;
use crate::spec::PodFiles;
use crate::supervisor::{Error, Notices, Supervisor, SupervisorResult};
use crate::{Result, ops, time};

/// Between two attempts to connect when something is in the way.
const PAUSE: Duration = Duration::from_secs(1);
/// Before somebody is asked again whose answer was of no use.
const LONG_PAUSE: Duration = Duration::from_secs(30);

/// What became of a supervisor.
pub enum Reach {
    /// It listens.
    There(Supervisor, Notices),
    /// Nobody does, as the kernel says.
    Nobody(Error),
}

/// Connects to a pod's supervisor, if there is one.
pub async fn reach(app: &App, id: &PodId) -> Reach {
    let socket: PathBuf = PodFiles::new(&app.config.state_dir, id).socket();
    let mut told = false;
    loop {
        match Supervisor::connect(&socket) {
            Ok((supervisor, notices)) => return Reach::There(supervisor, notices),
            Err(error) if says_nobody(&error) => return Reach::Nobody(error),
            Err(error) if told => {
                tracing::debug!(pod = id.short(), %error, "still no connection to its supervisor");
            }
            Err(error) => {
                told = true;
                tracing::error!(pod = id.short(), %error, "no connection to its supervisor; trying again");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether an error is about the supervisor, and not about this daemon.
fn says_nobody(error: &Error) -> bool {
    match error {
        Error::Client(ClientError::Connect { source, .. }) => matches!(
            source.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ),
        Error::Client(ClientError::Peer { .. }) => true,
        _ => false,
    }
}

/// Takes up what runs in a pod, and follows it from then on; goes on in the background when nobody waits for it.
pub fn meet(
    app: &Arc<App>,
    pod: &Arc<Pod>,
    supervisor: Supervisor,
    notices: Notices,
) -> impl Future<Output = ()> + Send + use<> {
    let known = Known::of(pod);
    let met = crate::task::spawn(until_met(app.clone(), pod.clone(), known, (supervisor, notices)));
    async move {
        let _ = met.await;
    }
}

/// The connection to a pod's supervisor has ended.
///
/// # Errors
/// Those of the record store, when the supervisor has ended as well.
pub async fn again(app: &Arc<App>, pod: &Arc<Pod>) -> Result<()> {
    // One that was told to leave is expected to.
    if pod.supervisor().is_none() {
        return Ok(());
    }
    match reach(app, pod.id()).await {
        Reach::There(supervisor, notices) => {
            tracing::warn!(pod = %pod.record.config.name, "the connection to its supervisor has ended; it is there");
            pod.joined(supervisor.clone());
            drop(meet(app, pod, supervisor, notices));
            Ok(())
        }
        Reach::Nobody(error) => give_up(app, pod, &error).await,
    }
}

async fn until_met(app: Arc<App>, pod: Arc<Pod>, known: Known, connected: (Supervisor, Notices)) {
    let (mut supervisor, mut notices) = connected;
    let mut connections = 0_u32;
    let outcome = loop {
        match ask(&supervisor).await {
            Ok(listing) => {
                // First of all: whoever hears of an end that this brings to light may go on at once.
                pod.told(listing.init_pid);
                reconcile(&app, &pod, &known, &listing).await;
                ops::exits::watch(&app, &pod, notices);
                break Ok(());
            }
            Err(Error::Gone) => {
                if connections > 0 {
                    tokio::time::sleep(PAUSE).await;
                }
                connections += 1;
                match reach(&app, pod.id()).await {
                    Reach::There(next, told) => {
                        pod.joined(next.clone());
                        (supervisor, notices) = (next, told);
                    }
                    Reach::Nobody(error) => break give_up(&app, &pod, &error).await,
                }
            }
            Err(Error::Silent) => {}
            Err(error) => {
                tracing::error!(pod = %pod.record.config.name, %error, "its supervisor cannot be understood; asking again");
                tokio::time::sleep(LONG_PAUSE).await;
            }
        }
    };
    if let Err(error) = outcome {
        tracing::error!(pod = %pod.record.config.name, %error, "could not take a pod up again");
    }
}

async fn ask(supervisor: &Supervisor) -> SupervisorResult<Listing> {
    supervisor.greet().await?;
    supervisor.list().await
}

/// A supervisor that leaves while there is something to keep was killed: nobody could tell how its containers end, so
/// they are ended.
async fn give_up(app: &Arc<App>, pod: &Arc<Pod>, error: &Error) -> Result<()> {
    let runs = |container: &Arc<Container>| matches!(container.state(), ContainerState::Running { .. });
    if !pod.is_ready() && !pod.containers().iter().any(runs) {
        return Ok(());
    }
    tracing::error!(pod = %pod.record.config.name, %error, "the pod's supervisor is gone; its containers are ended");
    ops::exits::lose(app, pod, "the pod's supervisor was killed").await
}

/// The containers of a pod as they were known. Whoever has changed one since knows better than a listing.
struct Known(Vec<(Arc<Container>, ContainerState)>);

impl Known {
    fn of(pod: &Pod) -> Self {
        let containers = pod.containers().into_iter();
        Self(containers.map(|one| (one.clone(), one.state())).collect())
    }

    fn is_unchanged(&self, container: &Arc<Container>) -> bool {
        let mut known = self.0.iter();
        known.any(|(other, state)| Arc::ptr_eq(other, container) && container.state() == *state)
    }
}

/// What the supervisor says is what holds; a state that it does not know was lost with an earlier one. What goes wrong with
/// one container keeps no other from being taken up.
async fn reconcile(app: &Arc<App>, pod: &Arc<Pod>, known: &Known, listing: &Listing) {
    for container in pod.containers() {
        let wire_id = container.record.wire_id().ok();
        let entry = wire_id.and_then(|id| listing.container(&id));
        let seen = entry.map(|entry| &entry.state);
        if let Err(error) = agree(app, pod, &container, known, seen).await {
            let name = &container.record.config.name.name;
            tracing::error!(pod = %pod.record.config.name, container = name, %error, "could not take a container up again");
        }
    }
}

async fn agree(
    app: &Arc<App>,
    pod: &Arc<Pod>,
    container: &Arc<Container>,
    known: &Known,
    seen: Option<&Seen>,
) -> Result<()> {
    // A start that has lost its connection is about to say that it failed; no other began before the listing.
    let _turn = match (container.state(), seen) {
        (ContainerState::Created, Some(Seen::Starting | Seen::Running(_))) => {
            Some(container.turn.lock().await)
        }
        _ => None,
    };
    match (container.state(), seen) {
        // It was told to have failed, and came off after all.
        (ContainerState::Exited { .. }, Some(Seen::Running(_) | Seen::Starting)) => {
            ops::stop::kill(app, pod, container).await?;
        }
        _ if !known.is_unchanged(container) => {}
        (ContainerState::Exited { .. }, _) | (ContainerState::Created, None | Some(Seen::Starting)) => {}
        (_, Some(Seen::Running(process))) => {
            let state = ContainerState::Created.started(process.pid, process.started_at.0);
            app.store.container_state(&container.record.id, &state).await?;
            container.transition(|_| state);
        }
        (_, Some(Seen::Exited(process, status))) => {
            container.transition(|state| state.started(process.pid, process.started_at.0));
            let exit = Exit::of_process(status.code, status.oom_killed);
            ops::exits::finish(app, pod, container, exit, status.finished_at.0).await?;
        }
        (ContainerState::Running { .. }, None | Some(Seen::Starting)) => {
            let lost = || (Exit::lost("its supervisor does not know it"), time::now());
            let (exit, at) = ops::exits::last_words(app, container).unwrap_or_else(lost);
            ops::exits::finish(app, pod, container, exit, at).await?;
        }
    }
    Ok(())
}
