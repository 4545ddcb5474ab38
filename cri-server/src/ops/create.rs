//! CreateContainer: everything but a process.

use std::path::PathBuf;
use std::sync::Arc;

use cri_api::v1;
use image::Image;

use crate::app::{App, Begun, Wanted};
use crate::container::{Ahead, Container, ContainerConfig, ContainerRecord, ContainerState, Prepared};
use crate::ids::ContainerId;
use crate::inflight::Progress;
use crate::ops::events::Happened;
use crate::pod::{NamespaceMode, Pod};
use crate::spec::resources::specified;
use crate::spec::{self, ContainerSpec, Ingredients, PodFiles};
use crate::undo::Undo;
use crate::{Error, Result, cdi, convert, logs, ops, time};

/// SIGTERM, signal(7).
const DEFAULT_STOP_SIGNAL: u8 = 15;

/// Makes the container, or joins the work on one of the same name, or returns the one that stands.
///
/// # Errors
/// [`Error::Invalid`] before anything is done; the failed step's error after everything is undone.
pub async fn create(app: &Arc<App>, request: v1::CreateContainerRequest) -> Result<ContainerId> {
    let wire = request
        .config
        .ok_or_else(|| Error::invalid("config", "is missing"))?;
    let config = convert::container::config(&wire)?;
    let pod = app.registry.pod(&request.pod_sandbox_id)?;
    let key = (pod.id().clone(), config.name.clone());
    let task = app.clone();
    Ok(app
        .inflight
        .create
        .run(key, move || make_or_find(task, pod, config))
        .await?)
}

async fn make_or_find(app: Arc<App>, pod: Arc<Pod>, config: ContainerConfig) -> Result<ContainerId> {
    if let Some(container) = app.registry.container_named(&pod, &config.name) {
        let same = container.state() == ContainerState::Created && container.record.config == config;
        return match same {
            true => Ok(container.record.id.clone()),
            false => Err(container.refuse("exists already; remove it or raise the attempt")),
        };
    }
    let progress = app.operations.enter(
        "CreateContainer",
        format!("{}/{}", pod.record.config.name, config.name.name),
    );
    let mut undo = Undo::default();
    match make(&app, &pod, config, &progress, &mut undo).await {
        Ok((record, prepared, ahead)) => {
            undo.commit();
            let id = record.id.clone();
            let container = Container::new(record, ContainerState::Created).prepared(prepared, ahead);
            let container = Arc::new(container);
            app.registry.insert_container(&pod, container.clone());
            app.events.container(&pod, &container, Happened::Created);
            Ok(id)
        }
        Err(error) => {
            progress.stage("undoing after a failure");
            undo.run().await;
            Err(error)
        }
    }
}

async fn make(
    app: &Arc<App>,
    pod: &Arc<Pod>,
    config: ContainerConfig,
    progress: &Progress,
    undo: &mut Undo,
) -> Result<(ContainerRecord, Prepared, Ahead)> {
    pod.ready()?;
    agree(pod, &config)?;
    can_be_had(app, &config)?;
    progress.stage("image");
    let image = app.image(&config.image)?;
    let shown = ops::volumes::shown_images(app, &config).await?;
    let (id, first) = match pod.first.take() {
        Some((id, cgroup)) => (id, Some(cgroup)),
        None => (
            ContainerId::generate().map_err(Error::io("read", "/dev/urandom"))?,
            None,
        ),
    };

    let cgroup = app.cgroups.of_container(&pod.record.cgroup, &id)?;
    // For a failure before the work on it begins below, which has an undoing of its own.
    if let Some(first) = first.clone() {
        let (cleanup, path) = (app.clone(), cgroup.clone());
        undo.push("first cgroup", async move {
            first.settled().await;
            cleanup.remove_cgroup(&path).await
        });
    }

    progress.stage("specification");
    let declared = ops::volumes::declared(app, &id, &image.config.process, &config)?;
    let (cleanup, gone) = (app.clone(), id.clone());
    undo.push("writable layer", async move {
        Ok(cleanup.images.remove_snapshot(gone.as_str()).await?)
    });
    let Begun { layer, limits, ahead } = app.make_ahead(Wanted {
        id: id.clone(),
        image: image.id.clone(),
        volumes: declared.len(),
        cgroup: cgroup.clone(),
        first,
    })?;
    let (cleanup, path, begun) = (app.clone(), cgroup.clone(), ahead.clone());
    undo.push("cgroup", async move {
        begun.settled().await;
        cleanup.remove_cgroup(&path).await
    });
    let built = specify(app, pod, &config, &image, (&id, &cgroup, &declared)).await?;
    // Who wants none has ended already, and said so by the layer.
    let _ = limits.send(specified(&built.spec));

    progress.stage("writable layer and record");
    let seccomp = app.confinement.seccomp(&config.security, &built.spec).await?;
    let record = ContainerRecord {
        pod: pod.id().clone(),
        created_at: time::now(),
        image_id: image.id.to_string(),
        log_path: log_path(pod, &config),
        stop_signal: stop_signal(
            &config,
            image.config.process.stop_signal.as_deref().unwrap_or_default(),
        )?,
        identity: built.identity,
        spec: serde_json::to_string(&built.spec)
            .map_err(|e| Error::io("encode", "specification")(std::io::Error::other(e)))?,
        args: built.args,
        env: built.env,
        seccomp,
        image_volumes: ops::volumes::ids(&shown),
        cgroup,
        config,
        id,
    };
    layer.await.unwrap_or(Err(Error::Crashed))?;
    ops::volumes::hold_images(app, &record, &shown, undo).await?;
    // A pod that is being stopped takes no new container; its removal must not miss one.
    pod.ready()?;
    // All is there that a start needs, so that whoever asks again may be given this container.
    let recorded = app.store.insert_container(&record);
    let (cleanup, gone) = (app.clone(), record.id.clone());
    undo.push("record", async move {
        Ok(cleanup.store.remove_container(&gone).await?)
    });
    // Whatever cannot be carried out is refused here, where kubelet shows it, and not at the start.
    let (mut prepared, root) = app.prepare(pod, &record, built.spec)?;
    if let Some(root) = root.filter(|_| pod.ready().is_ok_and(|supervisor| supervisor.launches_alone())) {
        prepared.root = Some(app.make_root_ahead(&record.id, root));
    }
    if let Some(root) = prepared.root.clone() {
        undo.push("root", async move {
            root.discard().await;
            Ok(())
        });
    }
    recorded.await?;
    pod.ready()?;
    // Last, since it is not undone: logs are kubelet's.
    prepared.log = logs::open_ahead(&record);
    Ok((record, prepared, ahead))
}

