//! CRI's RuntimeService.

use cri_api::v1::{self, runtime_service_server::RuntimeService};
use futures::stream::{BoxStream, StreamExt};
use tonic::{Request, Response, Status};

use super::{Runtime, listing};
use crate::ops;

type Reply<T> = Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, Result<T, Status>>;

/// Answers for a call that this version does not have, by name.
fn absent<T>(call: &str) -> Reply<T> {
    Err(Status::unimplemented(format!(
        "{call} is not implemented by this version of crisp"
    )))
}

/// A listing as a stream: each message holds as many items as fit well below a client's limit.
fn in_pieces<T, M>(mut items: Vec<T>, message: impl Fn(Vec<T>) -> M + Send + 'static) -> Response<Stream<M>>
where
    T: Send + 'static,
    M: Send + 'static,
{
    const PIECE: usize = 100;
    let pieces = std::iter::from_fn(move || {
        let rest = items.split_off(items.len().min(PIECE));
        let piece = std::mem::replace(&mut items, rest);
        (!piece.is_empty()).then(|| Ok(message(piece)))
    });
    Response::new(Box::pin(futures::stream::iter(pieces)))
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Reply<v1::VersionResponse> {
        Ok(Response::new(ops::status::version()))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Reply<v1::StatusResponse> {
        Ok(Response::new(
            ops::status::status(&self.0, request.into_inner().verbose).await,
        ))
    }

    async fn runtime_config(&self, _: Request<v1::RuntimeConfigRequest>) -> Reply<v1::RuntimeConfigResponse> {
        Ok(Response::new(ops::status::runtime_config(&self.0)))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Reply<v1::RunPodSandboxResponse> {
        let pod_sandbox_id = ops::run_pod::run(&self.0, request.into_inner())
            .await?
            .to_string();
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Reply<v1::StopPodSandboxResponse> {
        ops::stop_pod::stop(&self.0, &request.into_inner().pod_sandbox_id).await?;
        Ok(Response::new(v1::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Reply<v1::RemovePodSandboxResponse> {
        ops::remove_pod::remove(&self.0, &request.into_inner().pod_sandbox_id).await?;
        Ok(Response::new(v1::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Reply<v1::PodSandboxStatusResponse> {
        Ok(Response::new(ops::inspect::pod(&self.0, &request.into_inner())?))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Reply<v1::ListPodSandboxResponse> {
        let items = ops::inspect::pods(&self.0, request.into_inner().filter.as_ref());
        Ok(Response::new(v1::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Reply<v1::CreateContainerResponse> {
        let container_id = ops::create::create(&self.0, request.into_inner())
            .await?
            .to_string();
        Ok(Response::new(v1::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Reply<v1::StartContainerResponse> {
        ops::start::start(&self.0, &request.into_inner().container_id).await?;
        Ok(Response::new(v1::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Reply<v1::StopContainerResponse> {
        let request = request.into_inner();
        ops::stop::stop(&self.0, &request.container_id, request.timeout).await?;
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Reply<v1::RemoveContainerResponse> {
        ops::remove::remove(&self.0, &request.into_inner().container_id).await?;
        Ok(Response::new(v1::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Reply<v1::ListContainersResponse> {
        let containers = ops::inspect::containers(&self.0, request.into_inner().filter.as_ref());
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Reply<v1::ContainerStatusResponse> {
        Ok(Response::new(ops::inspect::container(
            &self.0,
            &request.into_inner(),
        )?))
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Reply<v1::ReopenContainerLogResponse> {
        ops::reopen_log::reopen(&self.0, &request.into_inner().container_id).await?;
        Ok(Response::new(v1::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Reply<v1::ExecSyncResponse> {
        Ok(Response::new(
            ops::exec_sync::exec(&self.0, request.into_inner()).await?,
        ))
    }

    // What follows comes with later versions.

    type StreamPodSandboxesStream = Stream<v1::StreamPodSandboxesResponse>;
    type StreamContainersStream = Stream<v1::StreamContainersResponse>;
    type StreamContainerStatsStream = Stream<v1::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Stream<v1::StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Stream<v1::StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = Stream<v1::ContainerEventResponse>;

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Reply<v1::UpdateRuntimeConfigResponse> {
        ops::update_config::update(&self.0, request.into_inner().runtime_config).await?;
        Ok(Response::new(v1::UpdateRuntimeConfigResponse {}))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Reply<Self::StreamPodSandboxesStream> {
        let items = ops::inspect::pods(&self.0, request.into_inner().filter.as_ref());
        let wrap = |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes };
        Ok(Response::new(listing::stream(items, wrap)))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Reply<v1::UpdatePodSandboxResourcesResponse> {
        ops::update_pod::update(&self.0, request.into_inner()).await?;
        Ok(Response::new(v1::UpdatePodSandboxResourcesResponse {}))
    }

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Reply<Self::StreamContainersStream> {
        let items = ops::inspect::containers(&self.0, request.into_inner().filter.as_ref());
        let wrap = |containers| v1::StreamContainersResponse { containers };
        Ok(Response::new(listing::stream(items, wrap)))
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Reply<v1::UpdateContainerResourcesResponse> {
        ops::update_container::update(&self.0, request.into_inner()).await?;
        Ok(Response::new(v1::UpdateContainerResourcesResponse {}))
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Reply<v1::ExecResponse> {
        Ok(Response::new(ops::exec::exec(&self.0, request.into_inner())?))
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Reply<v1::AttachResponse> {
        Ok(Response::new(ops::attach::attach(&self.0, request.get_ref())?))
    }

    async fn port_forward(&self, request: Request<v1::PortForwardRequest>) -> Reply<v1::PortForwardResponse> {
        Ok(Response::new(ops::port_forward::port_forward(
            &self.0,
            request.get_ref(),
        )?))
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Reply<v1::ContainerStatsResponse> {
        let stats = ops::stats::container(&self.0, &request.into_inner().container_id).await?;
        Ok(Response::new(v1::ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Reply<v1::ListContainerStatsResponse> {
        let stats = ops::stats::containers(&self.0, request.into_inner().filter.as_ref()).await?;
        Ok(Response::new(v1::ListContainerStatsResponse { stats }))
    }

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Reply<Self::StreamContainerStatsStream> {
        let stats = ops::stats::containers(&self.0, request.into_inner().filter.as_ref()).await?;
        Ok(in_pieces(stats, |container_stats| {
            v1::StreamContainerStatsResponse { container_stats }
        }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Reply<v1::PodSandboxStatsResponse> {
        let stats = ops::stats::pod(&self.0, &request.into_inner().pod_sandbox_id).await?;
        Ok(Response::new(v1::PodSandboxStatsResponse { stats: Some(stats) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Reply<v1::ListPodSandboxStatsResponse> {
        let stats = ops::stats::pods(&self.0, request.into_inner().filter.as_ref()).await?;
        Ok(Response::new(v1::ListPodSandboxStatsResponse { stats }))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Reply<Self::StreamPodSandboxStatsStream> {
        let stats = ops::stats::pods(&self.0, request.into_inner().filter.as_ref()).await?;
        Ok(in_pieces(stats, |pod_sandbox_stats| {
            v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }
        }))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Reply<v1::ListMetricDescriptorsResponse> {
        let descriptors = crate::metrics::descriptors();
        Ok(Response::new(v1::ListMetricDescriptorsResponse { descriptors }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Reply<v1::ListPodSandboxMetricsResponse> {
        let pod_metrics = ops::metrics::pods(&self.0).await?;
        Ok(Response::new(v1::ListPodSandboxMetricsResponse { pod_metrics }))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Reply<Self::StreamPodSandboxMetricsStream> {
        let metrics = ops::metrics::pods(&self.0).await?;
        Ok(in_pieces(metrics, |pod_sandbox_metrics| {
            v1::StreamPodSandboxMetricsResponse { pod_sandbox_metrics }
        }))
    }

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Reply<Self::GetContainerEventsStream> {
        let events = self.0.events.subscribe();
        Ok(Response::new(events.map(|event| Ok(event?)).boxed()))
    }

    async fn checkpoint_container(
        &self,
        _: Request<v1::CheckpointContainerRequest>,
    ) -> Reply<v1::CheckpointContainerResponse> {
        absent("CheckpointContainer")
    }

    async fn checkpoint_pod(&self, _: Request<v1::CheckpointPodRequest>) -> Reply<v1::CheckpointPodResponse> {
        absent("CheckpointPod")
    }

    async fn restore_pod(&self, _: Request<v1::RestorePodRequest>) -> Reply<v1::RestorePodResponse> {
        absent("RestorePod")
    }
}
