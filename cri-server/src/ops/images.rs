//! The image calls, and import and export.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use cri_api::v1;
use image::{Image, ImportOptions, PullRequest, Reference};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::app::App;
use crate::{Error, Result, convert, time};

/// ListImages.
pub fn list(app: &Arc<App>, filter: Option<&v1::ImageFilter>) -> Vec<v1::Image> {
    let wanted = filter
        .and_then(|f| f.image.as_ref())
        .map(|i| i.image.as_str())
        .filter(|i| !i.is_empty());
    let images = match wanted {
        // A filter that names no image, or nothing at all, matches none.
        Some(name) => app.images.resolve(name).into_iter().collect(),
        None => app.images.list(),
    };
    images.iter().map(convert::image::listed).collect()
}

fn named<'a>(field: &str, image: Option<&'a v1::ImageSpec>) -> Result<&'a str> {
    match image.map(|i| i.image.as_str()) {
        Some(name) if !name.is_empty() => Ok(name),
        _ => Err(Error::invalid(field, "is missing; name an image")),
    }
}

/// ImageStatus: an image that is not there is no error.
///
/// # Errors
/// [`Error::Invalid`] without a name, [`Error::Image`] for a name that is none.
pub fn status(app: &Arc<App>, request: &v1::ImageStatusRequest) -> Result<v1::ImageStatusResponse> {
    let name = named("image.image", request.image.as_ref())?;
    let Some(image) = app.find_image(name)? else {
        return Ok(v1::ImageStatusResponse::default());
    };
    Ok(v1::ImageStatusResponse {
        image: Some(convert::image::listed(&image)),
        info: if request.verbose {
            info(&image)
        } else {
            BTreeMap::new()
        },
    })
}

/// What agents on the node read: configuration and manifest as they came, and the chain of the layers.
fn info(image: &Image) -> BTreeMap<String, String> {
    // Both were parsed before they were stored; an import may have no manifest.
    let document = |json: &[u8]| serde_json::from_slice::<serde_json::Value>(json).unwrap_or_default();
    let manifest = document(&image.manifest_json);
    let info = json!({
        "chainID": image.chain.last().map(ToString::to_string),
        "chainIDs": image.chain.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "imageSpec": document(&image.config_json),
        "layers": manifest.get("layers"),
        "manifest": manifest,
    });
    [("info".to_owned(), info.to_string())].into()
}

/// PullImage: the id of the image that the name means now.
///
/// # Errors
/// [`Error::Image`].
pub async fn pull(app: &Arc<App>, request: v1::PullImageRequest) -> Result<String> {
    let name = named("image.image", request.image.as_ref())?;
    let progress = app.operations.enter("PullImage", name);
    progress.waiting("pull", "the registry");
    let reference: Reference = name.parse().map_err(image::Error::from)?;
    let credentials = convert::image::credentials(request.auth, reference.registry())?;
    app.reread_registries().await;
    let image = app
        .images
        .pull(PullRequest {
            reference,
            credentials,
        })
        .await?;
    Ok(image.id.to_string())
}

/// RemoveImage: by a name that name goes; by id all names, and the image with them.
///
/// # Errors
/// [`Error::Image`]; one that is not there is gone already.
pub async fn remove(app: &Arc<App>, request: &v1::RemoveImageRequest) -> Result<()> {
    let name = named("image.image", request.image.as_ref())?;
    let _progress = app.operations.enter("RemoveImage", name);
    app.images.remove(name).await?;
    Ok(())
}

/// ImageFsInfo: what images and containers really take on disk.
///
/// # Errors
/// [`Error::Image`].
pub async fn usage(app: &Arc<App>) -> Result<v1::ImageFsInfoResponse> {
    let usage = app.images.usage().await?;
    let timestamp = time::now();
    let filesystem = |used: &image::DiskUsage, path: &std::path::Path| v1::FilesystemUsage {
        timestamp,
        fs_id: Some(v1::FilesystemIdentifier {
            mountpoint: path.display().to_string(),
        }),
        used_bytes: Some(v1::UInt64Value { value: used.bytes }),
        inodes_used: Some(v1::UInt64Value { value: used.inodes }),
    };
    Ok(v1::ImageFsInfoResponse {
        image_filesystems: vec![filesystem(&usage.images, &usage.images_path)],
        container_filesystems: vec![filesystem(&usage.containers, &usage.containers_path)],
    })
}

/// All references of an image.
pub fn names(image: &Image) -> Vec<String> {
    image
        .repo_tags
        .iter()
        .chain(&image.repo_digests)
        .cloned()
        .collect()
}

/// Gives an image a further name.
///
/// # Errors
/// [`Error::NotFound`] when there is no such image, [`Error::Image`] when the records refuse.
pub async fn tag(app: &Arc<App>, image: &str, name: &Reference) -> Result<Image> {
    let _progress = app.operations.enter("TagImage", name.to_string());
    app.image(image)?;
    Ok(app.images.tag(image, name).await?)
}

/// Takes in an archive.
///
/// # Errors
/// [`Error::Image`].
pub async fn import(
    app: &Arc<App>,
    archive: impl AsyncRead + Send + Unpin + 'static,
    names: &[String],
    pin: bool,
) -> Result<Vec<Image>> {
    let progress = app.operations.enter("ImportImage", names.join(" "));
    progress.waiting("archive", "the client");
    let names = names
        .iter()
        .map(|n| n.parse())
        .collect::<std::result::Result<_, _>>()
        .map_err(image::Error::from)?;
    Ok(app.images.import(archive, ImportOptions { names, pin }).await?)
}

/// All images of those names.
///
/// # Errors
/// [`Error::NotFound`] for the first that is not there; [`Error::Invalid`] for an empty list.
pub fn find_all(app: &Arc<App>, names: &[String]) -> Result<Vec<Image>> {
    if names.is_empty() {
        return Err(Error::invalid("images", "is empty; name at least one image"));
    }
    names.iter().map(|name| app.image(name)).collect()
}

/// Writes images as an archive.
///
/// # Errors
/// [`Error::Image`].
pub async fn export(
    app: &Arc<App>,
    names: &[String],
    writer: Pin<&mut (impl AsyncWrite + Send)>,
) -> Result<()> {
    let _progress = app.operations.enter("ExportImage", names.join(" "));
    Ok(app.images.export(names, writer).await?)
}
