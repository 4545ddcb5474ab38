//! Images that nothing uses.

use std::collections::HashSet;
use std::sync::Arc;

use image::Image;

use crate::Result;
use crate::app::App;

/// Removes images that no container uses: those without a tag, or `all`. Pinned ones stay. With `dry_run`
/// they are only told.
///
/// # Errors
/// [`crate::Error::Image`] of the first that cannot be removed; what was removed before stays so.
pub async fn prune(app: &Arc<App>, all: bool, dry_run: bool) -> Result<Vec<Image>> {
    let _progress = app
        .operations
        .enter("PruneImages", if all { "all" } else { "untagged" });
    let used: HashSet<String> = app
        .registry
        .containers()
        .into_iter()
        .map(|(_, container)| container.record.image_id.clone())
        .collect();
    let idle = |image: &Image| {
        !image.pinned && !used.contains(&image.id.to_string()) && (all || image.repo_tags.is_empty())
    };
    let idle: Vec<Image> = app.images.list().into_iter().filter(idle).collect();
    if !dry_run {
        for image in &idle {
            app.images.remove(&image.id.to_string()).await?;
        }
        app.images.collect_garbage().await?;
    }
    Ok(idle)
}
