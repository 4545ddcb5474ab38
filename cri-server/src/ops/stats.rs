//! ContainerStats, PodSandboxStats and their listings.

use std::sync::Arc;

use cri_api::v1;

use crate::app::App;
use crate::container::ContainerState;
use crate::{Result, convert, stats};

fn layers(app: &App) -> String {
    app.images.containers_path().display().to_string()
}

/// ContainerStats. A container that does not run has only its writable layer.
///
/// # Errors
/// [`crate::Error::NotFound`].
pub async fn container(app: &Arc<App>, id: &str) -> Result<v1::ContainerStats> {
    let (_, container) = app.registry.container(id)?;
    let sample = stats::of_container(app, &container).await?;
    Ok(convert::stats::container(&container, &sample, &layers(app)))
}

/// ListContainerStats: of those that run.
///
/// # Errors
/// [`crate::Error::Cgroup`] for a damaged record.
pub async fn containers(
    app: &Arc<App>,
    filter: Option<&v1::ContainerStatsFilter>,
) -> Result<Vec<v1::ContainerStats>> {
    let running: Vec<_> = app
        .registry
        .containers()
        .into_iter()
        .map(|(_, container)| container)
        .filter(|container| matches!(container.state(), ContainerState::Running { .. }))
        .filter(|container| convert::stats::matches_container(filter, container))
        .collect();
    let samples = stats::of_containers(app, running.clone()).await?;
    let layers = layers(app);
    let both = running.iter().zip(&samples);
    Ok(both
        .map(|(container, sample)| convert::stats::container(container, sample, &layers))
        .collect())
}

/// PodSandboxStats.
///
/// # Errors
/// [`crate::Error::NotFound`].
pub async fn pod(app: &Arc<App>, id: &str) -> Result<v1::PodSandboxStats> {
    let pod = app.registry.pod(id)?;
    let sample = stats::of_pod(app, &pod).await?;
    Ok(convert::stats::pod(&pod, &sample, &layers(app)))
}

/// ListPodSandboxStats: of those that are ready.
///
/// # Errors
/// [`crate::Error::Cgroup`] for a damaged record.
pub async fn pods(
    app: &Arc<App>,
    filter: Option<&v1::PodSandboxStatsFilter>,
) -> Result<Vec<v1::PodSandboxStats>> {
    let mut ready = app.registry.pods();
    ready.retain(|pod| pod.is_ready() && convert::stats::matches_pod(filter, pod));
    let samples = stats::of_pods(app, &ready).await?;
    let layers = layers(app);
    let both = ready.iter().zip(&samples);
    Ok(both
        .map(|(pod, sample)| convert::stats::pod(pod, sample, &layers))
        .collect())
}
