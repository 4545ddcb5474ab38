//! Listings and status of pods and containers. They read what is in memory and wait for nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use cri_api::v1;
use image::SnapshotMode;
use serde_json::json;

use crate::app::App;
use crate::container::{Container, ContainerState};
use crate::convert;
use crate::pod::Pod;
use crate::{Result, time};

/// ListPodSandbox.
pub fn pods(app: &Arc<App>, filter: Option<&v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
    let all = app.registry.pods();
    all.iter()
        .filter(|pod| convert::pod::matches(filter, pod))
        .map(|pod| convert::pod::listed(pod))
        .collect()
}

/// ListContainers.
pub fn containers(app: &Arc<App>, filter: Option<&v1::ContainerFilter>) -> Vec<v1::Container> {
    let all = app.registry.containers();
    all.iter()
        .filter(|(_, c)| convert::container::matches(filter, c))
        .map(|(_, c)| convert::container::listed(c))
        .collect()
}

/// PodSandboxStatus.
///
/// # Errors
/// [`crate::Error::NotFound`].
pub fn pod(app: &Arc<App>, request: &v1::PodSandboxStatusRequest) -> Result<v1::PodSandboxStatusResponse> {
    let pod = app.registry.pod(&request.pod_sandbox_id)?;
    Ok(v1::PodSandboxStatusResponse {
        status: Some(convert::pod::status(&pod)),
        info: if request.verbose {
            info(&pod_info(app, &pod))
        } else {
            BTreeMap::new()
        },
        containers_statuses: pod
            .containers()
            .iter()
            .map(|c| convert::container::status(c))
            .collect(),
        timestamp: time::now(),
    })
}

/// ContainerStatus.
///
/// # Errors
/// [`crate::Error::NotFound`].
pub fn container(
    app: &Arc<App>,
    request: &v1::ContainerStatusRequest,
) -> Result<v1::ContainerStatusResponse> {
    let (_, container) = app.registry.container(&request.container_id)?;
    Ok(v1::ContainerStatusResponse {
        status: Some(convert::container::status(&container)),
        info: if request.verbose {
            info(&container_info(app, &container))
        } else {
            BTreeMap::new()
        },
    })
}

/// Agents on the node read the JSON under the key `info`.
fn info(value: &serde_json::Value) -> BTreeMap<String, String> {
    [("info".to_owned(), value.to_string())].into()
}

/// How writable layers are made, by the name that agents look for.
pub fn snapshotter(app: &App) -> String {
    match app.images.snapshot_mode() {
        SnapshotMode::Overlay => "overlayfs".to_owned(),
        SnapshotMode::OverlayOnTmpfs { .. } => "overlayfs on tmpfs".to_owned(),
        SnapshotMode::Copy => "copy".to_owned(),
    }
}

/// A live process in the pod's namespaces: that of a container where one runs, else the supervisor's.
fn pod_pid(pod: &Pod) -> i32 {
    let running = pod.containers().iter().find_map(|c| c.running().ok());
    running
        .or_else(|| pod.supervisor().map(|s| s.pid()))
        .unwrap_or_default()
}

fn pod_info(app: &App, pod: &Pod) -> serde_json::Value {
    let network = pod.network();
    json!({
        "sandboxID": pod.id().as_str(),
        "pid": pod_pid(pod),
        "processStatus": if pod.is_ready() { "running" } else { "deleted" },
        "netNamespaceClosed": !pod.is_ready(),
        "runtimeHandler": pod.record.config.handler,
        "runtimeType": "crisp",
        "snapshotter": snapshotter(app),
        "cgroup": pod.record.cgroup,
        "limits": pod_limits(pod),
        "hostname": pod.record.config.hostname,
        "config": {
            "metadata": {
                "name": pod.record.config.name.name,
                "namespace": pod.record.config.name.namespace,
                "uid": pod.record.config.name.uid,
                "attempt": pod.record.config.name.attempt,
            },
            "log_directory": pod.record.config.log_directory,
            "labels": pod.record.config.labels,
            "annotations": pod.record.config.annotations,
            "linux": { "cgroup_parent": pod.record.config.cgroup_parent, "sysctls": pod.record.config.sysctls },
        },
        "cniResult": serde_json::from_str::<serde_json::Value>(&network.result).unwrap_or_default(),
    })
}

/// The specification as agents expect it: with the seccomp profile, which travels compiled.
fn runtime_spec(app: &App, container: &Container) -> serde_json::Value {
    let record = &container.record;
    let mut shown: serde_json::Value = serde_json::from_str(&record.spec).unwrap_or_default();
    if let (Some(seccomp), Ok(spec)) = (&record.seccomp, record.spec())
        && let Some(profile) = app.confinement.seccomp_profile(seccomp, &spec)
    {
        shown["linux"]["seccomp"] = profile;
    }
    shown
}

/// What the pod may use in all: kubelet's own numbers, as last updated.
fn pod_limits(pod: &Pod) -> serde_json::Value {
    let limits = pod.limits();
    let shown = |resources: Option<crate::container::Resources>| {
        resources.map(|resources| {
            json!({
                "cpuPeriod": resources.cpu_period,
                "cpuQuota": resources.cpu_quota,
                "cpuShares": resources.cpu_shares,
                "memoryLimit": resources.memory_limit,
            })
        })
    };
    json!({ "overhead": shown(limits.overhead), "resources": shown(limits.resources) })
}

fn container_info(app: &App, container: &Container) -> serde_json::Value {
    let record = &container.record;
    let config = &record.config;
    let pid = match container.state() {
        ContainerState::Running { pid, .. } => pid,
        ContainerState::Created | ContainerState::Exited { .. } => 0,
    };
    json!({
        "sandboxID": record.pod.as_str(),
        "pid": pid,
        "removing": false,
        "snapshotKey": record.id.as_str(),
        "snapshotter": snapshotter(app),
        "runtimeType": "crisp",
        "cgroup": record.cgroup,
        "config": {
            "metadata": { "name": config.name.name, "attempt": config.name.attempt },
            "image": { "image": config.image, "user_specified_image": config.user_image },
            "command": config.command,
            "args": config.args,
            "working_dir": config.working_dir,
            // Values are often secrets: names only.
            "envs": config.env.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "labels": config.labels,
            "annotations": config.annotations,
            "log_path": config.log_path,
            "stdin": config.stdin,
            "tty": config.tty,
        },
        "runtimeSpec": runtime_spec(app, container),
    })
}
