//! CRI's ImageService.

use cri_api::v1::{self, image_service_server::ImageService};
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::{Images, listing};
use crate::ops;

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for Images {
    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Reply<v1::ListImagesResponse> {
        let images = ops::images::list(&self.0, request.into_inner().filter.as_ref());
        Ok(Response::new(v1::ListImagesResponse { images }))
    }

    async fn image_status(&self, request: Request<v1::ImageStatusRequest>) -> Reply<v1::ImageStatusResponse> {
        Ok(Response::new(ops::images::status(
            &self.0,
            &request.into_inner(),
        )?))
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Reply<v1::PullImageResponse> {
        let image_ref = ops::images::pull(&self.0, request.into_inner()).await?;
        Ok(Response::new(v1::PullImageResponse { image_ref }))
    }

    async fn remove_image(&self, request: Request<v1::RemoveImageRequest>) -> Reply<v1::RemoveImageResponse> {
        ops::images::remove(&self.0, &request.into_inner()).await?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<v1::ImageFsInfoRequest>) -> Reply<v1::ImageFsInfoResponse> {
        Ok(Response::new(ops::images::usage(&self.0).await?))
    }

    type StreamImagesStream = BoxStream<'static, Result<v1::StreamImagesResponse, Status>>;

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Reply<Self::StreamImagesStream> {
        let items = ops::images::list(&self.0, request.into_inner().filter.as_ref());
        let wrap = |images| v1::StreamImagesResponse { images };
        Ok(Response::new(listing::stream(items, wrap)))
    }
}
