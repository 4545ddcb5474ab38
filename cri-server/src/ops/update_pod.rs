//! UpdatePodSandboxResources.

use std::sync::Arc;

use cri_api::v1;

use crate::app::App;
use crate::pod::{Pod, PodLimits};
use crate::spec::resources::limits;
use crate::{Result, convert};

/// Records what a pod may use in all. Kubelet itself writes the limits of the pod's cgroup, which is its own; the
/// record is for those who ask what the pod was given.
///
/// # Errors
/// [`crate::Error::Invalid`] naming the limit that cannot be, [`crate::Error::State`] when the pod is not ready.
pub async fn update(app: &Arc<App>, request: v1::UpdatePodSandboxResourcesRequest) -> Result<()> {
    let pod = app.registry.pod(&request.pod_sandbox_id)?;
    let change = PodLimits {
        overhead: request.overhead.as_ref().map(convert::resources),
        resources: request.resources.as_ref().map(convert::resources),
    };
    for given in [&change.overhead, &change.resources].into_iter().flatten() {
        limits(given)?;
    }
    let key = (pod.id().clone(), change.clone());
    let task = app.clone();
    Ok(app
        .inflight
        .update_pod
        .run(key, move || change_limits(task, pod, change))
        .await?)
}

/// One change at a time: each begins with what the one before has recorded.
async fn change_limits(app: Arc<App>, pod: Arc<Pod>, change: PodLimits) -> Result<()> {
    let name = pod.record.config.name.name.clone();
    let progress = app.operations.enter("UpdatePodSandboxResources", name);
    progress.stage("turn");
    let _turn = pod.limits_turn.lock().await;
    let new = pod.limits().changed(change);
    pod.ready()?;
    progress.stage("record");
    app.store.update_pod(pod.id(), &new).await?;
    pod.set_limits(new);
    Ok(())
}
