//! The pod's life, call by call, as kubelet drives it.

use std::io::Cursor;
use std::path::PathBuf;
use std::time::Duration;

use cri_api::admin::ImportOptions;
use cri_api::v1::*;
use tokio::time::{sleep, timeout};

use super::super::client::Daemon;
use super::super::image::import;
use super::super::output::{short, size};
use super::super::{CliError, Result};
use super::timeline::Timeline;
use super::{archive, file_error};

/// Given to the workload to go by itself, in seconds.
const GRACE: i64 = 10;
/// For the workload's first words to reach the log.
const LOG_PATIENCE: Duration = Duration::from_secs(10);
const LOG_POLL: Duration = Duration::from_millis(1);

/// What exists so far, so that every way out can take it back.
pub(super) struct Life<'a> {
    daemon: &'a Daemon,
    logs: PathBuf,
    image: Option<String>,
    /// A pod that was asked for and not yet answered.
    asked: Option<RunPodSandboxRequest>,
    pod: Option<String>,
    container: Option<String>,
}

impl<'a> Life<'a> {
    pub(super) fn new(daemon: &'a Daemon, logs: PathBuf) -> Self {
        Self {
            daemon,
            logs,
            image: None,
            asked: None,
            pod: None,
            container: None,
        }
    }

    /// From the image to its removal.
    pub(super) async fn live(&mut self, timeline: &mut Timeline) -> Result<()> {
        let daemon = self.daemon;
        let request = VersionRequest { version: "v1".into() };
        let version = async { daemon.answer("Version", daemon.pods().version(request).await) };
        let version = timeline.step("Version", version).await?;
        timeline.note(&format!("{} {}", version.runtime_name, version.runtime_version))?;
        let network = self.network_mode().await?;

        self.import(timeline).await?;
        self.run_pod(timeline, network).await?;
        self.start(timeline).await?;
        self.look_at(timeline).await?;
        self.stop(timeline).await?;
        self.remove(timeline).await
    }

    /// Takes back what is there, whatever happened before; returns the names under which it may have left traces.
    pub(super) async fn end(&mut self) -> Vec<String> {
        let daemon = self.daemon;
        if let Some(request) = self.asked.take() {
            // The daemon goes on with what a caller has left; asking again joins it, and tells the id.
            let joined = daemon.pods().run_pod_sandbox(request).await;
            self.pod = joined.ok().map(|answer| answer.into_inner().pod_sandbox_id);
        }
        let mut names: Vec<String> = self
            .container
            .iter()
            .chain(&self.pod)
            .map(|id| short(id).to_owned())
            .collect();
        names.extend(self.image.as_deref().map(|id| short(id).to_owned()));
        // Each succeeds for what is gone already; what cannot be removed shows among the traces.
        if let Some(id) = &self.pod {
            let _ = daemon
                .pods()
                .stop_pod_sandbox(StopPodSandboxRequest {
                    pod_sandbox_id: id.clone(),
                })
                .await;
            let _ = daemon
                .pods()
                .remove_pod_sandbox(RemovePodSandboxRequest {
                    pod_sandbox_id: id.clone(),
                })
                .await;
        }
        if self.image.is_some() {
            let _ = daemon
                .images()
                .remove_image(RemoveImageRequest {
                    image: Some(image_spec()),
                })
                .await;
        }
        names
    }

