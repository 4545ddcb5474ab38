//! A pod that a test runs, with what tests do to it in a few words.

use std::fs;
use std::path::{Path, PathBuf};

use k8s_cri::v1::PodSandboxConfig;
use tonic::Status;

use crate::client::Client;
use crate::eventually::eventually;
use crate::logs;
use crate::specs::{Container, Pod};

/// A pod that runs, or ran.
#[derive(Clone)]
pub struct RunningPod {
    /// Its id.
    pub id: String,
    /// What it was made from.
    pub config: PodSandboxConfig,
    client: Client,
}

impl RunningPod {
    /// Runs a pod.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn run(client: &Client, pod: &Pod) -> Result<Self, Status> {
        let id = Box::pin(client.run_pod(&pod.0)).await?;
        Ok(Self {
            id,
            config: pod.0.clone(),
            client: client.clone(),
        })
    }

    /// Creates a container in it.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn create(&self, container: &Container) -> Result<String, Status> {
        self.client.create(&self.id, &self.config, &container.0).await
    }

    /// Creates and starts a container in it; the container's id.
    ///
    /// # Panics
    /// When the runtime refuses.
    pub async fn start(&self, container: &Container) -> String {
        let id = Box::pin(self.create(container))
            .await
            .expect("the container is created");
        self.client.start(&id).await.expect("the container starts");
        id
    }

    /// Makes a container and removes it, so that what the pod had ready for its first one is used up: a test that compares
    /// what there is before and after must not see that go.
    ///
    /// # Panics
    /// When the runtime refuses.
    pub async fn use_first(&self, image: &str) {
        let first = Box::pin(self.create(&Container::new("first-of-all", image))).await;
        let first = first.expect("a plain container is created");
        self.client.remove(&first).await.expect("it is removed");
    }

    /// Runs a container to its end; its exit code, and what it wrote to stdout.
    ///
    /// # Panics
    /// When the runtime refuses or the container does not end.
    pub async fn finish(&self, container: &Container) -> (i32, String) {
        let id = Box::pin(self.start(container)).await;
        let status = self.client.exited(&id).await;
        let log = PathBuf::from(&status.log_path);
        (status.exit_code, logs::stdout(&log))
    }

    /// Its address.
    ///
    /// # Panics
    /// When it is unknown or has none.
    pub async fn ip(&self) -> String {
        let status = self.client.pod_status(&self.id).await.expect("the pod is known");
        status.network.expect("a pod has a network status").ip
    }

    /// The log of one of its containers, by its log path.
    pub fn log(&self, log_path: &str) -> PathBuf {
        Path::new(&self.config.log_directory).join(log_path)
    }

    /// Waits until the log's stdout holds `text`.
    ///
    /// # Panics
    /// When it never does.
    pub async fn logged(&self, log_path: &str, text: &str) -> String {
        let path = self.log(log_path);
        eventually(&format!("{text:?} in {}", path.display()), || async {
            // A line may be on its way: only whole ones count.
            let bytes = fs::read(&path).unwrap_or_default();
            let whole = bytes
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |end| end + 1);
            let lines = logs::parse(&bytes[..whole]);
            let out = String::from_utf8_lossy(&logs::stream(&lines, "stdout")).into_owned();
            out.contains(text).then_some(out)
        })
        .await
    }
}
