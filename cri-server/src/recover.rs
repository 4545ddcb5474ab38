//! The first thing a daemon does: put together what is recorded and what runs.
//!
//! ```text
//!   records ──► pod of another boot ──────────────────────────► NotReady, containers Exited 255
//!           ──► half-made (Intent) ──► undo what there may be ► forgotten
//!           ──► ready ──► connect ──► list ──► reconcile ─────► Ready, followed again
//!                            │          └─ no answer in time ─► Ready as recorded; asked until it answers or is gone
//!                            └─ nobody there ─► end what runs ► NotReady
//! ```
//!
//! All supervisors are asked at once, each with a time limit: one that hangs delays nobody else. That it is slow does not
//! mean that it is gone: on a node without a processor to spare all would be, and every container ended.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use runtime::protocol::{ContainerState as Seen, Listing};

use crate::app::App;
use crate::container::{Container, ContainerState, Exit};
use crate::ids::PodId;
use crate::pod::{Pod, PodPhase, PodState};
use crate::spec::PodFiles;
use crate::store::{Stored, StoredContainer, StoredPod};
use crate::supervisor::{self, Notices, Supervisor, SupervisorResult};
use crate::{Result, ops, spare, time};

/// How long a supervisor may take to answer before the daemon serves without its answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Brings back everything that is recorded and collects what nobody owns.
///
/// # Errors
/// Those of the record store. What goes wrong with one pod is logged and keeps no other from coming back.
pub async fn recover(app: &Arc<App>) -> Result<()> {
    let Stored {
        pods,
        containers,
        unreadable,
    } = app.store.load().await?;
    for id in &unreadable {
        tracing::error!(
            id,
            "record cannot be read and is left alone; was it written by another version?"
        );
    }
    let known = pods
        .iter()
        .map(|pod| pod.record.id.to_string())
        .chain(unreadable.iter().cloned())
        .collect();
    if let Err(error) = spare::collect(app, &known).await {
        tracing::warn!(%error, "could not collect what was begun of sandboxes");
    }
    let owners = containers
        .iter()
        .map(|c| c.record.id.to_string())
        .chain(unreadable)
        .collect();
    let cgroups: Vec<_> = pods.iter().map(|pod| pod.record.cgroup.clone()).collect();
    let mut by_pod = std::collections::HashMap::<PodId, Vec<StoredContainer>>::new();
    for container in containers {
        by_pod
            .entry(container.record.pod.clone())
            .or_default()
            .push(container);
    }
    let revived = pods.into_iter().map(|pod| {
        let containers = by_pod.remove(&pod.record.id).unwrap_or_default();
        revive(app, pod, containers)
    });
    for outcome in join_all(revived.collect::<Vec<_>>()).await {
        if let Err(error) = outcome {
            tracing::error!(%error, "could not bring back a pod");
        }
    }
    // Before the first call: a container that is being made owns its layer before it is recorded.
    if let Err(error) = app.collect_unrecorded(&owners, &cgroups).await {
        tracing::warn!(%error, "could not collect what nobody owns of containers");
    }
    Ok(())
}

/// The containers of a pod as they were recorded. Whoever has changed one since knows better than a listing.
struct Recorded(Vec<(Arc<Container>, ContainerState)>);

impl Recorded {
    fn of(pod: &Pod) -> Self {
        let containers = pod.containers().into_iter();
        Self(containers.map(|one| (one.clone(), one.state())).collect())
    }

    fn unchanged(&self) -> impl Iterator<Item = &Arc<Container>> {
        let same = self
            .0
            .iter()
            .filter(|(container, state)| container.state() == *state);
        same.map(|(container, _)| container)
    }
}

async fn revive(app: &Arc<App>, stored: StoredPod, containers: Vec<StoredContainer>) -> Result<()> {
    let StoredPod {
        record,
        phase,
        network,
        limits,
    } = stored;
    let fresh = |record, state, network| {
        let pod = Pod::new(record, state, network);
        if let Some(limits) = limits {
            pod.set_limits(limits);
        }
        pod
    };
    // What an earlier daemon gave back is not known here: removal does it again.
    let not_ready = |since| PodState::NotReady {
        since,
        released: false,
    };
    match phase {
        PodPhase::Intent => forget(app, record).await,
        PodPhase::NotReady(since) => {
            enter(app, fresh(record, not_ready(since), network), containers);
            Ok(())
        }
        PodPhase::Ready if record.boot_id != app.boot_id => {
            let pod = fresh(record, not_ready(time::now()), network);
            let pod = enter(app, pod, containers);
            ops::exits::lose(app, &pod, "the node was rebooted").await
        }
        PodPhase::Ready => match Supervisor::connect(&socket(app, &record.id)) {
            Ok((supervisor, notices)) => {
                let pod = fresh(record, PodState::Ready(supervisor.clone()), network);
                let pod = enter(app, pod, containers);
                meet(app, &pod, supervisor, notices).await
            }
            Err(error) => {
                let pod = enter(app, fresh(record, not_ready(time::now()), network), containers);
                lose(app, &pod, &error).await
            }
        },
    }
}