/// Puts the specification together from the request, the image and the node.
async fn specify(
    app: &Arc<App>,
    pod: &Arc<Pod>,
    config: &ContainerConfig,
    image: &Image,
    (id, cgroup, declared): (&ContainerId, &str, &[(PathBuf, String)]),
) -> Result<ContainerSpec> {
    let databases = app.user_databases(image).await?;
    let confined = app.confinement.of(&config.security, &pod.record).await?;
    let ingredients = Ingredients {
        id,
        pod: &pod.record,
        config,
        image: &image.config.process,
        databases: &databases,
        files: &PodFiles::new(&app.config.state_dir, pod.id()),
        cgroup: &app.cgroups.in_oci(cgroup)?,
        limits: &app.config.limits,
        held: app.confinement.held(),
        confined: &confined,
        target: pid_target(app, pod, config)?,
        declared,
    };
    let build = || {
        let mut built = spec::build(&ingredients)?;
        cdi::inject(&app.config.cdi_dirs, config, &mut built)?;
        Ok::<_, Error>(built)
    };
    // Devices and their specifications are files of the node; without any, nothing here waits for a disk.
    match has_devices(config)? {
        true => tokio::task::block_in_place(build),
        false => build(),
    }
}

fn has_devices(config: &ContainerConfig) -> Result<bool> {
    Ok(config.security.privileged || !config.devices.is_empty() || cdi::asks_any(config)?)
}

/// What a container asks must be possible in its pod.
fn agree(pod: &Pod, config: &ContainerConfig) -> Result<()> {
    let (of_pod, own) = (&pod.record.config, &config.security);
    if own.privileged && !of_pod.privileged {
        return Err(Error::invalid(
            "linux.security_context.privileged",
            "needs a privileged pod sandbox as well",
        ));
    }
    if own.namespaces.user != of_pod.namespaces.user {
        return Err(Error::invalid(
            "linux.security_context.namespace_options.userns_options",
            "is not that of the sandbox; a container has the same user namespace",
        ));
    }
    for (field, pods, wanted) in [
        ("network", &of_pod.namespaces.network, &own.namespaces.network),
        ("pid", &of_pod.namespaces.pid, &own.namespaces.pid),
        ("ipc", &of_pod.namespaces.ipc, &own.namespaces.ipc),
    ] {
        if *wanted == NamespaceMode::Node && *pods != NamespaceMode::Node {
            return Err(Error::invalid(
                format!("linux.security_context.namespace_options.{field}"),
                "cannot be NODE in a sandbox that has a namespace of its own",
            ));
        }
    }
    Ok(())
}

/// What a container asks must be possible on this node.
fn can_be_had(app: &App, config: &ContainerConfig) -> Result<()> {
    let wanted = config.mounts.iter().any(|mount| mount.recursive_read_only);
    match &app.features.recursive_read_only {
        Err(why) if wanted => Err(Error::RecursiveReadOnly { problem: why.clone() }),
        _ => Ok(()),
    }
}

/// The process whose PID namespace the container joins: that of another container of the pod, or the
/// pod's own first process.
fn pid_target(app: &Arc<App>, pod: &Arc<Pod>, config: &ContainerConfig) -> Result<Option<i32>> {
    match &config.security.namespaces.pid {
        NamespaceMode::Container | NamespaceMode::Node => Ok(None),
        // Without a first process of the pod's own each container has its own namespace.
        NamespaceMode::Pod => Ok(pod.init_pid()),
        NamespaceMode::Target(id) => {
            let (owner, target) = app.registry.container(id)?;
            if owner.id() != pod.id() {
                return Err(Error::invalid(
                    "linux.security_context.namespace_options.target_id",
                    "names a container of another pod",
                ));
            }
            target.running().map(Some)
        }
    }
}

fn log_path(pod: &Pod, config: &ContainerConfig) -> String {
    let directory = pod.record.config.log_directory.trim_end_matches('/');
    match (directory, config.log_path.as_str()) {
        ("", _) | (_, "") => String::new(),
        (directory, path) => format!("{directory}/{path}"),
    }
}

fn stop_signal(config: &ContainerConfig, of_image: &str) -> Result<u8> {
    match (config.stop_signal, of_image) {
        (Some(signal), _) => Ok(signal),
        (None, "") => Ok(DEFAULT_STOP_SIGNAL),
        (None, name) => convert::container::parse_signal(name).ok_or_else(|| {
            Error::invalid(
                "image STOPSIGNAL",
                format!("{name:?} is no signal; set stop_signal"),
            )
        }),
    }
}