    /// On the host's network when the node has none for pods: the rest of the life is worth seeing all the same.
    async fn network_mode(&self) -> Result<NamespaceMode> {
        let status = self.daemon.pods().status(StatusRequest { verbose: false }).await;
        let status = self.daemon.answer("Status", status)?.status.unwrap_or_default();
        let ready = status
            .conditions
            .iter()
            .any(|condition| condition.r#type == "NetworkReady" && condition.status);
        Ok(if ready {
            NamespaceMode::Pod
        } else {
            NamespaceMode::Node
        })
    }

    async fn import(&mut self, timeline: &mut Timeline) -> Result<()> {
        let failed = |source| file_error("/proc/self/exe".as_ref(), source);
        let binary = tokio::fs::read("/proc/self/exe").await.map_err(failed)?;
        let archive = archive::make(&binary).map_err(failed)?;
        drop(binary);
        let bytes = archive.len() as u64;
        self.image = Some(archive::NAME.to_owned());
        let work = import(
            self.daemon,
            ImportOptions::default(),
            Cursor::new(archive),
            "demo image".into(),
        );
        let imported = timeline.step("ImportImage", work).await?;
        let [image] = imported.as_slice() else {
            return Err(unexpected(
                "ImportImage",
                format!("{} images instead of one", imported.len()),
            ));
        };
        self.image = Some(image.image_id.clone());
        timeline.note(&format!("{}, {}", archive::NAME, size(bytes)))
    }

    async fn run_pod(&mut self, timeline: &mut Timeline, network: NamespaceMode) -> Result<()> {
        let daemon = self.daemon;
        let request = RunPodSandboxRequest {
            config: Some(self.pod_config(network)),
            runtime_handler: String::new(),
        };
        self.asked = Some(request.clone());
        let run = async { daemon.answer("RunPodSandbox", daemon.pods().run_pod_sandbox(request).await) };
        let pod = timeline.step("RunPodSandbox", run).await?.pod_sandbox_id;
        self.asked = None;
        self.pod = Some(pod.clone());
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: pod.clone(),
            verbose: false,
        };
        let status = daemon.answer(
            "PodSandboxStatus",
            daemon.pods().pod_sandbox_status(request).await,
        )?;
        let address = status
            .status
            .and_then(|status| status.network)
            .map(|network| network.ip)
            .unwrap_or_default();
        let place = if network == NamespaceMode::Node {
            "on the host's network"
        } else {
            address.as_str()
        };
        timeline.note(&format!("{} {place}", short(&pod)))?;

        let request = CreateContainerRequest {
            pod_sandbox_id: pod,
            config: Some(container_config(network)),
            sandbox_config: Some(self.pod_config(network)),
        };
        let create =
            async { daemon.answer("CreateContainer", daemon.pods().create_container(request).await) };
        let container = timeline.step("CreateContainer", create).await?.container_id;
        timeline.note(short(&container))?;
        self.container = Some(container);
        Ok(())
    }

    async fn start(&self, timeline: &mut Timeline) -> Result<()> {
        let daemon = self.daemon;
        let request = StartContainerRequest {
            container_id: self.container_id(),
        };
        let start = async { daemon.answer("StartContainer", daemon.pods().start_container(request).await) };
        timeline.step("StartContainer", start).await?;
        let lines = timeline.step("first log lines", self.first_lines()).await?;
        timeline.note(&lines.join("; "))
    }

    async fn look_at(&self, timeline: &mut Timeline) -> Result<()> {
        let daemon = self.daemon;
        let status = timeline.step("ContainerStatus", self.status()).await?;
        if status.state != ContainerState::ContainerRunning as i32 {
            let reason = format!("{} {}", status.reason, status.message);
            return Err(unexpected(
                "ContainerStatus",
                format!("the container does not run: {reason}"),
            ));
        }
        timeline.note("running")?;
        let request = ExecSyncRequest {
            container_id: self.container_id(),
            cmd: vec![archive::BINARY.into(), "version".into()],
            timeout: GRACE,
        };
        let exec = async { daemon.answer("ExecSync", daemon.pods().exec_sync(request).await) };
        let output = timeline.step("ExecSync", exec).await?;
        let stdout = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        if output.exit_code != 0 || !stdout.starts_with("crisp ") {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(unexpected(
                "ExecSync",
                format!("code {}: {stdout} {stderr}", output.exit_code),
            ));
        }
        timeline.note(&format!("`crisp version` inside: {stdout}"))
    }

