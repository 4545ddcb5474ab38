//! Our own service beside CRI's: what `crisp status` and `crisp image` need.

use std::pin::Pin;
use std::sync::Arc;

use cri_api::admin::{self, admin_server, import_image_request::Part};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncWriteExt;
use tokio_util::io::{ReaderStream, StreamReader};
use tonic::{Request, Response, Status, Streaming};

use crate::app::App;
use crate::{convert, ops};

/// Bytes of an archive in one message.
const CHUNK: usize = 1 << 20;

/// The admin service.
pub struct Admin(pub Arc<App>);

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl admin_server::Admin for Admin {
    async fn status(&self, _: Request<admin::StatusRequest>) -> Reply<admin::StatusResponse> {
        let report = ops::report::report(&self.0).await;
        let json = serde_json::to_vec(&report).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(admin::StatusResponse { json }))
    }

    type ImportImageStream = BoxStream<'static, Result<admin::ImportImageResponse, Status>>;

    async fn import_image(
        &self,
        request: Request<Streaming<admin::ImportImageRequest>>,
    ) -> Reply<Self::ImportImageStream> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|message| message.part);
        let Some(Part::Options(options)) = first else {
            return Err(Status::invalid_argument(
                "the first message must hold the options",
            ));
        };
        let bytes = parts.map(|message| match message.map(|m| m.part) {
            Ok(Some(Part::Chunk(chunk))) => Ok(std::io::Cursor::new(chunk)),
            Ok(_) => Err(std::io::Error::from(std::io::ErrorKind::InvalidData)),
            Err(status) => Err(std::io::Error::other(status.message().to_owned())),
        });
        let archive = StreamReader::new(bytes);
        let images = ops::images::import(&self.0, archive, &options.names, options.pin).await?;
        let responses = images.into_iter().map(|image| {
            Ok(admin::ImportImageResponse {
                image_id: image.id.to_string(),
                names: ops::images::names(&image),
            })
        });
        Ok(Response::new(
            futures::stream::iter(responses.collect::<Vec<_>>()).boxed(),
        ))
    }

    type ExportImageStream = BoxStream<'static, Result<admin::ExportImageResponse, Status>>;

    async fn export_image(
        &self,
        request: Request<admin::ExportImageRequest>,
    ) -> Reply<Self::ExportImageStream> {
        let names = request.into_inner().images;
        // Names are checked before the first byte, so that a typing error is an error and not a short archive.
        ops::images::find_all(&self.0, &names)?;
        let (reader, mut writer) = tokio::io::duplex(CHUNK);
        let app = self.0.clone();
        let work = crate::task::spawn(async move {
            ops::images::export(&app, &names, Pin::new(&mut writer)).await?;
            writer
                .shutdown()
                .await
                .map_err(crate::Error::io("write", "archive"))
        });
        // The end of the pipe may be the end of the archive or that of a failed export: the task tells.
        let outcome = futures::stream::once(async move {
            match work.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(Err(Status::from(error))),
                Err(_) => Some(Err(Status::internal("the export crashed; see the daemon's log"))),
            }
        })
        .filter_map(futures::future::ready);
        let chunks = ReaderStream::with_capacity(reader, CHUNK)
            .map_ok(|chunk| admin::ExportImageResponse {
                chunk: chunk.to_vec(),
            })
            .map_err(|error| Status::internal(error.to_string()));
        Ok(Response::new(chunks.chain(outcome).boxed()))
    }

    type PullImageStream = BoxStream<'static, Result<admin::PullImageEvent, Status>>;

    async fn pull_image(&self, request: Request<admin::PullImageRequest>) -> Reply<Self::PullImageStream> {
        let request = request.into_inner();
        let (reference, credentials) = convert::image::target(&request.image, request.login)?;
        Ok(Response::new(ops::pull_watched::pull(
            &self.0,
            reference,
            credentials,
        )))
    }

    async fn tag_image(&self, request: Request<admin::TagImageRequest>) -> Reply<admin::TagImageResponse> {
        let request = request.into_inner();
        let (name, _) = convert::image::target(&request.name, None)?;
        let image = ops::images::tag(&self.0, &request.image, &name).await?;
        Ok(Response::new(admin::TagImageResponse {
            image_id: image.id.to_string(),
            name: name.canonical().to_string(),
        }))
    }

    type PushImageStream = BoxStream<'static, Result<admin::PushImageEvent, Status>>;

    async fn push_image(&self, request: Request<admin::PushImageRequest>) -> Reply<Self::PushImageStream> {
        let request = request.into_inner();
        let destination = if request.destination.is_empty() {
            &request.image
        } else {
            &request.destination
        };
        let (destination, credentials) = convert::image::target(destination, request.login)?;
        ops::images::find_all(&self.0, std::slice::from_ref(&request.image))?;
        Ok(Response::new(ops::push::push(
            &self.0,
            image::PushRequest {
                image: request.image,
                destination,
                credentials,
            },
        )))
    }

    async fn prune_images(
        &self,
        request: Request<admin::PruneImagesRequest>,
    ) -> Reply<admin::PruneImagesResponse> {
        let request = request.into_inner();
        let pruned = ops::prune::prune(&self.0, request.all, request.dry_run).await?;
        let images = pruned.iter().map(|image| admin::PrunedImage {
            image_id: image.id.to_string(),
            names: ops::images::names(image),
            size: image.size,
        });
        Ok(Response::new(admin::PruneImagesResponse {
            images: images.collect(),
        }))
    }

    async fn commit_container(
        &self,
        request: Request<admin::CommitContainerRequest>,
    ) -> Reply<admin::CommitContainerResponse> {
        let image = ops::commit::commit(&self.0, request.into_inner()).await?;
        Ok(Response::new(admin::CommitContainerResponse {
            image_id: image.id.to_string(),
            names: ops::images::names(&image),
        }))
    }
}
