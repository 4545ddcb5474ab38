//! Version, Status and RuntimeConfig: what the runtime is and whether it can take pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use cni::{NetworkStatus, Readiness};
use cri_api::v1;
use serde_json::json;

use crate::app::App;

/// As `kubectl get nodes` shows it before the version.
const RUNTIME_NAME: &str = "crisp";

/// Version.
pub fn version() -> v1::VersionResponse {
    v1::VersionResponse {
        // The version of kubelet's side of the interface, which never changed.
        version: "0.1.0".to_owned(),
        runtime_name: RUNTIME_NAME.to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}

/// RuntimeConfig.
pub fn runtime_config(app: &Arc<App>) -> v1::RuntimeConfigResponse {
    let cgroup_driver = if app.cgroups.has_systemd() {
        v1::CgroupDriver::Systemd
    } else {
        v1::CgroupDriver::Cgroupfs
    };
    v1::RuntimeConfigResponse {
        linux: Some(v1::LinuxRuntimeConfiguration {
            cgroup_driver: cgroup_driver.into(),
        }),
    }
}

/// Status.
pub async fn status(app: &Arc<App>, verbose: bool) -> v1::StatusResponse {
    let network = app.network.status().await;
    let conditions = vec![
        // Whoever gets this answer talks to a runtime that has read its records and found its pods.
        condition("RuntimeReady", true, "", ""),
        network_condition(&network),
    ];
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus { conditions }),
        info: if verbose {
            info(app, &network)
        } else {
            BTreeMap::new()
        },
        runtime_handlers: handlers(app),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            mount_options: true,
            ..Default::default()
        }),
    }
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> v1::RuntimeCondition {
    v1::RuntimeCondition {
        r#type: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

fn network_condition(network: &NetworkStatus) -> v1::RuntimeCondition {
    match &network.readiness {
        Readiness::Ready => condition("NetworkReady", true, "", ""),
        Readiness::NotReady { reason } => condition("NetworkReady", false, "NetworkPluginNotReady", reason),
    }
}

/// All handlers are the native runtime; the default one is also the one without a name.
fn handlers(app: &App) -> Vec<v1::RuntimeHandler> {
    let features = v1::RuntimeHandlerFeatures {
        recursive_read_only_mounts: app.features.recursive_read_only.is_ok(),
        user_namespaces: app.features.user_namespaces.is_ok(),
    };
    let names = ["", RUNTIME_NAME]
        .into_iter()
        .map(str::to_owned)
        .chain(app.config.handlers.keys().cloned());
    names
        .map(|name| v1::RuntimeHandler {
            name,
            features: Some(features),
        })
        .collect()
}

/// Whether a RuntimeClass may name this handler.
pub fn is_handler(app: &App, name: &str) -> bool {
    ["", RUNTIME_NAME].contains(&name) || app.config.handlers.contains_key(name)
}

fn info(app: &App, network: &NetworkStatus) -> BTreeMap<String, String> {
    let operations: Vec<_> = app
        .operations
        .list()
        .iter()
        .map(|o| {
            json!({
                "verb": o.verb, "object": o.object, "stage": o.stage, "waitsFor": o.waits_for,
            })
        })
        .collect();
    let mut config = app.config.to_json();
    // Asked for by those who pre-pull it. There is no such image here, and it is never pulled.
    config["sandboxImage"] = json!("registry.k8s.io/pause:3.10");
    [
        ("config", config),
        ("cniconfig", serde_json::to_value(network).unwrap_or_default()),
        ("operations", json!(operations)),
        (
            "lastCNILoadStatus",
            json!(match &network.readiness {
                Readiness::Ready => "OK",
                Readiness::NotReady { reason } => reason,
            }),
        ),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_string()))
    .collect()
}
