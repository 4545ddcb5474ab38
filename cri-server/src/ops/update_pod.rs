//! UpdatePodSandboxResources.

use std::sync::Arc;

use cri_api::v1;

use crate::app::App;
use crate::pod::PodLimits;
use crate::spec::resources::limits;
use crate::{Result, convert};

/// Records what a pod may use in all. Kubelet itself writes the limits of the pod's cgroup, which is its own; the
/// record is for those who ask what the pod was given.
///
/// # Errors
/// [`crate::Error::Invalid`] naming the limit that cannot be, [`crate::Error::State`] when the pod is not ready.
pub async fn update(app: &Arc<App>, request: v1::UpdatePodSandboxResourcesRequest) -> Result<()> {
    let pod = app.registry.pod(&request.pod_sandbox_id)?;
    let old = pod.limits();
    let new = PodLimits {
        overhead: request.overhead.as_ref().map(convert::resources).or(old.overhead),
        resources: request
            .resources
            .as_ref()
            .map(convert::resources)
            .or(old.resources),
    };
    for given in [&new.overhead, &new.resources].into_iter().flatten() {
        limits(given)?;
    }
    pod.ready()?;
    app.store.update_pod(pod.id(), &new).await?;
    pod.set_limits(new);
    Ok(())
}
