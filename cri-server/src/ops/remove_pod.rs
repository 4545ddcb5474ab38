//! RemovePodSandbox.

use std::sync::Arc;

use crate::app::App;
use crate::ops::events::Happened;
use crate::pod::Pod;
use crate::spare::Spares;
use crate::spec::PodFiles;
use crate::{Error, Result, ops};

/// Stops the sandbox if need be and forgets it with all its containers. Succeeds when it does not exist.
///
/// # Errors
/// The first step's error; a repeated call goes on from there.
pub async fn remove(app: &Arc<App>, id: &str) -> Result<()> {
    let pod = match app.registry.pod(id) {
        Ok(pod) => pod,
        Err(Error::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let task = app.clone();
    Ok(app
        .inflight
        .remove_pod
        .run(pod.id().clone(), move || clear(task, pod))
        .await?)
}

async fn clear(app: Arc<App>, pod: Arc<Pod>) -> Result<()> {
    let progress = app
        .operations
        .enter("RemovePodSandbox", pod.record.config.name.to_string());
    progress.stage("stop");
    ops::stop_pod::stop_pod(&app, &pod).await?;
    progress.stage("containers");
    for container in pod.containers() {
        ops::remove::remove_container(&app, &pod, &container).await?;
    }
    progress.stage("files");
    let (cleared, left) = tokio::join!(
        app.host
            .remove_files(PodFiles::new(&app.config.state_dir, pod.id())),
        app.remove_supervisor_cgroup(pod.id()),
    );
    cleared.and(left)?;
    progress.stage("record");
    app.store.remove_pod(pod.id()).await?;
    app.registry.remove_pod(&pod);
    Spares::release_unused(&app);
    app.events.pod(&pod, Happened::Deleted);
    Ok(())
}
