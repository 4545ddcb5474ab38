//! A pod sandbox: what was asked for, and the state it is in.

mod config;
mod first;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use minicbor::{Decode, Encode};
use tokio::sync::watch;

use crate::container::{Container, Resources};
use crate::ids::{ContainerId, PodId};
use crate::stats::Meter;
use crate::supervisor::Supervisor;
use crate::time::Nanos;
use crate::{Error, Result};

pub use config::{Dns, NamespaceMode, Namespaces, PodConfig, PodName, PortMapping};
pub use first::First;

/// What is known of a sandbox since it was made: immutable.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct PodRecord {
    /// Its id.
    #[n(0)]
    pub id: PodId,
    /// As requested.
    #[n(1)]
    pub config: PodConfig,
    /// When it was asked for.
    #[n(2)]
    pub created_at: Nanos,
    /// The cgroup that carries its id, below `cgroup_parent`.
    #[n(3)]
    pub cgroup: String,
    /// The boot in which it was made: namespaces do not outlive it.
    #[n(4)]
    pub boot_id: String,
    /// The id of its first container, whose cgroup may be there before it.
    #[n(5)]
    pub first: Option<ContainerId>,
}

impl PodRecord {
    /// Whether it shares the node's network.
    pub fn host_network(&self) -> bool {
        self.config.namespaces.network == NamespaceMode::Node
    }
}

/// The part of a sandbox that changes, as it is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum PodPhase {
    /// Recorded before anything was made; what a killed daemon leaves half-made stays here.
    #[default]
    #[n(0)]
    Intent,
    /// Namespaces and network stand.
    #[n(1)]
    Ready,
    /// Stopped, or lost by a reboot.
    #[n(2)]
    NotReady(#[n(0)] Nanos),
}

/// What a pod may use in all, as last updated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(map)]
pub struct PodLimits {
    /// What it costs beyond its containers.
    #[n(0)]
    pub overhead: Option<Resources>,
    /// The sum of its containers' resources.
    #[n(1)]
    pub resources: Option<Resources>,
}

impl PodLimits {
    /// These, with those that a change has in their place.
    #[must_use]
    pub fn changed(self, change: Self) -> Self {
        Self {
            overhead: change.overhead.or(self.overhead),
            resources: change.resources.or(self.resources),
        }
    }
}

/// What CNI gave the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PodNetwork {
    /// In the order of the plugins' result: the first is the pod's primary address.
    #[cbor(n(0), with = "crate::store::addresses")]
    pub ips: Vec<IpAddr>,
    /// The plugins' result, as JSON, for verbose status.
    #[n(1)]
    pub result: String,
}

/// The live state of a sandbox.
#[derive(Clone, Debug)]
pub enum PodState {
    /// Its supervisor is connected: containers can be made and run.
    Ready(Supervisor),
    /// Being stopped: no new container, no exec.
    Stopping(Supervisor),
    /// Stopped or lost since then; its supervisor is gone.
    NotReady {
        /// When it left Ready.
        since: Nanos,
        /// All that it held was given back, as far as this daemon knows.
        released: bool,
    },
}

/// A sandbox and its containers.
pub struct Pod {
    /// What never changes.
    pub record: PodRecord,
    state: watch::Sender<PodState>,
    network: PodNetwork,
    init_pid: OnceLock<Option<i32>>,
    /// Its supervisor has answered by the connection that there is.
    answered: AtomicBool,
    limits: Mutex<PodLimits>,
    /// Held by who changes the limits.
    pub limits_turn: tokio::sync::Mutex<()>,
    containers: Mutex<HashMap<ContainerId, Arc<Container>>>,
    /// What its first container will find.
    pub first: First,
    /// What is remembered of its use.
    pub meter: Meter,
}

impl Pod {
    /// A sandbox in the given state, without containers, whose supervisor has not [told](Self::told) anything yet.
    pub fn new(record: PodRecord, state: PodState, network: PodNetwork) -> Self {
        let limits = PodLimits {
            overhead: record.config.overhead.clone(),
            resources: record.config.resources.clone(),
        };
        Self {
            limits: Mutex::new(limits),
            limits_turn: tokio::sync::Mutex::default(),
            record,
            state: watch::Sender::new(state),
            network,
            init_pid: OnceLock::new(),
            answered: AtomicBool::new(false),
            containers: Mutex::default(),
            first: First::default(),
            meter: Meter::default(),
        }
    }

