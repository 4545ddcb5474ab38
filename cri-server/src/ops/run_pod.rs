//! RunPodSandbox.

use std::future::ready;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use cri_api::v1;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use runtime::launch::{IpcMode, NetworkMode, PodNamespaceRequest, PodPidMode, PodPlan};

use crate::app::App;
use crate::begin::{self, Begun};
use crate::convert;
use crate::ids::{ContainerId, PodId};
use crate::inflight::Progress;
use crate::ops::events::Happened;
use crate::pod::{NamespaceMode, Pod, PodConfig, PodNetwork, PodRecord, PodState};
use crate::spare::{Spare, Spares};
use crate::spec::PodFiles;
use crate::supervisor::{Notices, Supervisor};
use crate::undo::Undo;
use crate::{Error, Result, ops, time};

/// Makes the sandbox, or joins the work on one of the same name, or returns the one that stands.
///
/// # Errors
/// [`Error::Invalid`] before anything is done; the failed step's error after everything is undone.
pub async fn run(app: &Arc<App>, request: v1::RunPodSandboxRequest) -> Result<PodId> {
    let wire = request
        .config
        .ok_or_else(|| Error::invalid("config", "is missing"))?;
    let mut config = convert::pod::config(&wire, &request.runtime_handler)?;
    config.cgroup_parent = app.cgroups.parent(&config.cgroup_parent)?;
    if !ops::status::is_handler(app, &config.handler) {
        return Err(Error::invalid(
            "runtime_handler",
            format!(
                "{:?} is not configured; add a [handlers.NAME] table or use the default",
                config.handler
            ),
        ));
    }
    if config.namespaces.user.is_some()
        && let Err(why) = &app.features.user_namespaces
    {
        return Err(Error::invalid(
            "namespace_options.userns_options.mode",
            format!(
                "is POD, but this node has no user namespaces with id-mapped mounts: {why}; set hostUsers to true"
            ),
        ));
    }
    let key = config.name.clone();
    let task = app.clone();
    Ok(app
        .inflight
        .run_pod
        .run(key, move || make_or_find(task, config))
        .await?)
}

async fn make_or_find(app: Arc<App>, config: PodConfig) -> Result<PodId> {
    if let Some(pod) = app.registry.pod_named(&config.name) {
        return if pod.is_ready() && pod.record.config == config {
            Ok(pod.id().clone())
        } else {
            Err(Error::State {
                object: format!("pod sandbox {}", config.name),
                problem: "exists already with another state or configuration; remove it or raise the attempt",
            })
        };
    }
    let progress = app.operations.enter("RunPodSandbox", config.name.to_string());
    let mut undo = Undo::default();
    match make(&app, with_hostname(config), &progress, &mut undo).await {
        Ok((record, made)) => {
            undo.commit();
            let Made {
                supervisor,
                notices,
                network,
                init_pid,
            } = made;
            let pod = Arc::new(Pod::new(record, PodState::Ready(supervisor), network));
            pod.told(init_pid);
            // Before anybody can stop it.
            app.make_first_cgroup(&pod);
            app.registry.insert_pod(pod.clone());
            ops::exits::watch(&app, &pod, notices);
            app.events.pod(&pod, Happened::Created);
            app.events.pod(&pod, Happened::Started);
            Spares::refill(&app);
            Ok(pod.id().clone())
        }
        Err(error) => {
            progress.stage("undoing after a failure");
            undo.run().await;
            Spares::release_unused(&app);
            Err(error)
        }
    }
}

/// Without a name of its own a pod has the node's; kubelet sends none for pods in the node's network.
fn with_hostname(mut config: PodConfig) -> PodConfig {
    if config.hostname.is_empty() {
        config.hostname = nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
    }
    config
}

/// What a finished sandbox consists of.
struct Made {
    supervisor: Supervisor,
    notices: Notices,
    network: PodNetwork,
    init_pid: Option<i32>,
}

async fn make(
    app: &Arc<App>,
    config: PodConfig,
    progress: &Progress,
    undo: &mut Undo,
) -> Result<(PodRecord, Made)> {
    let spare = app.spares.take(&config);
    let id = match &spare {
        Some(spare) => spare.begun.id.clone(),
        None => PodId::generate().map_err(Error::io("read", "/dev/urandom"))?,
    };
    let files = PodFiles::new(&app.config.state_dir, &id);
    // The record goes last: as long as there may be anything of the sandbox, the next daemon must know of it.
    let (store, forgotten) = (app.clone(), id.clone());
    undo.push(
        "record",
        async move { Ok(store.store.remove_pod(&forgotten).await?) },
    );
    let (cleanup, leaving) = (app.clone(), id.clone());
    undo.push("supervisor", async move {
        cleanup.remove_supervisor_cgroup(&leaving).await
    });
    let (host, directory) = (app.host.clone(), files.clone());
    undo.push("files", async move { host.remove_files(directory).await });
    let record = PodRecord {
        cgroup: app.cgroups.of_pod(&config.cgroup_parent, &id)?,
        created_at: time::now(),
        boot_id: app.boot_id.clone(),
        id,
        config,
        first: Some(ContainerId::generate().map_err(Error::io("read", "/dev/urandom"))?),
    };
    let plan = pod_plan(&record)?;
    progress.stage("record and network namespace");
    let (begun, network) = beginning(app, &record, spare);
    let (recorded, network) = tokio::join!(app.store.insert_pod(&record), network);
    let network = match recorded.map_err(Error::from).and(network) {
        Ok(network) => network,
        Err(error) => {
            // It is there before it is removed.
            let _ = begun.await;
            return Err(error);
        }
    };

    let (cleanup, path) = (app.clone(), record.cgroup.clone());
    undo.push("cgroup", async move { cleanup.remove_cgroup(&path).await });
    let (cleanup, leaving) = (app.clone(), record.id.clone());
    undo.push("network", async move { cleanup.detach(&leaving).await });
    // Side by side; and all to their ends, so that nothing is made after a failure was undone.
    let label = app.confinement.shared_label(&record);
    let (cgroup, written, made) = tokio::join!(
        app.make_pod_cgroup(&record.cgroup),
        app.host.make_files(&files, &record, label),
        connect(app, &record, (begun, plan), network, progress),
    );
    cgroup.and(written)?;
    let made = made?;
    progress.stage("hosts and record");
    let (hosts, recorded) = tokio::join!(
        app.host.write_hosts(&files, &record, &made.network),
        app.store.pod_ready(&record.id, &made.network),
    );
    hosts?;
    recorded?;
    Ok((record, made))
}

