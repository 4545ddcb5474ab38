//! The end of a container, told by its supervisor, and the end of a supervisor.

use std::sync::Arc;

use runtime::protocol::{Exited, LogFault};

use crate::Result;
use crate::app::App;
use crate::container::{Container, ContainerState, Exit};
use crate::hooks::{self, Moment};
use crate::ops::events::Happened;
use crate::pod::{Pod, PodPhase};
use crate::reunion;
use crate::supervisor::{Notice, Notices};
use crate::time::{Nanos, now};

/// Follows a pod's supervisor until the connection ends.
pub fn watch(app: &Arc<App>, pod: &Arc<Pod>, mut notices: Notices) {
    let (app, pod) = (app.clone(), pod.clone());
    crate::task::spawn(async move {
        while let Some(notice) = notices.recv().await {
            let outcome = match notice {
                Notice::Exited(exited) => on_exit(&app, &pod, &exited).await,
                Notice::LogFault(fault) => {
                    report(&pod, &fault);
                    Ok(())
                }
                Notice::Gone => reunion::again(&app, &pod).await,
            };
            if let Err(error) = outcome {
                tracing::error!(pod = %pod.record.config.name, %error, "could not record an exit");
            }
        }
    });
}

async fn on_exit(app: &Arc<App>, pod: &Arc<Pod>, exited: &Exited) -> Result<()> {
    let Ok((_, container)) = app.registry.container(exited.target.container.as_str()) else {
        return Ok(());
    };
    // The start that is told of its success at this moment records it first.
    let _turn = container.turn.lock().await;
    let state = ContainerState::Created.started(exited.process.pid, exited.process.started_at.0);
    container.transition(|now| {
        if now == ContainerState::Created {
            state
        } else {
            now
        }
    });
    let exit = Exit::of_process(exited.status.code, exited.status.oom_killed);
    finish(app, pod, &container, exit, exited.status.finished_at.0).await
}

/// Records an end, then publishes it; meanwhile its cgroup goes, in which nothing runs any more.
///
/// # Errors
/// Those of the record store; the container's state is left as it was then, and its exit record
/// tells the next daemon.
pub async fn finish(
    app: &Arc<App>,
    pod: &Arc<Pod>,
    container: &Arc<Container>,
    exit: Exit,
    finished_at: Nanos,
) -> Result<()> {
    let record = &container.record;
    let over = container.state().exited(exit, finished_at);
    let cleared = app.clear_cgroup(container).await;
    app.store.container_state(&record.id, &over).await?;
    let mut first = false;
    let state = container.transition(|now| {
        first = !matches!(now, ContainerState::Exited { .. });
        over
    });
    let ContainerState::Exited { exit, .. } = state else {
        return Ok(());
    };
    if first {
        app.events.container(pod, container, Happened::Stopped);
        tracing::info!(
            pod = %pod.record.config.name,
            container = record.config.name.name,
            code = exit.code,
            reason = exit.reason.as_str(),
            "container ended"
        );
        hooks::run(&app.config.state_dir, container, Moment::Stopped).await;
    }
    // What is left of it is removed with the container.
    if let Err(error) = cleared.await {
        tracing::warn!(cgroup = record.cgroup, %error, "cgroup of an ended container stays until its removal");
    }
    Ok(())
}

fn report(pod: &Pod, fault: &LogFault) {
    let error = std::io::Error::from_raw_os_error(fault.errno);
    tracing::warn!(
        pod = %pod.record.config.name,
        container = fault.container.as_str(),
        %error,
        "log cannot be written; the container's output waits until it can"
    );
}

/// Ends whatever runs in a pod that lost its supervisor, and marks it NotReady.
///
/// # Errors
/// Those of the record store.
pub async fn lose(app: &Arc<App>, pod: &Arc<Pod>, why: &'static str) -> Result<()> {
    // First of all, so that nothing new starts in it.
    let since = pod.stopped(now());
    app.store.pod_phase(pod.id(), PodPhase::NotReady(since)).await?;
    for container in pod.containers() {
        let state = container.state();
        if !matches!(state, ContainerState::Exited { .. }) {
            // Also of one whose start was not recorded any more.
            app.kill_cgroup(&container.record.cgroup).await?;
        }
        if matches!(state, ContainerState::Running { .. }) {
            let (exit, finished_at) = last_words(app, &container).unwrap_or_else(|| (Exit::lost(why), now()));
            finish(app, pod, &container, exit, finished_at).await?;
        }
    }
    app.events.pod(pod, Happened::Stopped);
    Ok(())
}

/// The exit record that a supervisor may have written before it was gone.
pub fn last_words(app: &App, container: &Container) -> Option<(Exit, Nanos)> {
    let record = app.exits.read(&container.record.wire_id().ok()?).ok()??;
    if record.boot_id != app.boot_id {
        return None;
    }
    let exit = Exit::of_process(record.status.code, record.status.oom_killed);
    Some((exit, record.status.finished_at.0))
}
