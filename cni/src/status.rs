//! What the network says of itself, for `crisp status` and the daemon's answer to Status.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;

use crate::conf::NetworkList;
use crate::embedded::Embedded;
use crate::error::Error;

/// The state of the network.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkStatus {
    /// Whether pods can be attached.
    #[serde(flatten)]
    pub readiness: Readiness,
    /// The network that new pods get.
    pub active: Option<ActiveNetwork>,
    /// What is not right but does not keep pods from being attached: broken files, a network kept as last read.
    pub warnings: Vec<String>,
    /// How many pods are recorded as attached.
    pub attachments: usize,
    /// Where network configurations are looked for.
    pub config_directory: PathBuf,
    /// Where plugins are looked for.
    pub plugin_directories: Vec<PathBuf>,
}

/// Whether pods can be attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Readiness {
    /// They can.
    Ready,
    /// They cannot.
    NotReady {
        /// Why, with the remedy. A stable text.
        reason: String,
    },
}

/// The network that new pods get.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum ActiveNetwork {
    /// The embedded bridge network.
    #[serde(rename_all = "camelCase")]
    Embedded {
        /// Its name.
        name: String,
        /// Its bridge.
        bridge: String,
        /// Where addresses come from.
        subnets: Vec<IpNet>,
    },
    /// A chain of CNI plugins.
    #[serde(rename_all = "camelCase")]
    Plugins {
        /// The network's name.
        name: String,
        /// The spec's version.
        cni_version: String,
        /// The file it was read from.
        source: PathBuf,
        /// The plugins' types, in the order of ADD.
        plugins: Vec<String>,
        /// The whole configuration.
        config: Value,
    },
}

impl NetworkStatus {
    /// When not even the question could be asked.
    pub(crate) fn unknown(error: &Error) -> Self {
        NetworkStatus {
            readiness: Readiness::NotReady {
                reason: error.to_string(),
            },
            active: None,
            warnings: Vec::new(),
            attachments: 0,
            config_directory: PathBuf::new(),
            plugin_directories: Vec::new(),
        }
    }
}

impl ActiveNetwork {
    pub(crate) fn of_list(list: &NetworkList) -> Self {
        ActiveNetwork::Plugins {
            name: list.name().into(),
            cni_version: list.version().to_string(),
            source: list.source().into(),
            plugins: list
                .plugins()
                .iter()
                .map(|plugin| plugin.kind().to_owned())
                .collect(),
            config: list.raw().clone(),
        }
    }

    pub(crate) fn of_embedded(embedded: &Embedded) -> Self {
        ActiveNetwork::Embedded {
            name: embedded.config().name.clone(),
            bridge: embedded.config().bridge.to_string(),
            subnets: embedded.subnets(),
        }
    }

    /// The network's name.
    pub fn name(&self) -> &str {
        match self {
            ActiveNetwork::Embedded { name, .. } | ActiveNetwork::Plugins { name, .. } => name,
        }
    }
}
