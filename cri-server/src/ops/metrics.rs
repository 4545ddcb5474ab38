//! ListMetricDescriptors and ListPodSandboxMetrics.

use std::sync::Arc;

use cri_api::v1;

use crate::app::App;
use crate::pod::Pod;
use crate::stats::PodSample;
use crate::{Result, metrics, stats};

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
    let own = metrics::of(&metrics::of_pod(pod, &sample));
    let mut containers = Vec::with_capacity(sample.containers.len());
    for (container, sample) in sample.containers {
        let subject = metrics::of_container(app, pod, &container, sample).await?;
        containers.push(v1::ContainerMetrics {
            container_id: container.record.id.to_string(),
            metrics: metrics::of(&subject),
        });
    }
    Ok(v1::PodSandboxMetrics {
        pod_sandbox_id: pod.id().to_string(),
        metrics: own,
        container_metrics: containers,
    })
}
