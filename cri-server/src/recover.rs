//! The first thing a daemon does: put together what is recorded and what runs.
//!
//! ```text
//!   records ──► pod of another boot ──────────────────────────► NotReady, containers Exited 255
//!           ──► half-made (Intent) ──► undo what there may be ► forgotten
//!           ──► ready ──► connect ──► list ──► reconcile ─────► Ready, followed again
//!                            └─ nobody there ─► end what runs ► NotReady
//! ```
//!
//! All supervisors are asked at once, each with a time limit: one that hangs delays nobody else.

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
use crate::supervisor::{Notices, Supervisor};
use crate::{Result, ops, spare, time};

/// How long a supervisor may take to answer.
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

async fn revive(app: &Arc<App>, stored: StoredPod, containers: Vec<StoredContainer>) -> Result<()> {
    let StoredPod {
        record,
        phase,
        network,
        limits,
    } = stored;
    let fresh = |record, state, network, init_pid| {
        let pod = Pod::new(record, state, network, init_pid);
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
            enter(app, fresh(record, not_ready(since), network, None), containers);
            Ok(())
        }
        PodPhase::Ready if record.boot_id != app.boot_id => {
            let pod = fresh(record, not_ready(time::now()), network, None);
            let pod = enter(app, pod, containers);
            ops::exits::lose(app, &pod, "the node was rebooted").await
        }
        PodPhase::Ready => match find(app, &record.id).await {
            Ok((supervisor, notices, listing)) => {
                let pod = fresh(record, PodState::Ready(supervisor), network, listing.init_pid);
                let pod = enter(app, pod, containers);
                reconcile(app, &pod, &listing).await?;
                ops::exits::watch(app, &pod, notices);
                Ok(())
            }
            Err(error) => {
                tracing::error!(pod = %record.config.name, %error, "the pod's supervisor is not there any more");
                let pod = fresh(record, not_ready(time::now()), network, None);
                let pod = enter(app, pod, containers);
                ops::exits::lose(app, &pod, "the pod's supervisor was killed").await
            }
        },
    }
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

async fn find(
    app: &Arc<App>,
    id: &PodId,
) -> crate::supervisor::SupervisorResult<(Supervisor, Notices, Listing)> {
    let socket = PodFiles::new(&app.config.state_dir, id).socket();
    let asked = async {
        let (supervisor, notices) = Supervisor::connect(&socket).await?;
        let listing = supervisor.list().await?;
        Ok((supervisor, notices, listing))
    };
    tokio::time::timeout(ANSWER, asked)
        .await
        .unwrap_or(Err(crate::supervisor::Error::Silent))
}

/// A daemon that was killed while it made a sandbox told nobody of it: what there is of it goes.
async fn forget(app: &Arc<App>, record: crate::pod::PodRecord) -> Result<()> {
    tracing::info!(pod = %record.config.name, "undoing a sandbox that was never finished");
    if record.boot_id == app.boot_id
        && let Ok((supervisor, _, _)) = find(app, &record.id).await
    {
        // One that cannot be told to leave is collected with its cgroup.
        let _ = supervisor.shutdown().await;
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
async fn reconcile(app: &Arc<App>, pod: &Arc<Pod>, listing: &Listing) -> Result<()> {
    for container in pod.containers() {
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
                ops::exits::finish(app, pod, &container, exit, status.finished_at.0).await?;
            }
            (ContainerState::Running { .. }, None | Some(Seen::Starting)) => {
                let lost = || (Exit::lost("its supervisor does not know it"), time::now());
                let (exit, at) = ops::exits::last_words(app, &container).unwrap_or_else(lost);
                ops::exits::finish(app, pod, &container, exit, at).await?;
            }
        }
    }
    Ok(())
}
