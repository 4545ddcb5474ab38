//! What a container's volumes need before there is a container: images to show, directories of its own, and sources on
//! the node.

use std::path::PathBuf;
use std::sync::Arc;

use image::config::ProcessDefaults;

use crate::app::App;
use crate::container::{ContainerConfig, ContainerRecord, ImageVolume};
use crate::ids::ContainerId;
use crate::inflight::Progress;
use crate::undo::Undo;
use crate::{Error, Result, spec};

/// An image that one of the mounts shows.
pub struct Shown {
    /// The mount's place among the container's mounts.
    mount: usize,
    /// What its name means now.
    image: image::ImageId,
}

/// Looks up the images that the mounts show, and whether they have what is asked of them.
///
/// # Errors
/// [`Error::ImageVolume`] naming the mount.
pub async fn shown_images(app: &App, config: &ContainerConfig) -> Result<Vec<Shown>> {
    let mut shown = Vec::new();
    for (mount, wanted) in config.mounts.iter().enumerate() {
        let Some(volume) = &wanted.image else { continue };
        let image = find(app, mount, volume).await?;
        shown.push(Shown { mount, image });
    }
    Ok(shown)
}

async fn find(app: &App, mount: usize, volume: &ImageVolume) -> Result<image::ImageId> {
    let refuse = |field: &str, problem: String| {
        Err(Error::ImageVolume {
            field: format!("config.mounts[{mount}].{field}"),
            problem,
        })
    };
    let image = match app.find_image(&volume.image) {
        Ok(Some(image)) => image,
        Ok(None) => {
            return refuse(
                "image",
                format!("{:?} was not pulled; pull it first", volume.image),
            );
        }
        Err(error) => return refuse("image", error.to_string()),
    };
    if volume.sub_path.is_empty() {
        return Ok(image.id);
    }
    match app.images.has_path(&image.id, &volume.sub_path).await {
        Ok(true) => Ok(image.id),
        Ok(false) => refuse(
            "image_sub_path",
            format!("{:?} is not in the image; correct the path", volume.sub_path),
        ),
        Err(error) => refuse("image_sub_path", error.to_string()),
    }
}

/// Holds on to the layers of shown images for as long as the container exists.
///
/// # Errors
/// [`Error::ImageVolume`] when an image has gone meanwhile.
pub async fn hold_images(
    app: &Arc<App>,
    record: &ContainerRecord,
    shown: &[Shown],
    undo: &mut Undo,
) -> Result<()> {
    for Shown { mount, image } in shown {
        let key = ContainerRecord::image_volume_key(&record.id, *mount);
        let (cleanup, gone) = (app.clone(), key.clone());
        undo.push("image volume", async move {
            Ok(cleanup.images.remove_snapshot(&gone).await?)
        });
        app.images
            .prepare(image, &key)
            .await
            .map_err(|error| Error::ImageVolume {
                field: format!("config.mounts[{mount}].image"),
                problem: error.to_string(),
            })?;
    }
    Ok(())
}

/// As the record keeps them.
pub fn ids(shown: &[Shown]) -> std::collections::BTreeMap<usize, String> {
    shown
        .iter()
        .map(|shown| (shown.mount, shown.image.to_string()))
        .collect()
}

/// The volumes that the image declares: where they will be, and at which paths of the container.
///
/// # Errors
/// [`Error::Invalid`] for a path that would cover the kernel's file systems.
pub fn declared(
    app: &App,
    id: &ContainerId,
    image: &ProcessDefaults,
    config: &ContainerConfig,
) -> Result<Vec<(PathBuf, String)>> {
    let paths = spec::declared(image, config)?;
    Ok(paths
        .into_iter()
        .enumerate()
        .map(|(number, path)| (app.images.volume_path(id.as_str(), number), path))
        .collect())
}

/// Makes the sources on the node that are missing. One on a file system that does not answer holds up this container
/// and nobody else, and is seen by its name in the list of operations.
///
/// # Errors
/// [`Error::Io`] naming the path.
pub async fn make_missing_sources(app: &App, record: &ContainerRecord, progress: &Progress) -> Result<()> {
    let of_node = record.config.mounts.iter().filter(|mount| mount.image.is_none());
    for mount in of_node.filter(|mount| !app.host.has_source(&mount.host_path)) {
        progress.waiting("volumes", format!("the file system of {}", mount.host_path));
        app.host.make_missing_source(&mount.host_path).await?;
    }
    Ok(())
}