    /// Its id.
    pub fn id(&self) -> &PodId {
        &self.record.id
    }

    /// Its supervisor has answered. `init_pid` is the pod's own first process, in a pod that shares its PID namespace.
    pub fn told(&self, init_pid: Option<i32>) {
        // It never becomes another one.
        let _ = self.init_pid.set(init_pid);
        self.answered.store(true, Ordering::Release);
    }

    /// Whether its supervisor has answered by the connection that there is.
    pub fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire)
    }

    /// The supervisor of a sandbox that is ready: the only way to start or exec anything.
    ///
    /// # Errors
    /// [`Error::State`] when it is stopped or being stopped, or its supervisor has not answered yet.
    pub fn ready(&self) -> Result<Supervisor> {
        let problem = match &*self.state.borrow() {
            PodState::Ready(supervisor) if self.has_answered() => return Ok(supervisor.clone()),
            PodState::Ready(_) => {
                "has a supervisor that has not answered since the daemon started; try again"
            }
            PodState::Stopping(_) | PodState::NotReady { .. } => "is not ready; a new sandbox is needed",
        };
        Err(Error::State {
            object: format!("pod sandbox {}", self.record.config.name),
            problem,
        })
    }

    /// The supervisor as long as there is one.
    pub fn supervisor(&self) -> Option<Supervisor> {
        match &*self.state.borrow() {
            PodState::Ready(s) | PodState::Stopping(s) => Some(s.clone()),
            PodState::NotReady { .. } => None,
        }
    }

    /// Whether CRI calls it SANDBOX_READY.
    pub fn is_ready(&self) -> bool {
        matches!(&*self.state.borrow(), PodState::Ready(_))
    }

    /// Its supervisor is to be spoken to by this connection from here on, once it has [answered](Self::told).
    pub fn joined(&self, supervisor: Supervisor) {
        self.answered.store(false, Ordering::Release);
        self.state.send_modify(|state| match state {
            PodState::Ready(former) | PodState::Stopping(former) => *former = supervisor,
            PodState::NotReady { .. } => {}
        });
    }

    /// Ready → Stopping: from here on nothing new starts in it.
    pub fn begin_stop(&self) {
        self.state.send_modify(|state| {
            if let PodState::Ready(supervisor) = state {
                *state = PodState::Stopping(supervisor.clone());
            }
        });
    }

    /// Resolves when it is no longer ready.
    pub async fn stopped_or_stopping(&self) {
        let mut state = self.state.subscribe();
        // The sender is ours.
        let _ = state.wait_for(|state| !matches!(state, PodState::Ready(_))).await;
    }

    /// Any state → NotReady; the time of the first transition is kept.
    pub fn stopped(&self, now: Nanos) -> Nanos {
        self.not_ready(now, false)
    }

    /// As [`Self::stopped`], by who has given back all that it held.
    pub fn released(&self, now: Nanos) -> Nanos {
        self.not_ready(now, true)
    }

    fn not_ready(&self, now: Nanos, released: bool) -> Nanos {
        let mut since = now;
        self.state.send_modify(|state| {
            if let PodState::NotReady { since: first, .. } = state {
                since = *first;
            }
            *state = PodState::NotReady { since, released };
        });
        since
    }

    /// Whether there is nothing to stop or to give back any more.
    pub fn is_released(&self) -> bool {
        matches!(&*self.state.borrow(), PodState::NotReady { released: true, .. })
    }

    /// What it may use in all.
    pub fn limits(&self) -> PodLimits {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over limits that are recorded.
    pub fn set_limits(&self, limits: PodLimits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Its addresses and CNI result.
    pub fn network(&self) -> &PodNetwork {
        &self.network
    }

    /// The first process of the PID namespace that its containers share, if they share one.
    pub fn init_pid(&self) -> Option<i32> {
        self.init_pid.get().copied().flatten()
    }

    /// Its containers, the oldest first.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = self.table().values().cloned().collect();
        all.sort_by_key(|c| c.record.created_at);
        all
    }

    /// One of its containers.
    pub fn container(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.table().get(id).cloned()
    }

    /// Enters a container that has just been made or found.
    pub fn insert(&self, container: Arc<Container>) {
        self.table().insert(container.record.id.clone(), container);
    }

    /// Forgets a container.
    pub fn forget(&self, id: &ContainerId) {
        self.table().remove(id);
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
