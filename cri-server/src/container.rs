//! A container: what was asked for, and the state it is in.
//!
//! ```text
//!   Created ──start──► Running ──exit──► Exited
//!      └────── failed start (128) ─────────▲
//! ```

mod ahead;
mod config;
mod profile;
mod update;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, PoisonError};

use minicbor::{Decode, Encode};
use tokio::sync::{Mutex, watch};

use crate::ids::{ContainerId, PodId};
use crate::stats::Meter;
use crate::time::Nanos;
use crate::{Error, Result};

pub use ahead::{Ahead, FdAhead};
pub use config::{
    ContainerConfig, ContainerName, Device, GroupsPolicy, ImageVolume, Mount, Propagation, Resources, RunAs,
    Security,
};
pub use profile::{Profile, Seccomp, SelinuxOptions};

/// Who the container's first process is, as far as numbers go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Identity {
    /// User.
    #[n(0)]
    pub uid: u32,
    /// Primary group.
    #[n(1)]
    pub gid: u32,
    /// All further groups.
    #[n(2)]
    pub groups: Vec<u32>,
}

/// What is known of a container since it was made: immutable.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct ContainerRecord {
    /// Its id.
    #[n(0)]
    pub id: ContainerId,
    /// Its pod.
    #[n(1)]
    pub pod: PodId,
    /// As requested.
    #[n(2)]
    pub config: ContainerConfig,
    /// When it was made.
    #[n(3)]
    pub created_at: Nanos,
    /// Digest of the image's configuration.
    #[n(4)]
    pub image_id: String,
    /// Its own cgroup.
    #[n(5)]
    pub cgroup: String,
    /// Absolute path of the log; empty without one.
    #[n(6)]
    pub log_path: String,
    /// Resolved from the request and the image.
    #[n(7)]
    pub identity: Identity,
    /// Resolved from the request, the image, and SIGTERM.
    #[n(8)]
    pub stop_signal: u8,
    /// The OCI runtime specification that it starts with, as JSON.
    #[n(9)]
    pub spec: String,
    /// Arguments as bytes, where the specification can only hold text.
    #[cbor(n(10), with = "crate::store::strings")]
    pub args: Vec<Vec<u8>>,
    /// `NAME=value` as bytes.
    #[cbor(n(11), with = "crate::store::strings")]
    pub env: Vec<Vec<u8>>,
    /// What its system calls are filtered by.
    #[n(40)]
    pub seccomp: Option<Seccomp>,
    /// The images that its volumes show, by the volume's place among the mounts: what their names meant when it was made.
    #[n(50)]
    #[cbor(default)]
    pub image_volumes: BTreeMap<usize, String>,
}

impl ContainerRecord {
    /// Its id as the supervisor's protocol has it.
    ///
    /// # Errors
    /// None for an id of ours; the type wants it said.
    pub fn wire_id(&self) -> Result<runtime::protocol::ContainerId> {
        let id = runtime::protocol::ContainerId::new(self.id.as_str());
        id.map_err(|_| Error::invalid("container id", "is not one of ours"))
    }

    /// Under which name the layers of an image volume are kept for it.
    pub fn image_volume_key(id: &ContainerId, mount: usize) -> String {
        format!("{id}.{mount}")
    }

    /// The OCI specification.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the record is damaged.
    pub fn spec(&self) -> Result<oci_spec::runtime::Spec> {
        self.part()
    }

    /// Some members of the OCI specification: reading all of it takes a good part of a millisecond.
    ///
    /// # Errors
    /// As [`Self::spec`].
    pub fn part<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.spec).map_err(|_| {
            Error::invalid(
                "container record",
                "its specification is damaged; remove the container",
            )
        })
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Exit {
    /// As a shell would put it: 128 + n for a signal.
    #[n(0)]
    pub code: i32,
    /// Why.
    #[n(1)]
    pub reason: ExitReason,
    /// Only when it did not start, or was lost.
    #[n(2)]
    pub message: String,
}