type Begins = BoxFuture<'static, Result<Begun>>;
type Network = BoxFuture<'static, Result<Option<OwnedFd>>>;

/// What the sandbox begins with: what was made in advance, or is being made from now on.
fn beginning(app: &Arc<App>, record: &PodRecord, spare: Option<Spare>) -> (Begins, Network) {
    if let Some(Spare { begun, network }) = spare {
        return (ready(Ok(begun)).boxed(), ready(Ok(Some(network))).boxed());
    }
    let begun = begin::supervisor(app, &record.id).boxed();
    let network = match begin::makes_network(&record.config) {
        true => begin::network().map_ok(Some).boxed(),
        false => ready(Ok(None)).boxed(),
    };
    (begun, network)
}

/// Has the pod's namespaces made, and connects its network, which was made already or is one of them.
async fn connect(
    app: &Arc<App>,
    record: &PodRecord,
    (begun, plan): (Begins, PodPlan),
    network: Option<OwnedFd>,
    progress: &Progress,
) -> Result<Made> {
    let given = network.as_ref().map(OwnedFd::try_clone).transpose();
    progress.waiting("supervisor and network", "the supervisor or the pod network");
    let namespaces = async {
        // First of all: it is there before it is removed.
        let begun = begun.await?;
        let given = given.map_err(Error::io("dup", "network namespace"))?;
        let plan = plan.seal().map_err(Error::io("memfd_create", "pod plan"))?;
        let created = begun.supervisor.create_pod(plan, given).await?;
        Ok::<_, Error>((begun, created))
    };
    let ((begun, created), network) = match network {
        // At the same time, unless links would come into being while parameters of theirs are set.
        Some(netns) if !sets_network_parameters(record) => {
            let (namespaces, network) = tokio::join!(namespaces, app.attach(record, netns));
            (namespaces?, network?)
        }
        _ => {
            let (begun, mut created) = namespaces.await?;
            let network = match created.network.take() {
                Some(netns) => app.attach(record, netns).await?,
                None => PodNetwork::default(),
            };
            ((begun, created), network)
        }
    };
    let Begun {
        supervisor, notices, ..
    } = begun;
    Ok(Made {
        supervisor,
        notices,
        network,
        init_pid: created.init_pid,
    })
}

/// Whether the request has kernel parameters of the network; ours alone do not concern links.
fn sets_network_parameters(record: &PodRecord) -> bool {
    let mut asked = record.config.sysctls.keys();
    asked.any(|name| name.starts_with("net.") || name.starts_with("net/"))
}

fn pod_plan(record: &PodRecord) -> Result<PodPlan> {
    let namespaces = &record.config.namespaces;
    let of_node = |mode: &NamespaceMode| *mode == NamespaceMode::Node;
    Ok(PodPlan::new(PodNamespaceRequest {
        hostname: (!of_node(&namespaces.network)).then(|| record.config.hostname.clone()),
        network: if of_node(&namespaces.network) {
            NetworkMode::Host
        } else {
            NetworkMode::Pod
        },
        ipc: if of_node(&namespaces.ipc) {
            IpcMode::Host
        } else {
            IpcMode::Pod
        },
        pid: match namespaces.pid {
            NamespaceMode::Pod => PodPidMode::Pod,
            NamespaceMode::Node => PodPidMode::Host,
            NamespaceMode::Container | NamespaceMode::Target(_) => PodPidMode::Container,
        },
        user: namespaces.user.clone(),
        sysctls: sysctls(record),
    })?)
}

/// The request's, on top of two that let containers without privileges listen on low ports and ping.
fn sysctls(record: &PodRecord) -> Vec<(String, String)> {
    let asked = &record.config.sysctls;
    // The kernel takes only groups that the pod has.
    let last_group = match &record.config.namespaces.user {
        None => i32::MAX as u32,
        Some(ids) => ids.last_gid_from_root().unwrap_or(0),
    };
    let ours = [
        ("net.ipv4.ip_unprivileged_port_start", "0".to_owned()),
        ("net.ipv4.ping_group_range", format!("0 {last_group}")),
    ];
    let unset = |name: &str| !asked.keys().any(|asked| asked.replace('/', ".") == name);
    ours.into_iter()
        .filter(|(name, _)| !record.host_network() && unset(name))
        .map(|(name, value)| (name.to_owned(), value))
        // With slashes a dot is part of a name, as in that of a VLAN, so the spelling is kept.
        .chain(asked.iter().map(|(name, value)| (name.clone(), value.clone())))
        .collect()
}
