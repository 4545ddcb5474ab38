//! What `crisp status` shows: the JSON document that the admin service answers with.
//!
//! The daemon fills it, the command line prints it, scripts read it with `-o json`. Fields are added, never renamed or
//! given another meaning; a reader ignores those that it does not know. Ages are counted by the daemon, so that a
//! reader's clock does not matter.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Of this document; raised only by a change that old readers cannot survive.
pub const VERSION: u32 = 1;

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`] of the daemon that wrote it.
    pub version: u32,
    /// The daemon itself.
    pub daemon: Daemon,
    /// All pods, the newest first.
    pub pods: Vec<Pod>,
    /// How new pods get their network.
    pub network: Network,
    /// Operations in flight, the oldest first.
    pub operations: Vec<Operation>,
    /// What works less well than it could, and why.
    pub warnings: Vec<Warning>,
}

/// The daemon itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Daemon {
    /// As `crisp version` prints it.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Since it serves.
    pub uptime_seconds: u64,
    /// The socket it serves on.
    pub socket: PathBuf,
    /// See `state_dir` of the configuration.
    pub state_dir: PathBuf,
    /// See `data_dir` of the configuration.
    pub data_dir: PathBuf,
    /// `cgroupfs on v2`, `cgroupfs on v1 (hybrid)`.
    pub cgroup: String,
    /// How root file systems are made: `overlay` or `copy`, with the reason when it is not the first.
    pub snapshots: String,
    /// How image layers are kept (`erofs`, `directory`), with the reason in parentheses.
    #[serde(default)]
    pub layers: String,
    /// Images in the store.
    pub images: usize,
}

/// One pod sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    /// 64 hex digits.
    pub id: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Pod UID.
    pub uid: String,
    /// How often a sandbox was made for the pod before.
    pub attempt: u32,
    /// Whether containers can be made in it.
    pub ready: bool,
    /// Since it was made.
    pub age_seconds: u64,
    /// Its addresses, the primary one first; none on the host's network.
    pub addresses: Vec<String>,
    /// The RuntimeClass handler; empty for the default one.
    pub handler: String,
    /// Process id of its supervisor; none once it is stopped.
    pub supervisor_pid: Option<u32>,
    /// Its containers, the newest first.
    pub containers: Vec<Container>,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// How often it was restarted.
    pub attempt: u32,
    /// As the pod's author wrote it.
    pub image: String,
    /// What it does.
    pub state: ContainerState,
    /// Since it was made.
    pub age_seconds: u64,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Running.
    Running {
        /// Its init, in the host's numbering.
        pid: u32,
    },
    /// Ended.
    Exited {
        /// As CRI reports it.
        code: i32,
        /// `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`.
        reason: String,
    },
    /// Its supervisor has not answered since the daemon started.
    Unknown,
}

/// How new pods get their network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Whether they do.
    pub ready: bool,
    /// `cni NAME from FILE`, `embedded crisp0 10.85.0.0/16`, or empty.
    pub provider: String,
    /// Why it is not ready, and what to do; empty when it is.
    pub message: String,
    /// Pods that hold an attachment.
    pub attachments: usize,
}

/// One operation in flight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// The CRI verb.
    pub verb: String,
    /// Which pod, container or image.
    pub object: String,
    /// The step it is at.
    pub stage: String,
    /// What that step waits for, where that is somebody else.
    pub waits_for: Option<String>,
    /// Since it began.
    pub age_ms: u64,
    /// Since the step began.
    pub stage_age_ms: u64,
}

/// Something that works less well than it could.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What is lacking.
    pub lack: String,
    /// What it means for pods.
    pub effect: String,
    /// What to do about it.
    pub remedy: String,
}