/// The reasons that kubelet shows people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum ExitReason {
    /// Exit code 0.
    #[n(0)]
    Completed,
    /// Any other exit code.
    #[n(1)]
    Error,
    /// Killed by the kernel for want of memory in its own cgroup.
    #[n(2)]
    OomKilled,
    /// A set-up step or the exec itself failed.
    #[n(3)]
    StartError,
    /// Its end was not seen: the node rebooted or the supervisor was killed.
    #[n(4)]
    Lost,
}

impl ExitReason {
    /// As CRI spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Lost => "Unknown",
        }
    }
}

impl Exit {
    /// A process that ended by itself or by a signal.
    pub fn of_process(code: i32, oom_killed: bool) -> Self {
        let reason = match code {
            _ if oom_killed => ExitReason::OomKilled,
            0 => ExitReason::Completed,
            _ => ExitReason::Error,
        };
        Self {
            code,
            reason,
            message: String::new(),
        }
    }

    /// A start that failed at a step.
    pub fn failed_start(message: String) -> Self {
        Self {
            code: 128,
            reason: ExitReason::StartError,
            message,
        }
    }

    /// An end that nobody saw.
    pub fn lost(what: &str) -> Self {
        Self {
            code: 255,
            reason: ExitReason::Lost,
            message: what.to_owned(),
        }
    }
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ContainerState {
    /// Made, never started.
    #[n(0)]
    Created,
    /// Its first process runs.
    #[n(1)]
    Running {
        /// In the node's PID namespace.
        #[n(0)]
        pid: i32,
        /// When its program was executed.
        #[n(1)]
        started_at: Nanos,
    },
    /// Over.
    #[n(2)]
    Exited {
        /// How.
        #[n(0)]
        exit: Exit,
        /// When it had started; `None` when it never did.
        #[n(1)]
        started_at: Option<Nanos>,
        /// When it ended.
        #[n(2)]
        finished_at: Nanos,
    },
}

impl ContainerState {
    /// The state after a successful start.
    pub fn started(self, pid: i32, started_at: Nanos) -> Self {
        match self {
            Self::Created => Self::Running { pid, started_at },
            other => other,
        }
    }

    /// The state after an end; the first end counts.
    pub fn exited(self, exit: Exit, finished_at: Nanos) -> Self {
        match self {
            Self::Created => Self::Exited {
                exit,
                started_at: None,
                finished_at,
            },
            Self::Running { started_at, .. } => {
                // The clock may have been set back meanwhile; an end never precedes its start.
                Self::Exited {
                    exit,
                    started_at: Some(started_at),
                    finished_at: finished_at.max(started_at),
                }
            }
            over @ Self::Exited { .. } => over,
        }
    }
}

/// What a start needs and what making the container has worked out already.
pub struct Prepared {
    /// The record's specification, read.
    pub spec: oci_spec::runtime::Spec,
    /// What follows from it, sealed.
    pub plan: OwnedFd,
    /// Whether that can be carried out by one clone.
    pub alone: bool,
    /// Its root file system, if that is made before the start.
    pub root: Option<FdAhead>,
    /// Its log, if that is opened before the start.
    pub log: Option<FdAhead>,
}

/// A container and its state.
pub struct Container {
    /// What never changes.
    pub record: ContainerRecord,
    state: watch::Sender<ContainerState>,
    resources: std::sync::Mutex<Resources>,
    /// Until it is started. What was created by an earlier daemon has none.
    prepared: std::sync::Mutex<Option<Box<Prepared>>>,
    /// It has ended, and this daemon has removed its cgroup.
    pub cgroup_gone: Arc<AtomicBool>,
    /// Whether its specification has hooks, once that is known.
    pub has_hooks: OnceLock<bool>,
    /// Its cgroup, as far as this daemon has made it ahead of the start.
    pub ahead: Option<Ahead>,
    /// Held by whoever starts or removes it: those two exclude each other.
    pub turn: Arc<Mutex<()>>,
    /// The deadline of the stop that is under way; a further stop may only bring it forward.
    pub stop_by: watch::Sender<Option<std::time::Instant>>,
    /// What is remembered of its use.
    pub meter: Meter,
}

impl Container {
    /// A container in a state.
    pub fn new(record: ContainerRecord, state: ContainerState) -> Self {
        Self {
            resources: std::sync::Mutex::new(record.config.resources.clone()),
            record,
            state: watch::Sender::new(state),
            prepared: std::sync::Mutex::default(),
            cgroup_gone: Arc::default(),
            has_hooks: OnceLock::new(),
            ahead: None,
            turn: Arc::default(),
            stop_by: watch::Sender::new(None),
            meter: Meter::default(),
        }
    }

