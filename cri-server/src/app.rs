//! The daemon's parts, put together once at the start.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use cni::Network;
use oci_spec::runtime::{Process, Spec};
use runtime::client::SupervisorBinary;
use runtime::exit::ExitDirectory;
use runtime::launch::{
    ExactStrings, ExecContext, ExecPlan, IpcMode, LaunchContext, LaunchPlan, NetworkMode, PidMode, Root,
    Sharing,
};

use crate::config::Config;
use crate::confinement::Confinement;
use crate::container::{ContainerName, ContainerRecord, Prepared, Resources};
use crate::exporter::Calls;
use crate::host::Host;
use crate::ids::{ContainerId, PodId};
use crate::inflight::{Inflight, Operations};
use crate::ops::events::Events;
use crate::pod::{NamespaceMode, Pod, PodLimits, PodName};
use crate::registry::Registry;
use crate::spare::Spares;
use crate::store::Store;
use crate::streaming::Streaming;
use crate::{Error, Result};

pub use ahead::{Begun, Wanted};
pub use cgroups::{Cgroups, Place};
pub use features::Features;
use usual::Usual;

mod ahead;
mod cgroups;
mod features;
mod first;
mod images;
mod network;
mod usual;

/// Mutating operations under way, by verb and object.
#[derive(Default)]
pub struct Verbs {
    /// RunPodSandbox, by name.
    pub run_pod: Inflight<PodName, PodId>,
    /// StopPodSandbox.
    pub stop_pod: Inflight<PodId, ()>,
    /// RemovePodSandbox.
    pub remove_pod: Inflight<PodId, ()>,
    /// CreateContainer, by pod and name.
    pub create: Inflight<(PodId, ContainerName), ContainerId>,
    /// StartContainer.
    pub start: Inflight<ContainerId, ()>,
    /// StopContainer.
    pub stop: Inflight<ContainerId, ()>,
    /// UpdateContainerResources, by container and change.
    pub update: Inflight<(ContainerId, Resources), ()>,
    /// UpdatePodSandboxResources, by pod and change.
    pub update_pod: Inflight<(PodId, PodLimits), ()>,
    /// RemoveContainer.
    pub remove: Inflight<ContainerId, ()>,
    /// ReopenContainerLog.
    pub reopen_log: Inflight<ContainerId, ()>,
}

/// Everything that an operation may need.
pub struct App {
    /// The effective configuration.
    pub config: Config,
    /// Of this boot of the node.
    pub boot_id: String,
    /// When the daemon began to serve.
    pub started: Instant,
    /// Records of pods and containers.
    pub store: Store,
    /// Pods and containers in memory.
    pub registry: Registry,
    /// Images and writable layers.
    pub images: image::Store,
    /// What the images of the last containers say of users.
    user_databases: images::KeptDatabases,
    /// Pod networks.
    pub network: Network,
    /// The control group hierarchies of this host.
    pub cgroups: Cgroups,
    /// What confines containers.
    pub confinement: Confinement,
    /// Pods' files and mounts.
    pub host: Host,
    /// Exit records that supervisors write.
    pub exits: ExitDirectory,
    /// What the node can do.
    pub features: Features,
    /// The mount namespace that containers' are copies of.
    empty_mounts: Option<OwnedFd>,
    /// What every supervisor runs.
    pub supervisor_binary: SupervisorBinary,
    /// Exec, attach and port-forward sessions.
    pub streaming: Streaming,
    /// A sandbox begun in advance.
    pub spares: Spares,
    /// What containers are made of, for a spare's first.
    pub usual: Usual,
    /// Mutating operations, for joining.
    pub inflight: Verbs,
    /// Operations, for looking at.
    pub operations: Operations,
    /// Calls that have ended, for the daemon's own metrics.
    pub calls: Arc<Calls>,
    /// What happens, for those who listen.
    pub events: Events,
}

impl App {
    /// Opens all parts.
    ///
    /// # Errors
    /// The first part that cannot be opened, with the reason.
    pub async fn build(config: Config) -> Result<Arc<Self>> {
        let exits = config.state_dir.join("exits");
        let cgroup = config.cgroup.clone();
        let cgroups = tokio::task::spawn_blocking(move || Cgroups::detect(&cgroup));
        let cgroups = cgroups.await.map_err(|_| Error::Crashed)??;
        let (streaming, listener) = Streaming::bind(&config.streaming).await?;
        let images = image::Store::open(images::store_config(&config)).await?;
        let data = config.data_dir.clone();
        let features = tokio::task::spawn_blocking(move || Features::probe(&data));
        let empty_mounts = tokio::task::spawn_blocking(runtime::launch::make_empty_namespace);
        let app = Arc::new(Self {
            empty_mounts: usable(empty_mounts.await.map_err(|_| Error::Crashed)?),
            features: features.await.map_err(|_| Error::Crashed)?,
            boot_id: runtime::exit::boot_id()
                .map_err(Error::io("read", "/proc/sys/kernel/random/boot_id"))?,
            started: Instant::now(),
            store: Store::open(&config.data_dir.join("db/pods.db"))?,
            registry: Registry::default(),
            images,
            user_databases: images::KeptDatabases::default(),
            network: Network::open(network::network_config(&config)?).await?,
            cgroups,
            confinement: Confinement::detect(&config.security, std::path::Path::new("/")),
            host: Host,
            exits: ExitDirectory::open(&exits).map_err(Error::io("open", &exits))?,
            supervisor_binary: SupervisorBinary::load(&config.supervisor.path)
                .map_err(crate::supervisor::Error::from)?,
            streaming,
            spares: Spares::default(),
            usual: Usual::default(),
            inflight: Verbs::default(),
            operations: Operations::default(),
            calls: Arc::default(),
            events: Events::default(),
            config,
        });
        // Nothing comes before the first URL has been given.
        crate::task::spawn(crate::streaming::server::serve(app.clone(), listener));
        Ok(app)
    }