    async fn stop(&self, timeline: &mut Timeline) -> Result<()> {
        let daemon = self.daemon;
        let request = StopContainerRequest {
            container_id: self.container_id(),
            timeout: GRACE,
        };
        let stop = async { daemon.answer("StopContainer", daemon.pods().stop_container(request).await) };
        timeline.step("StopContainer", stop).await?;
        let status = self.status().await?;
        if (status.exit_code, status.reason.as_str()) != (0, "Completed") {
            let problem = format!(
                "exit code {} {} instead of 0 Completed",
                status.exit_code, status.reason
            );
            return Err(unexpected("StopContainer", problem));
        }
        timeline.note("exit code 0, Completed")
    }

    async fn remove(&self, timeline: &mut Timeline) -> Result<()> {
        let daemon = self.daemon;
        let container = RemoveContainerRequest {
            container_id: self.container_id(),
        };
        let work =
            async { daemon.answer("RemoveContainer", daemon.pods().remove_container(container).await) };
        timeline.step("RemoveContainer", work).await?;
        let pod_sandbox_id = self.pod.clone().unwrap_or_default();
        let stop = StopPodSandboxRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
        };
        let work = async { daemon.answer("StopPodSandbox", daemon.pods().stop_pod_sandbox(stop).await) };
        timeline.step("StopPodSandbox", work).await?;
        let remove = RemovePodSandboxRequest { pod_sandbox_id };
        let work =
            async { daemon.answer("RemovePodSandbox", daemon.pods().remove_pod_sandbox(remove).await) };
        timeline.step("RemovePodSandbox", work).await?;
        let image = RemoveImageRequest {
            image: Some(image_spec()),
        };
        let work = async { daemon.answer("RemoveImage", daemon.images().remove_image(image).await) };
        timeline.step("RemoveImage", work).await?;
        timeline.end_line()
    }

    async fn status(&self) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest {
            container_id: self.container_id(),
            verbose: false,
        };
        let answer = self.daemon.answer(
            "ContainerStatus",
            self.daemon.pods().container_status(request).await,
        )?;
        answer
            .status
            .ok_or_else(|| unexpected("ContainerStatus", "an empty answer".into()))
    }

    /// The workload's first two lines, from the file that kubelet would read.
    async fn first_lines(&self) -> Result<Vec<String>> {
        let log = self.logs.join(LOG_PATH);
        let read = async {
            loop {
                let text = tokio::fs::read_to_string(&log).await.unwrap_or_default();
                // "<time> <stream> <tag> <text>"; a line is whole once its newline is there.
                let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
                let lines: Vec<String> = whole
                    .filter_map(|line| Some(line.trim_end().splitn(4, ' ').nth(3)?.to_owned()))
                    .take(2)
                    .collect();
                if lines.len() == 2 {
                    return lines;
                }
                sleep(LOG_POLL).await;
            }
        };
        timeout(LOG_PATIENCE, read)
            .await
            .map_err(|_| unexpected("log", format!("nothing came into {}", log.display())))
    }

    fn container_id(&self) -> String {
        self.container.clone().unwrap_or_default()
    }

    fn pod_config(&self, network: NamespaceMode) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: "demo".into(),
                uid: format!("demo-{}", std::process::id()),
                namespace: "crisp-demo".into(),
                attempt: 0,
            }),
            hostname: if network == NamespaceMode::Node {
                String::new()
            } else {
                "demo".into()
            },
            log_directory: self.logs.display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces(network)),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

const LOG_PATH: &str = "workload.log";

fn container_config(network: NamespaceMode) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: "workload".into(),
            attempt: 0,
        }),
        image: Some(image_spec()),
        log_path: LOG_PATH.into(),
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                cpu_shares: 512,
                memory_limit_in_bytes: 256 << 20,
                ..Default::default()
            }),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(network)),
                no_new_privs: true,
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// A PID namespace of the container's own, so that the workload is process 1.
fn namespaces(network: NamespaceMode) -> NamespaceOption {
    NamespaceOption {
        network: network.into(),
        pid: NamespaceMode::Container.into(),
        ..Default::default()
    }
}

fn image_spec() -> ImageSpec {
    ImageSpec {
        image: archive::NAME.into(),
        ..Default::default()
    }
}

fn unexpected(step: &'static str, problem: String) -> CliError {
    CliError::Demo { step, problem }
}
