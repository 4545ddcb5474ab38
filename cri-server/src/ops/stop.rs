//! StopContainer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::protocol::{SignalScope, Target};
use tokio::sync::watch;
use tokio::time::sleep_until;

use crate::app::App;
use crate::container::{Container, ContainerState, Exit};
use crate::inflight::Progress;
use crate::pod::Pod;
use crate::{Error, Result, ops, supervisor, time};

/// Longest grace that is taken literally: a year.
const LONGEST: u64 = 365 * 24 * 3600;
/// How long a killed container may take to vanish before the call answers that it does not.
pub(super) const KILLED: Duration = Duration::from_secs(10);

/// Asks a container to end, and ends it when its grace is over. Succeeds when it does not exist.
///
/// # Errors
/// [`Error::State`] when even SIGKILL does not end it (a process in uninterruptible sleep).
pub async fn stop(app: &Arc<App>, id: &str, timeout: i64) -> Result<()> {
    match app.registry.container(id) {
        Ok((pod, container)) => stop_container(app, &pod, &container, timeout).await,
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// As [`stop`], for a container in hand.
///
/// # Errors
/// As [`stop`].
pub async fn stop_container(
    app: &Arc<App>,
    pod: &Arc<Pod>,
    container: &Arc<Container>,
    timeout: i64,
) -> Result<()> {
    let grace = Duration::from_secs(u64::try_from(timeout).unwrap_or(0).min(LONGEST));
    let deadline = Instant::now() + grace;
    // Whoever stops it already hears of an earlier deadline; a later one changes nothing.
    container.stop_by.send_if_modified(|current| match current {
        Some(earlier) if *earlier <= deadline => false,
        _ => {
            *current = Some(deadline);
            true
        }
    });
    let (task, pod, stopping) = (app.clone(), pod.clone(), container.clone());
    Ok(app
        .inflight
        .stop
        .run(container.record.id.clone(), move || async move {
            let outcome = end(&task, &pod, &stopping).await;
            stopping.stop_by.send_replace(None);
            outcome
        })
        .await?)
}

async fn end(app: &Arc<App>, pod: &Arc<Pod>, container: &Arc<Container>) -> Result<()> {
    settle_start(app, pod, container).await?;
    if !matches!(container.state(), ContainerState::Running { .. }) {
        return Ok(());
    }
    let progress = app
        .operations
        .enter("StopContainer", container.record.config.name.name.clone());
    let mut ended = container.watch();
    if signal_and_wait(app, pod, container, &progress, &mut ended).await? {
        return Ok(());
    }
    progress.waiting("kill", "the kernel");
    kill(app, pod, container).await?;
    match tokio::time::timeout(KILLED, ended.wait_for(is_over)).await {
        Ok(_) => Ok(()),
        Err(_) => Err(container
            .refuse("was killed but does not vanish: a process sleeps uninterruptibly in the kernel")),
    }
}

/// A start that is under way decides first what there is to stop. It has as long as the container would have had; one
/// that hangs beyond that, in a volume that does not answer, is ended: then the container has never started.
async fn settle_start(app: &Arc<App>, pod: &Arc<Pod>, container: &Arc<Container>) -> Result<()> {
    let record = &container.record;
    let turn = match by_deadline(container, container.turn.lock()).await {
        Some(turn) => turn,
        None => {
            kill(app, pod, container).await?;
            let turn = tokio::time::timeout(KILLED, container.turn.lock()).await;
            turn.map_err(|_| {
                container.refuse(
                    "is being started and cannot be ended: a file system it needs does not answer; stop it again later",
                )
            })?
        }
    };
    if container.state() == ContainerState::Created && app.inflight.start.is_running(&record.id) {
        let exit = Exit::failed_start("stopped before it was started".to_owned());
        ops::exits::finish(app, pod, container, exit, time::now()).await?;
    }
    drop(turn);
    Ok(())
}

/// What is waited for, unless the stop's deadline comes before, which further stops may bring forward.
async fn by_deadline<T>(container: &Container, waited_for: impl Future<Output = T>) -> Option<T> {
    let mut deadline = container.stop_by.subscribe();
    let mut waited_for = std::pin::pin!(waited_for);
    loop {
        let by = deadline.borrow_and_update().unwrap_or_else(Instant::now);
        tokio::select! {
            biased;
            outcome = &mut waited_for => return Some(outcome),
            () = sleep_until(by.into()) => return None,
            // Its other end is the container's own, which is held here.
            _ = deadline.changed() => {}
        }
    }
}

/// Asks the container to end; whether it did before its deadline, which further stops may bring forward.
async fn signal_and_wait(
    app: &App,
    pod: &Pod,
    container: &Container,
    progress: &Progress,
    ended: &mut watch::Receiver<ContainerState>,
) -> Result<bool> {
    let by = container.stop_by.borrow().unwrap_or_else(Instant::now);
    if by <= Instant::now() {
        return Ok(false);
    }
    // Somebody may have frozen it: it could not even begin to end.
    app.cgroups.open(&container.record.cgroup)?.thaw();
    progress.waiting("grace", format!("signal {}", container.record.stop_signal));
    let stop_signal = i32::from(container.record.stop_signal);
    let asked = signal(pod, container, stop_signal, SignalScope::Process);
    match by_deadline(container, asked).await {
        None => return Ok(false),
        // It passes the signal on when it has time.
        Some(Ok(()) | Err(Error::Supervisor(supervisor::Error::Silent))) => {}
        Some(Err(error)) => return Err(error),
    }
    Ok(by_deadline(container, ended.wait_for(is_over)).await.is_some())
}

fn is_over(state: &ContainerState) -> bool {
    matches!(state, ContainerState::Exited { .. })
}

/// Ends all its processes, or its launch: by their supervisor, and by their cgroup also when that has no time.
///
/// # Errors
/// [`Error::Supervisor`] when it does not answer, [`Error::Cgroup`].
pub async fn kill(app: &App, pod: &Pod, container: &Container) -> Result<()> {
    let (told, killed) = tokio::join!(
        signal(pod, container, libc::SIGKILL, SignalScope::All),
        app.kill_cgroup(&container.record.cgroup),
    );
    told.and(killed)
}

/// A supervisor that knows the process no more has nothing left to signal; what one that is gone has left is ended elsewhere.
async fn signal(pod: &Pod, container: &Container, signal: i32, scope: SignalScope) -> Result<()> {
    use crate::supervisor::Error as Failed;
    let Some(supervisor) = pod.supervisor() else {
        return Ok(());
    };
    let target = Target::init(container.record.wire_id()?);
    match supervisor.signal(target, signal, scope).await {
        Ok(()) | Err(Failed::Gone | Failed::Refused(_)) => Ok(()),
        Err(error) => Err(Error::from(error)),
    }
}
