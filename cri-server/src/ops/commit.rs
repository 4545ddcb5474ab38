//! An image out of a container's changes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri_api::admin::CommitContainerRequest;
use image::{CaptureOptions, Image, Reference};

use crate::app::App;
use crate::container::ContainerRecord;
use crate::{Error, Result};

/// Makes the image. The container may run: what changes meanwhile is taken as it is found.
///
/// # Errors
/// [`Error::NotFound`] for an unknown container, [`Error::Image`] for a malformed name, for a node whose
/// writable layers are full copies, and for what the disk refuses.
pub async fn commit(app: &Arc<App>, request: CommitContainerRequest) -> Result<Image> {
    let (_, container) = app.registry.container(&request.container)?;
    let record = &container.record;
    let _progress = app.operations.enter("CommitContainer", record.id.to_string());
    if request.name.is_empty() {
        return Err(Error::invalid(
            "name",
            "is missing; say what the image is to be called",
        ));
    }
    let name: Reference = request.name.parse().map_err(image::Error::from)?;
    if name.digest().is_some() {
        return Err(Error::invalid(
            "name",
            "must not have a digest: that of an image that is yet to be made is not known",
        ));
    }
    let options = CaptureOptions {
        name,
        author: request.author,
        comment: request.comment,
        mount_points: mount_points(record)?,
    };
    Ok(app.images.capture(record.id.as_str(), options).await?)
}

/// Where the container has mounts, relative to its root.
fn mount_points(record: &ContainerRecord) -> Result<BTreeSet<PathBuf>> {
    let spec = record.spec()?;
    let mounts = spec.mounts().iter().flatten();
    let relative = |path: &Path| path.strip_prefix("/").map(Path::to_owned).ok();
    Ok(mounts.filter_map(|mount| relative(mount.destination())).collect())
}
