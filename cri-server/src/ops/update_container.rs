//! UpdateContainerResources.

use std::sync::Arc;

use cri_api::v1;

use crate::app::App;
use crate::container::{Container, ContainerState, Resources};
use crate::spec::resources::limits;
use crate::{Result, convert};

/// Changes a container's limits: at once where it runs, at its start where it does not yet.
///
/// # Errors
/// [`crate::Error::Invalid`] and [`crate::Error::Cgroup`] naming the limit that cannot be, [`crate::Error::State`] when it has exited. All
/// limits are then as they were.
pub async fn update(app: &Arc<App>, request: v1::UpdateContainerResourcesRequest) -> Result<()> {
    let (_, container) = app.registry.container(&request.container_id)?;
    let wire = request.linux.unwrap_or_default();
    let change = convert::resources(&wire);
    let key = (container.record.id.clone(), change.clone());
    let task = app.clone();
    Ok(app
        .inflight
        .update
        .run(key, move || change_limits(task, container, change))
        .await?)
}

async fn change_limits(app: Arc<App>, container: Arc<Container>, change: Resources) -> Result<()> {
    let progress = app.operations.enter(
        "UpdateContainerResources",
        container.record.config.name.name.clone(),
    );
    progress.stage("turn");
    // Neither a start nor a removal comes in between.
    let _turn = container.turn.lock().await;
    let old = container.resources();
    let new = old.changed(&change);
    let checked = limits(&new)?;
    let running = match container.state() {
        ContainerState::Created => false,
        ContainerState::Running { .. } => true,
        ContainerState::Exited { .. } => {
            return Err(container.refuse("has exited; it has no limits to change"));
        }
    };
    let cgroup = &container.record.cgroup;
    if running {
        progress.stage("cgroup");
        app.update_cgroup(cgroup, checked).await?;
    }
    progress.stage("record");
    if let Err(error) = app.store.update_container(&container.record.id, &new).await {
        if running && let Err(error) = undo(&app, cgroup, &old).await {
            tracing::warn!(step = "cgroup", %error, "could not undo");
        }
        return Err(error.into());
    }
    container.set_resources(new);
    Ok(())
}

/// What was not limited before is unlimited again as far as the kernel has a word for it.
async fn undo(app: &Arc<App>, cgroup: &str, old: &Resources) -> Result<()> {
    let or_unlimited = |value: i64| if value == 0 { -1 } else { value };
    let old = Resources {
        memory_limit: or_unlimited(old.memory_limit),
        memory_swap_limit: or_unlimited(old.memory_swap_limit),
        cpu_quota: or_unlimited(old.cpu_quota),
        ..old.clone()
    };
    app.update_cgroup(cgroup, limits(&old)?).await
}
