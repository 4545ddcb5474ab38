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
//! All supervisors are [asked](crate::reunion) at once, each with a time limit for its answer: one that hangs delays nobody else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::app::App;
use crate::container::Container;
use crate::ids::{ContainerId, PodId};
use crate::pod::{Pod, PodPhase, PodRecord, PodState};
use crate::reunion::{self, Reach};
use crate::spec::PodFiles;
use crate::store::{Stored, StoredContainer, StoredPod};
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
    let owners: HashSet<_> = containers
        .iter()
        .map(|c| c.record.id.to_string())
        .chain(unreadable)
        .collect();
    let cgroups: Vec<_> = pods.iter().map(|pod| pod.record.cgroup.clone()).collect();
    let firsts = pods.iter().filter_map(|pod| unused_first(&pod.record, &owners));
    let firsts: Vec<_> = firsts.collect();
    let mut by_pod = HashMap::<PodId, Vec<StoredContainer>>::new();
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
    if let Err(error) = app.collect_unrecorded(&owners, &cgroups, firsts).await {
        tracing::warn!(%error, "could not collect what nobody owns of containers");
    }
    Ok(())
}

/// The id of a pod's first container, when there is none of that id, and the pod's cgroup.
fn unused_first(pod: &PodRecord, owners: &HashSet<String>) -> Option<(ContainerId, String)> {
    let first = pod.first.clone().filter(|id| !owners.contains(id.as_str()))?;
    Some((first, pod.cgroup.clone()))
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
        PodPhase::Ready => match reunion::reach(app, &record.id).await {
            Reach::There(supervisor, notices) => {
                let pod = fresh(record, PodState::Ready(supervisor.clone()), network);
                let pod = enter(app, pod, containers);
                let meeting = reunion::meet(app, &pod, supervisor, notices);
                if tokio::time::timeout(ANSWER, meeting).await.is_err() {
                    tracing::warn!(
                        pod = %pod.record.config.name,
                        "the pod's supervisor is there and does not answer yet; its containers are shown as recorded"
                    );
                }
                Ok(())
            }
            Reach::Nobody(error) => {
                tracing::error!(pod = %record.config.name, %error, "the pod's supervisor is not there any more");
                let pod = enter(app, fresh(record, not_ready(time::now()), network), containers);
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

/// A daemon that was killed while it made a sandbox told nobody of it: what there is of it goes.
async fn forget(app: &Arc<App>, record: PodRecord) -> Result<()> {
    tracing::info!(pod = %record.config.name, "undoing a sandbox that was never finished");
    if record.boot_id == app.boot_id
        && let Reach::There(supervisor, _) = reunion::reach(app, &record.id).await
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
