//! StartContainer.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use oci_spec::runtime::Spec;
use runtime::protocol;
use tokio::sync::OwnedMutexGuard;

use crate::app::{App, Place};
use crate::container::{Container, ContainerState, Exit, FdAhead, Prepared};
use crate::hooks::{self, Moment};
use crate::inflight::Progress;
use crate::ops::events::Happened;
use crate::pod::{NamespaceMode, Pod};
use crate::spec::PodFiles;
use crate::spec::resources::{specified, updated};
use crate::supervisor::Supervisor;
use crate::{Error, Result, logs, ops, time};

/// Starts a container that was created; one that runs already is left as it is.
///
/// # Errors
/// [`Error::State`] when it has exited or its sandbox is not ready; [`Error::Launch`] with the step
/// that failed, after which the container is Exited with code 128.
pub async fn start(app: &Arc<App>, id: &str) -> Result<()> {
    let (pod, container) = app.registry.container(id)?;
    let (task, key) = (app.clone(), container.record.id.clone());
    Ok(app
        .inflight
        .start
        .run(key, move || begin(task, pod, container))
        .await?)
}

async fn begin(app: Arc<App>, pod: Arc<Pod>, container: Arc<Container>) -> Result<()> {
    let progress = app
        .operations
        .enter("StartContainer", container.record.config.name.name.clone());
    // Without the container's turn: a file system that does not answer must hold up neither its stop nor its removal.
    let sources = ops::volumes::make_missing_sources(&app, &container.record, &progress).await;
    progress.stage("turn");
    let turn = container.turn.clone().lock_owned().await;
    app.registry.container(container.record.id.as_str())?;
    match container.state() {
        ContainerState::Created => {}
        ContainerState::Running { .. } => return Ok(()),
        ContainerState::Exited { .. } => return Err(container.refuse("has exited; create a new one")),
    }
    let supervisor = pod.ready()?;
    let launched = match sources {
        Ok(()) => launch(&app, &pod, &supervisor, &container, &progress).await,
        Err(error) => Err(error),
    };
    match launched {
        Ok(started) => {
            let state = ContainerState::Created.started(started.process.pid, started.process.started_at.0);
            container.transition(|_| state.clone());
            app.events.container(&pod, &container, Happened::Started);
            let moment = Moment::Started {
                pid: started.process.pid,
            };
            hooks::run(&app.config.state_dir, &container, moment).await;
            record(app, container, state, turn);
            Ok(())
        }
        Err(error) => {
            fail(&app, &pod, &container, &error).await?;
            Err(error)
        }
    }
}

/// Records a start. Not waited for: until it is recorded the supervisor knows, and the next daemon asks it. The turn is held
/// until it is queued, so that no end is recorded before.
fn record(app: Arc<App>, container: Arc<Container>, state: ContainerState, turn: OwnedMutexGuard<()>) {
    crate::task::spawn(async move {
        let recorded = app.store.container_state(&container.record.id, &state);
        drop(turn);
        if let Err(error) = recorded.await {
            let name = &container.record.config.name.name;
            tracing::error!(container = name, %error, "could not record a start");
        }
    });
}

async fn launch(
    app: &Arc<App>,
    pod: &Arc<Pod>,
    supervisor: &Supervisor,
    container: &Arc<Container>,
    progress: &Progress,
) -> Result<protocol::Started> {
    let record = &container.record;
    if app.confinement.has_selinux() {
        progress.stage("labels");
        let files = PodFiles::new(&app.config.state_dir, pod.id());
        app.host.relabel(&files, record).await?;
    }
    progress.stage("cgroup, root and log");
    let Prepared {
        spec,
        plan,
        alone,
        root,
        log,
    } = match container.take_prepared() {
        Some(prepared) => prepared,
        None => app.prepare_again(pod, record).await?,
    };
    if hooks::has_any(&spec) {
        hooks::make_bundle(&app.config.state_dir, record, spec.clone()).await?;
    }
    // Side by side; and both to their ends, so that nothing is made after a failure was undone.
    let alone = alone && supervisor.launches_alone();
    let taken = async { root.as_ref()?.take().await };
    let (log, cgroup, root) = tokio::join!(open_log(container, log), cgroup_of(app, container, &spec), taken);
    let (log, cgroup) = (log?, cgroup?);
    progress.waiting("launch", "the container's own set-up");
    let mut start = protocol::StartContainer::new(record.wire_id()?);
    start.tty = record.config.tty;
    start.stdin = record.config.stdin;
    start.stdin_once = record.config.stdin_once;
    start.oom_file = cgroup.oom_counter().map(text);
    start.cgroup = cgroup.directories().next().map(text);
    start.pid_target = pid_target(app, container)?;
    start.alone = alone;
    let given = protocol::Given {
        log,
        root,
        cgroup: cgroup.open_v2()?,
        empty: alone.then(|| app.empty_mounts()).flatten(),
        ..protocol::Given::new(plan)
    };
    // What is not needed any more is let go of while the container is on its way.
    let (started, ()) = tokio::join!(supervisor.start(start, given), async move { drop(spec) });
    Ok(started?)
}

/// The container's cgroup with the limits specified, or updated since: the one that was made ahead, if nothing has changed.
async fn cgroup_of(app: &Arc<App>, container: &Container, spec: &Spec) -> Result<Place> {
    let is_made = match &container.ahead {
        Some(ahead) => ahead.settled().await,
        None => false,
    };
    let (path, resources) = (&container.record.cgroup, container.resources());
    let specified = specified(spec);
    if resources != container.record.config.resources {
        let limits = updated(specified.unwrap_or_default(), &resources)?;
        return app.make_cgroup(path, Some(limits)).await;
    }
    if is_made && let Some(ready) = app.prepared_cgroup(path)? {
        return Ok(ready);
    }
    app.make_cgroup(path, specified).await
}

/// The protocol names files by text, and all of a cgroup's path is plain.
fn text(path: std::path::PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

/// The container whose PID namespace this one joins, which must run now.
fn pid_target(app: &App, container: &Container) -> Result<Option<protocol::ContainerId>> {
    let NamespaceMode::Target(id) = &container.record.config.security.namespaces.pid else {
        return Ok(None);
    };
    let (_, target) = app.registry.container(id)?;
    target.running()?;
    target.record.wire_id().map(Some)
}

/// The container's log, which may be open already. If not, this tells why.
async fn open_log(container: &Container, ahead: Option<FdAhead>) -> Result<Option<OwnedFd>> {
    if container.record.log_path.is_empty() {
        return Ok(None);
    }
    if let Some(ahead) = ahead
        && let Some(log) = ahead.take().await
        && logs::has_name(&log)
    {
        return Ok(Some(log));
    }
    logs::open(&container.record).await.map(Some)
}

/// A start that failed ends the container: kubelet makes a new one.
async fn fail(app: &Arc<App>, pod: &Arc<Pod>, container: &Arc<Container>, error: &Error) -> Result<()> {
    let exit = Exit::failed_start(error.to_string());
    ops::exits::finish(app, pod, container, exit, time::now()).await
}
