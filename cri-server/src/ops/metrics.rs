//! ListMetricDescriptors and ListPodSandboxMetrics.

use std::sync::Arc;

use cri_api::v1;

use crate::app::App;
use crate::pod::Pod;
use crate::stats::PodSample;
use crate::{Error, Result, metrics, stats};

/// ListPodSandboxMetrics: of ready pods and their running containers.
///
/// # Errors
/// [`crate::Error::Cgroup`] for a damaged record, [`crate::Error::Io`] when the store's file system is gone.
pub async fn pods(app: &Arc<App>) -> Result<Vec<v1::PodSandboxMetrics>> {
    let mut ready = app.registry.pods();
    ready.retain(|pod| pod.is_ready());
    let samples = stats::of_pods(app, &ready).await?;
    let both = ready.iter().zip(samples);
    futures::future::try_join_all(both.map(|(pod, sample)| of_pod(app, pod, sample))).await
}

async fn of_pod(app: &Arc<App>, pod: &Pod, sample: PodSample) -> Result<v1::PodSandboxMetrics> {
    let own = metrics::of_pod(pod, &sample);
    let mut containers = Vec::with_capacity(sample.containers.len());
    for (container, sample) in sample.containers {
        let subject = metrics::of_container(app, pod, &container, sample).await?;
        containers.push((container.record.id.to_string(), subject));
    }
    let pod_sandbox_id = pod.id().to_string();
    // Names of devices are looked up in sysfs on the way.
    let read = tokio::task::spawn_blocking(move || v1::PodSandboxMetrics {
        pod_sandbox_id,
        metrics: metrics::of(&own),
        container_metrics: containers
            .into_iter()
            .map(|(container_id, subject)| v1::ContainerMetrics {
                container_id,
                metrics: metrics::of(&subject),
            })
            .collect(),
    });
    read.await.map_err(|_| Error::Crashed)
}
