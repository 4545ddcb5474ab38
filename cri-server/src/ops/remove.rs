//! RemoveContainer.

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::container::Container;
use crate::ops::events::Happened;
use crate::pod::Pod;
use crate::{Error, Result, ops};

/// So long a log that is still being opened is waited for.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// Stops a container at once and forgets it. Succeeds when it does not exist.
///
/// # Errors
/// The first step's error; a repeated call goes on from there.
pub async fn remove(app: &Arc<App>, id: &str) -> Result<()> {
    match app.registry.container(id) {
        Ok((pod, container)) => remove_container(app, &pod, &container).await,
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// As [`remove`], for a container in hand.
///
/// # Errors
/// As [`remove`].
pub async fn remove_container(app: &Arc<App>, pod: &Arc<Pod>, container: &Arc<Container>) -> Result<()> {
    let (task, pod, gone) = (app.clone(), pod.clone(), container.clone());
    Ok(app
        .inflight
        .remove
        .run(container.record.id.clone(), move || clear(task, pod, gone))
        .await?)
}

async fn clear(app: Arc<App>, pod: Arc<Pod>, container: Arc<Container>) -> Result<()> {
    let id = &container.record.id;
    let progress = app
        .operations
        .enter("RemoveContainer", container.record.config.name.name.clone());
    progress.stage("stop");
    if !container.is_over() {
        ops::stop::stop_container(&app, &pod, &container, 0).await?;
    }
    // Nothing starts of one that has ended: what it leaves goes beside its cgroup, for which its end may still have the turn.
    let turn = match container.is_over() {
        true => None,
        false => Some(container.turn.lock().await),
    };
    if let Some(unused) = container.take_prepared() {
        progress.stage("root and log");
        if let Some(root) = unused.root {
            root.discard().await;
        }
        if let Some(log) = unused.log {
            // So that none appears after the removal; but a disk that does not answer holds up none.
            let _ = tokio::time::timeout(LOG_PATIENCE, log.discard()).await;
        }
    }
    progress.stage("supervisor and writable layer");
    let wire_id = container.record.wire_id()?;
    let forget = async {
        if let Some(supervisor) = pod.supervisor() {
            // One that is gone has forgotten it; one that cannot be asked now remembers a code until it leaves.
            let _ = supervisor.forget(wire_id.clone()).await;
        }
    };
    let ((), layers, bundle) = tokio::join!(
        forget,
        app.remove_layers(&container.record),
        crate::hooks::remove_bundle(&app.config.state_dir, &container),
    );
    progress.stage("cgroup");
    let _turn = match turn {
        Some(turn) => turn,
        None => container.turn.lock().await,
    };
    let cgroup = app.clear_cgroup(&container).await.await;
    layers.and(bundle).and(cgroup)?;
    progress.stage("record");
    app.store.remove_container(id).await?;
    app.exits
        .remove(&wire_id)
        .map_err(Error::io("unlink", "exit record"))?;
    app.registry.remove_container(&pod, id);
    app.events.container(&pod, &container, Happened::Deleted);
    Ok(())
}
