//! What `crisp status` shows.

use std::sync::Arc;

use cni::{ActiveNetwork, Readiness};

use crate::app::App;
use crate::container::{Container, ContainerState};
use crate::pod::Pod;
use crate::{ops, report, time};

/// Everything at this moment.
pub async fn report(app: &Arc<App>) -> report::Report {
    let network = app.network.status().await;
    let mut warnings: Vec<_> = network.warnings.iter().map(|text| warning(text)).collect();
    warnings.extend(snapshot_warning(app.images.snapshot_mode()));
    report::Report {
        version: report::VERSION,
        daemon: daemon(app),
        pods: app.registry.pods().iter().map(|p| pod(p)).collect(),
        network: report::Network {
            ready: network.readiness == Readiness::Ready,
            provider: network.active.as_ref().map(provider).unwrap_or_default(),
            message: match network.readiness {
                Readiness::Ready => String::new(),
                Readiness::NotReady { reason } => reason,
            },
            attachments: network.attachments,
        },
        operations: operations(app),
        warnings,
    }
}

/// What it means that the data directory is on something that overlayfs cannot write to.
fn snapshot_warning(mode: image::SnapshotMode) -> Option<report::Warning> {
    let effect = match mode {
        image::SnapshotMode::Overlay => return None,
        image::SnapshotMode::OverlayOnTmpfs { bytes } => {
            format!(
                "what containers write is kept in memory, {} MiB in all",
                bytes >> 20
            )
        }
        image::SnapshotMode::Copy => "each container has a whole copy of its image".to_owned(),
    };
    Some(report::Warning {
        lack: "a data directory that overlayfs can write to".to_owned(),
        effect,
        remedy: "put data_dir on ext4 or xfs, not on an overlay".to_owned(),
    })
}

fn daemon(app: &App) -> report::Daemon {
    let driver = if app.cgroups.has_systemd() {
        "systemd"
    } else {
        "cgroupfs"
    };
    report::Daemon {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: app.started.elapsed().as_secs(),
        socket: app.config.socket.clone(),
        state_dir: app.config.state_dir.clone(),
        data_dir: app.config.data_dir.clone(),
        cgroup: format!("{driver} on {}", app.cgroups.mode()),
        snapshots: ops::inspect::snapshotter(app),
        layers: app.images.layer_format().to_string(),
        images: app.images.list().len(),
    }
}

fn warning(text: &str) -> report::Warning {
    report::Warning {
        lack: text.to_owned(),
        effect: String::new(),
        remedy: String::new(),
    }
}

fn provider(network: &ActiveNetwork) -> String {
    match network {
        ActiveNetwork::Embedded { bridge, subnets, .. } => {
            let subnets: Vec<_> = subnets.iter().map(ToString::to_string).collect();
            format!("embedded {bridge} {}", subnets.join(" "))
        }
        ActiveNetwork::Plugins { name, source, .. } => format!("cni {name} from {}", source.display()),
    }
}

fn age(created_at: time::Nanos) -> u64 {
    u64::try_from((time::now() - created_at) / 1_000_000_000).unwrap_or_default()
}

fn pod(pod: &Pod) -> report::Pod {
    let config = &pod.record.config;
    // As recorded is not as it is.
    let is_known = pod.has_answered() || !pod.is_ready();
    let mut containers: Vec<_> = pod.containers().iter().map(|c| container(c, is_known)).collect();
    containers.reverse();
    report::Pod {
        id: pod.id().to_string(),
        namespace: config.name.namespace.clone(),
        name: config.name.name.clone(),
        uid: config.name.uid.clone(),
        attempt: config.name.attempt,
        ready: pod.is_ready(),
        age_seconds: age(pod.record.created_at),
        addresses: pod.network().ips.iter().map(ToString::to_string).collect(),
        handler: config.handler.clone(),
        supervisor_pid: pod.supervisor().and_then(|s| u32::try_from(s.pid()).ok()),
        containers,
    }
}

fn container(container: &Container, is_known: bool) -> report::Container {
    let config = &container.record.config;
    let image = if config.user_image.is_empty() {
        &config.image
    } else {
        &config.user_image
    };
    report::Container {
        id: container.record.id.to_string(),
        name: config.name.name.clone(),
        attempt: config.name.attempt,
        image: image.clone(),
        state: match container.state() {
            ContainerState::Created | ContainerState::Running { .. } if !is_known => {
                report::ContainerState::Unknown
            }
            ContainerState::Created => report::ContainerState::Created,
            ContainerState::Running { pid, .. } => report::ContainerState::Running {
                pid: u32::try_from(pid).unwrap_or_default(),
            },
            ContainerState::Exited { exit, .. } => report::ContainerState::Exited {
                code: exit.code,
                reason: exit.reason.as_str().to_owned(),
            },
        },
        age_seconds: age(container.record.created_at),
    }
}

fn operations(app: &App) -> Vec<report::Operation> {
    let ms = |since: std::time::Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    let all = app.operations.list();
    all.into_iter()
        .map(|operation| report::Operation {
            verb: operation.verb.to_owned(),
            object: operation.object,
            stage: operation.stage.to_owned(),
            waits_for: operation.waits_for,
            age_ms: ms(operation.since),
            stage_age_ms: ms(operation.stage_since),
        })
        .collect()
}