/// Takes up what runs in a pod, now or, should its supervisor not answer in time, as soon as it does.
async fn meet(app: &Arc<App>, pod: &Arc<Pod>, supervisor: Supervisor, notices: Notices) -> Result<()> {
    let recorded = Recorded::of(pod);
    match tokio::time::timeout(ANSWER, ask(&supervisor)).await {
        Ok(answer) => take_up(app, pod, &recorded, answer, notices).await,
        Err(_) => {
            tracing::warn!(
                pod = %pod.record.config.name,
                pid = supervisor.pid(),
                "the pod's supervisor is there and does not answer yet; its containers are shown as recorded"
            );
            let (app, pod) = (app.clone(), pod.clone());
            crate::task::spawn(async move {
                let answer = loop {
                    match ask(&supervisor).await {
                        Err(supervisor::Error::Silent) => {}
                        answer => break answer,
                    }
                };
                if let Err(error) = take_up(&app, &pod, &recorded, answer, notices).await {
                    tracing::error!(pod = %pod.record.config.name, %error, "could not bring back a pod");
                }
            });
            Ok(())
        }
    }
}

async fn ask(supervisor: &Supervisor) -> SupervisorResult<Listing> {
    supervisor.greet().await?;
    supervisor.list().await
}

async fn take_up(
    app: &Arc<App>,
    pod: &Arc<Pod>,
    recorded: &Recorded,
    answer: SupervisorResult<Listing>,
    notices: Notices,
) -> Result<()> {
    match answer {
        Ok(listing) => {
            let reconciled = reconcile(app, pod, recorded, &listing).await;
            pod.told(listing.init_pid);
            ops::exits::watch(app, pod, notices);
            reconciled
        }
        // Who has stopped the pod meanwhile has let it go.
        Err(_) if !pod.is_ready() => Ok(()),
        Err(error) => lose(app, pod, &error).await,
    }
}

async fn lose(app: &Arc<App>, pod: &Arc<Pod>, error: &supervisor::Error) -> Result<()> {
    tracing::error!(pod = %pod.record.config.name, %error, "the pod's supervisor is not there any more");
    ops::exits::lose(app, pod, "the pod's supervisor was killed").await
}

fn enter(app: &Arc<App>, pod: Pod, containers: Vec<StoredContainer>) -> Arc<Pod> {
    let pod = Arc::new(pod);
    app.registry.insert_pod(pod.clone());
    for StoredContainer {
        record,
        state,
        resources,
    } in containers
    {
        let container = Container::new(record, state);
        if let Some(resources) = resources {
            container.set_resources(resources);
        }
        app.registry.insert_container(&pod, Arc::new(container));
    }
    pod
}

fn socket(app: &App, id: &PodId) -> PathBuf {
    PodFiles::new(&app.config.state_dir, id).socket()
}

/// A daemon that was killed while it made a sandbox told nobody of it: what there is of it goes.
async fn forget(app: &Arc<App>, record: crate::pod::PodRecord) -> Result<()> {
    tracing::info!(pod = %record.config.name, "undoing a sandbox that was never finished");
    if record.boot_id == app.boot_id
        && let Ok((supervisor, _)) = Supervisor::connect(&socket(app, &record.id))
    {
        // One that cannot be told to leave is collected with its cgroup.
        let told = async {
            supervisor.greet().await?;
            supervisor.shutdown().await
        };
        let _ = tokio::time::timeout(ANSWER, told).await;
    }
    app.detach(&record.id).await?;
    app.remove_supervisor_cgroup(&record.id).await?;
    app.host
        .remove_files(PodFiles::new(&app.config.state_dir, &record.id))
        .await?;
    app.remove_cgroup(&record.cgroup).await?;
    Ok(app.store.remove_pod(&record.id).await?)
}

/// What the supervisor says is what holds; a state that it does not know was lost with an earlier one.
async fn reconcile(app: &Arc<App>, pod: &Arc<Pod>, recorded: &Recorded, listing: &Listing) -> Result<()> {
    for container in recorded.unchanged() {
        let seen = container
            .record
            .wire_id()
            .ok()
            .and_then(|id| listing.container(&id))
            .map(|entry| &entry.state);
        match (container.state(), seen) {
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
    }
    Ok(())
}