    /// With what its start needs.
    #[must_use]
    pub fn prepared(self, prepared: Prepared, ahead: Ahead) -> Self {
        let _ = self.has_hooks.set(crate::hooks::has_any(&prepared.spec));
        *self.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(prepared));
        Self {
            ahead: Some(ahead),
            ..self
        }
    }

    /// What its start needs, once.
    pub fn take_prepared(&self) -> Option<Prepared> {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.take().map(|prepared| *prepared)
    }

    /// Its state now.
    pub fn state(&self) -> ContainerState {
        self.state.borrow().clone()
    }

    /// Its limits as last updated.
    pub fn resources(&self) -> Resources {
        self.resources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes over limits that are recorded.
    pub fn set_resources(&self, resources: Resources) {
        *self.resources.lock().unwrap_or_else(PoisonError::into_inner) = resources;
    }

    /// Applies a transition and wakes whoever watches. Returns the state that holds now.
    pub fn transition(&self, step: impl FnOnce(ContainerState) -> ContainerState) -> ContainerState {
        self.state.send_modify(|state| *state = step(state.clone()));
        self.state()
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        matches!(*self.state.borrow(), ContainerState::Exited { .. })
    }

    /// A view that can be awaited.
    pub fn watch(&self) -> watch::Receiver<ContainerState> {
        self.state.subscribe()
    }

    /// The process of a running container.
    ///
    /// # Errors
    /// [`Error::State`] in any other state.
    pub fn running(&self) -> Result<i32> {
        match &*self.state.borrow() {
            ContainerState::Running { pid, .. } => Ok(*pid),
            ContainerState::Created => Err(self.refuse("is not running: it was never started")),
            ContainerState::Exited { .. } => Err(self.refuse("is not running: it has exited")),
        }
    }

    /// A refusal that names this container.
    pub fn refuse(&self, problem: &'static str) -> Error {
        Error::State {
            object: format!("container {:?}", self.record.config.name.name),
            problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_only_moves_forward() {
        let running = ContainerState::Created.started(7, 100);
        let over = running.exited(Exit::of_process(3, false), 90);
        let ContainerState::Exited {
            exit,
            started_at,
            finished_at,
        } = over.clone()
        else {
            panic!()
        };
        assert_eq!((exit.code, exit.reason.as_str()), (3, "Error"));
        // finished ≥ started, though the clock went back
        assert_eq!((started_at, finished_at), (Some(100), 100));
        // neither a late start nor a second end changes it
        assert_eq!(over.clone().started(8, 200), over);
        assert_eq!(over.clone().exited(Exit::lost("x"), 300), over);
    }

    #[test]
    fn reasons_follow_the_kernel() {
        assert_eq!(Exit::of_process(0, false).reason, ExitReason::Completed);
        assert_eq!(Exit::of_process(137, true).reason, ExitReason::OomKilled);
        assert_eq!(Exit::of_process(137, false).reason, ExitReason::Error);
        assert_eq!(Exit::failed_start("exec /x: not found".into()).code, 128);
        assert_eq!(Exit::lost("the node was rebooted").code, 255);
    }
}