    /// Where supervisors write exit records.
    pub fn exits_dir(&self) -> PathBuf {
        self.config.state_dir.join("exits")
    }

    /// An empty mount namespace for a container to begin from; without it, it begins from a copy of the host's.
    pub fn empty_mounts(&self) -> Option<OwnedFd> {
        self.empty_mounts.as_ref()?.try_clone().ok()
    }

    /// What starts a container, whose specification is `spec`: all but its cgroup. And what its root file system is made
    /// from, if that can be done before.
    ///
    /// # Errors
    /// [`Error::Plan`] naming the field that cannot be carried out; [`Error::Io`] where there is no descriptor left.
    pub fn prepare(
        &self,
        pod: &Pod,
        record: &ContainerRecord,
        spec: Spec,
    ) -> Result<(Prepared, Option<Root>)> {
        let context = LaunchContext {
            rootfs: self.rootfs(&record.id)?,
            cgroup: &self.cgroups.open(&record.cgroup)?,
            sharing: sharing(pod, record),
            exact: ExactStrings {
                args: Some(record.args.clone()),
                env: Some(record.env.clone()),
            },
            images: self.image_volumes(record)?,
            hooks: Some(crate::hooks::context(&self.config.state_dir, &record.id)),
        };
        let plan = LaunchPlan::from_spec(&spec, &context)?.filtered(filter(record));
        let prepared = Prepared {
            spec,
            alone: plan.is_alone(),
            plan: plan.seal().map_err(Error::io("seal", "launch plan"))?,
            root: None,
            log: None,
        };
        self.usual.learn(&plan);
        Ok((prepared, plan.root()))
    }

    /// The plan of an exec, sealed.
    ///
    /// # Errors
    /// [`Error::Plan`] naming the field that cannot be carried out.
    pub fn exec_plan(
        &self,
        record: &ContainerRecord,
        process: &Process,
        args: Vec<Vec<u8>>,
    ) -> Result<OwnedFd> {
        let cgroup = self.cgroups.open(&record.cgroup)?;
        let context = ExecContext {
            cgroup: &cgroup,
            exact: ExactStrings {
                args: Some(args),
                env: Some(record.env.clone()),
            },
            user: record.config.security.namespaces.user.clone(),
        };
        let plan = ExecPlan::from_process(process, &context)?.filtered(filter(record));
        plan.seal().map_err(Error::io("seal", "exec plan"))
    }

    /// Leaves nothing behind that serves no pod.
    pub async fn close(&self) {
        Spares::close(self).await;
        if let Err(error) = self.network.shutdown().await {
            tracing::warn!(%error, "the embedded network stays");
        }
        if let Err(error) = self.images.close().await {
            tracing::warn!(%error, "the tmpfs for writable layers stays");
        }
        if self.registry.pods().is_empty() {
            self.remove_empty_cgroups().await;
        }
    }
}

fn usable(empty_mounts: std::io::Result<OwnedFd>) -> Option<OwnedFd> {
    empty_mounts
        .inspect_err(|error| tracing::debug!(%error, "containers begin from copies of the host's mounts"))
        .ok()
}

/// What every process of a container is filtered by.
fn filter(record: &ContainerRecord) -> Option<runtime::seccomp::Filter> {
    record.seccomp.as_ref().map(|seccomp| seccomp.filter.clone())
}

/// Whose namespaces a container is in; the supervisor has made those of the pod.
fn sharing(pod: &Pod, record: &ContainerRecord) -> Sharing {
    let of_pod = &pod.record.config.namespaces;
    Sharing {
        network: if of_pod.network == NamespaceMode::Node {
            NetworkMode::Host
        } else {
            NetworkMode::Pod
        },
        ipc: if of_pod.ipc == NamespaceMode::Node {
            IpcMode::Host
        } else {
            IpcMode::Pod
        },
        pid: match &record.config.security.namespaces.pid {
            NamespaceMode::Node => PidMode::Host,
            NamespaceMode::Target(_) => PidMode::Target,
            NamespaceMode::Pod if pod.init_pid().is_some() => PidMode::Pod,
            NamespaceMode::Pod | NamespaceMode::Container => PidMode::Container,
        },
    }
}
