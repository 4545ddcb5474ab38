//! The CRI as a client sees it: `k8s-cri`'s generated stubs over a unix socket.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use k8s_cri::v1::{
    self as cri, ContainerConfig, ContainerState, ContainerStatus, ExecSyncResponse, ImageSpec,
    PodSandboxConfig, PodSandboxStatus, image_service_client::ImageServiceClient,
    runtime_service_client::RuntimeServiceClient,
};
use serde_json::Value;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};

/// What kubelet accepts in one message.
const MESSAGE_LIMIT: usize = 64 << 20;

/// A connection to the runtime. Clones share it.
#[derive(Clone)]
pub struct Client {
    /// The runtime service, for calls that have no short form here.
    pub runtime: RuntimeServiceClient<Channel>,
    /// The image service, likewise.
    pub images: ImageServiceClient<Channel>,
}

impl Client {
    /// Connects to the socket.
    ///
    /// # Errors
    /// When nothing listens there.
    ///
    /// # Panics
    /// Never: the address is a placeholder that always parses.
    pub async fn connect(socket: &Path) -> Result<Self, tonic::transport::Error> {
        let socket: PathBuf = socket.to_owned();
        let channel = Endpoint::from_static("http://crisp")
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(MESSAGE_LIMIT),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT),
        })
    }

    /// RunPodSandbox with the default handler; the pod's id.
    ///
    /// # Errors
    /// What the runtime answers, as for every call below.
    pub async fn run_pod(&self, pod: &PodSandboxConfig) -> Result<String, Status> {
        let request = cri::RunPodSandboxRequest {
            config: Some(pod.clone()),
            ..Default::default()
        };
        Ok(self
            .runtime
            .clone()
            .run_pod_sandbox(request)
            .await?
            .into_inner()
            .pod_sandbox_id)
    }

    /// StopPodSandbox.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    pub async fn stop_pod(&self, id: &str) -> Result<(), Status> {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.runtime.clone().stop_pod_sandbox(request).await.map(drop)
    }

    /// RemovePodSandbox.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    pub async fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.runtime.clone().remove_pod_sandbox(request).await.map(drop)
    }

    /// PodSandboxStatus, not verbose.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    ///
    /// # Panics
    /// When the answer has no status.
    pub async fn pod_status(&self, id: &str) -> Result<PodSandboxStatus, Status> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let answer = self
            .runtime
            .clone()
            .pod_sandbox_status(request)
            .await?
            .into_inner();
        Ok(answer.status.expect("an answer without error has a status"))
    }

    /// All pods.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    pub async fn pods(&self) -> Result<Vec<cri::PodSandbox>, Status> {
        Ok(self
            .runtime
            .clone()
            .list_pod_sandbox(cri::ListPodSandboxRequest::default())
            .await?
            .into_inner()
            .items)
    }

    /// CreateContainer; the container's id.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    pub async fn create(
        &self,
        pod_id: &str,
        pod: &PodSandboxConfig,
        container: &ContainerConfig,
    ) -> Result<String, Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod_id.to_owned(),
            config: Some(container.clone()),
            sandbox_config: Some(pod.clone()),
        };
        Ok(self
            .runtime
            .clone()
            .create_container(request)
            .await?
            .into_inner()
            .container_id)
    }

    /// StartContainer.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    pub async fn start(&self, id: &str) -> Result<(), Status> {
        let request = cri::StartContainerRequest {
            container_id: id.to_owned(),
        };
        self.runtime.clone().start_container(request).await.map(drop)
    }

    /// StopContainer with a grace in seconds.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    pub async fn stop(&self, id: &str, grace: i64) -> Result<(), Status> {
        let request = cri::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: grace,
        };
        self.runtime.clone().stop_container(request).await.map(drop)
    }

    /// RemoveContainer.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    pub async fn remove(&self, id: &str) -> Result<(), Status> {
        let request = cri::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        self.runtime.clone().remove_container(request).await.map(drop)
    }

    /// ContainerStatus, not verbose.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    ///
    /// # Panics
    /// When the answer has no status.
    pub async fn container_status(&self, id: &str) -> Result<ContainerStatus, Status> {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let answer = self.runtime.clone().container_status(request).await?.into_inner();
        Ok(answer.status.expect("an answer without error has a status"))
    }

    /// The JSON a container's verbose status carries under `info`.
    ///
    /// # Panics
    /// When there is none, or it is no JSON.
    pub async fn container_info(&self, id: &str) -> Value {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let answer = self
            .runtime
            .clone()
            .container_status(request)
            .await
            .expect("the container is known");
        info(&answer.into_inner().info)
    }

    /// The JSON a pod's verbose status carries under `info`.
    ///
    /// # Panics
    /// When there is none, or it is no JSON.
    pub async fn pod_info(&self, id: &str) -> Value {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: true,
        };
        let answer = self
            .runtime
            .clone()
            .pod_sandbox_status(request)
            .await
            .expect("the pod is known");
        info(&answer.into_inner().info)
    }

    /// The host's pid of a running container's init.
    ///
    /// # Panics
    /// When the verbose status does not say.
    pub async fn container_pid(&self, id: &str) -> u32 {
        let info = self.container_info(id).await;
        let pid = info["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.filter(|pid| *pid > 0)
            .unwrap_or_else(|| panic!("info.pid of a running container: {info}"))
    }

    /// All containers.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    pub async fn containers(&self) -> Result<Vec<cri::Container>, Status> {
        let request = cri::ListContainersRequest::default();
        Ok(self
            .runtime
            .clone()
            .list_containers(request)
            .await?
            .into_inner()
            .containers)
    }

    /// ExecSync with a time limit in seconds, 0 for none.
    ///
    /// # Errors
    /// As [`Self::run_pod`]; a command that fails is not an error.
    pub async fn exec(&self, id: &str, command: &[&str], timeout: i64) -> Result<ExecSyncResponse, Status> {
        let cmd = command.iter().map(|part| (*part).to_owned()).collect();
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd,
            timeout,
        };
        Ok(self.runtime.clone().exec_sync(request).await?.into_inner())
    }

    /// ReopenContainerLog.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    pub async fn reopen_log(&self, id: &str) -> Result<(), Status> {
        let request = cri::ReopenContainerLogRequest {
            container_id: id.to_owned(),
        };
        self.runtime.clone().reopen_container_log(request).await.map(drop)
    }

    /// PullImage without credentials; the image's id.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    pub async fn pull(&self, reference: &str) -> Result<String, Status> {
        self.pull_as(reference, None).await
    }

    /// PullImage; the image's id.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    pub async fn pull_as(&self, reference: &str, auth: Option<cri::AuthConfig>) -> Result<String, Status> {
        let request = cri::PullImageRequest {
            image: Some(image(reference)),
            auth,
            sandbox_config: None,
        };
        Ok(self
            .images
            .clone()
            .pull_image(request)
            .await?
            .into_inner()
            .image_ref)
    }

    /// ImageStatus, not verbose; `None` when there is no such image.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    pub async fn image(&self, reference: &str) -> Result<Option<cri::Image>, Status> {
        let request = cri::ImageStatusRequest {
            image: Some(image(reference)),
            verbose: false,
        };
        Ok(self
            .images
            .clone()
            .image_status(request)
            .await?
            .into_inner()
            .image)
    }

    /// All images.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    pub async fn all_images(&self) -> Result<Vec<cri::Image>, Status> {
        Ok(self
            .images
            .clone()
            .list_images(cri::ListImagesRequest::default())
            .await?
            .into_inner()
            .images)
    }

    /// RemoveImage.
    ///
    /// # Errors
    /// As [`Self::run_pod`].
    pub async fn remove_image(&self, reference: &str) -> Result<(), Status> {
        let request = cri::RemoveImageRequest {
            image: Some(image(reference)),
        };
        self.images.clone().remove_image(request).await.map(drop)
    }

    /// Waits until the container has exited, and returns its status.
    ///
    /// # Panics
    /// When it does not exit, or is unknown.
    pub async fn exited(&self, id: &str) -> ContainerStatus {
        crate::eventually::eventually("the container exits", || async {
            let status = self.container_status(id).await.expect("the container is known");
            (status.state() == ContainerState::ContainerExited).then_some(status)
        })
        .await
    }
}

fn info(map: &HashMap<String, String>) -> Value {
    let text = map.get("info").expect("verbose has the key `info`");
    serde_json::from_str(text).expect("info is JSON")
}

/// An image by name, as kubelet asks for it.
pub(crate) fn image(reference: &str) -> ImageSpec {
    ImageSpec {
        image: reference.to_owned(),
        user_specified_image: reference.to_owned(),
        ..Default::default()
    }
}
