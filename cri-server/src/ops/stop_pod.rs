//! StopPodSandbox.

use std::sync::Arc;

use futures::future::join_all;

use crate::app::App;
use crate::container::ContainerState;
use crate::ops::events::Happened;
use crate::pod::{Pod, PodPhase};
use crate::spec::PodFiles;
use crate::{Error, Result, ops, time};

/// Stops all containers and gives back what the sandbox holds. Succeeds when it does not exist.
///
/// # Errors
/// The first step's error; a repeated call goes on from there.
pub async fn stop(app: &Arc<App>, id: &str) -> Result<()> {
    match app.registry.pod(id) {
        Ok(pod) => stop_pod(app, &pod).await,
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// As [`stop`], for a pod in hand.
///
/// # Errors
/// As [`stop`].
pub async fn stop_pod(app: &Arc<App>, pod: &Arc<Pod>) -> Result<()> {
    let (task, stopped) = (app.clone(), pod.clone());
    Ok(app
        .inflight
        .stop_pod
        .run(pod.id().clone(), move || take_down(task, stopped))
        .await?)
}

async fn take_down(app: Arc<App>, pod: Arc<Pod>) -> Result<()> {
    if pod.is_released() {
        return Ok(());
    }
    let progress = app
        .operations
        .enter("StopPodSandbox", pod.record.config.name.to_string());
    pod.begin_stop();

    progress.stage("containers");
    match stop_containers(&app, &pod).await {
        Err(error) if error.is_silence() => {
            progress.waiting("supervisor", "a supervisor that hangs to be killed");
            end_supervisor(&app, &pod).await?;
        }
        outcome => outcome?,
    }

    // Nothing of the pod runs now. What is left has nothing to do with each other.
    progress.waiting("network, supervisor, mounts and cgroup", "the pod network");
    let (detached, left, unmounted, removed, cleared) = tokio::join!(
        detach(&app, &pod),
        leave(&app, &pod),
        app.host
            .release_mounts(PodFiles::new(&app.config.state_dir, pod.id())),
        app.remove_cgroup(&pod.record.cgroup),
        app.clear_first_cgroup(&pod),
    );
    detached.and(left).and(unmounted).and(removed).and(cleared)?;

    let now = time::now();
    // A stop that is repeated happened before.
    let since = pod.released(now);
    // Not waited for: that its supervisor is gone says the same to the next daemon.
    let recorded = app.store.pod_phase(pod.id(), PodPhase::NotReady(since));
    if since == now {
        app.events.pod(&pod, Happened::Stopped);
    }
    crate::task::spawn(async move {
        if let Err(error) = recorded.await {
            tracing::error!(pod = %pod.record.config.name, %error, "could not record a stop");
        }
        // The removal of the pod does it again, and tells.
        if let Err(error) = app.remove_supervisor_cgroup(pod.id()).await {
            tracing::warn!(pod = %pod.record.config.name, %error, "the supervisor's cgroup stays for now");
        }
    });
    Ok(())
}

/// Disconnects the pod. Plugins work in a network namespace that is pinned for them, not in the supervisor's.
async fn detach(app: &App, pod: &Pod) -> Result<()> {
    match pod.record.host_network() {
        true => Ok(()),
        false => app.detach(pod.id()).await,
    }
}

async fn stop_containers(app: &Arc<App>, pod: &Arc<Pod>) -> Result<()> {
    let containers = pod.containers();
    let stops = containers
        .iter()
        .map(|container| ops::stop::stop_container(app, pod, container, 0));
    join_all(stops).await.into_iter().collect()
}

/// Lets the supervisor go.
async fn leave(app: &App, pod: &Pod) -> Result<()> {
    let Some(supervisor) = pod.supervisor() else {
        return Ok(());
    };
    match supervisor.shutdown().await {
        Ok(()) | Err(crate::supervisor::Error::Gone) => Ok(()),
        Err(crate::supervisor::Error::Silent) => end_supervisor(app, pod).await,
        Err(error) => Err(error.into()),
    }
}

/// Ends a supervisor that hangs. What runs in the pod has been killed before; how it ended nobody will tell any more, and
/// whoever follows the supervisor settles that once it is gone.
async fn end_supervisor(app: &App, pod: &Pod) -> Result<()> {
    tracing::error!(pod = %pod.record.config.name, "the pod's supervisor does not answer; it is killed");
    app.remove_supervisor_cgroup(pod.id()).await?;
    for container in pod.containers() {
        let mut state = container.watch();
        let settled = state.wait_for(|state| !matches!(state, ContainerState::Running { .. }));
        if tokio::time::timeout(ops::stop::KILLED, settled).await.is_err() {
            return Err(container.refuse("has lost its supervisor and is not settled yet; try again"));
        }
    }
    Ok(())
}
