//! The life of the daemon: one instance, its socket, readiness, and a clean end.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri_api::admin::admin_server::AdminServer;
use cri_api::v1::image_service_server::ImageServiceServer;
use cri_api::v1::runtime_service_server::RuntimeServiceServer;
use futures::Stream;
use rustix::fs::{FlockOperation, flock};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;
use tower::layer::util::{Identity, Stack};

use crate::app::App;
use crate::config::Config;
use crate::service::admin::Admin;
use crate::service::deadline::Deadline;
use crate::service::observe::Observe;
use crate::service::{Images, Runtime};
use crate::spare::Spares;
use crate::{Error, Result, telemetry};

/// How long calls under way may take to end after SIGTERM; what they do is taken up by the next start.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a child of a daemon that was killed may take to execute its program.
const LAST_CHILD: Duration = Duration::from_millis(500);
/// How long to wait before accepting again when the process has run out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps the daemon from starting: another instance, a directory it cannot use, records of a
/// newer version.
pub async fn serve(config: Config) -> Result<()> {
    runtime::client::keep_heap_small();
    raise_open_files();
    runtime::client::keep_descriptors_from_children().map_err(Error::io("close_range", "/proc/self/fd"))?;
    directories(&config)?;
    let _instance = only_instance(&config.state_dir)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("watch", "SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("watch", "SIGINT"))?;

    let socket = config.socket.clone();
    let app = App::build(config).await?;
    crate::recover::recover(&app).await?;
    if !app.registry.pods().is_empty() {
        Spares::refill(&app);
    }
    crate::exporter::start(&app).await?;
    let (listener, ours) = listen(&socket)?;
    tracing::info!(socket = %socket.display(), version = env!("CARGO_PKG_VERSION"), "serving");
    telemetry::notify_ready();
    crate::rest::watch(&app);

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = crate::task::spawn(
        router(&app)
            .serve_with_incoming_shutdown(incoming(listener), async move { stopped.await.unwrap_or(()) }),
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; pods go on");
    telemetry::notify_stopping();
    drop(stop);
    // Clients keep idle connections open for ever; only calls under way are worth waiting for.
    let _ = tokio::time::timeout(FAREWELL, async {
        while !app.operations.list().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    server.abort();
    app.close().await;
    if ours {
        fs::remove_file(&socket).map_err(Error::io("remove", &socket))?;
    }
    Ok(())
}

fn router(app: &Arc<App>) -> tonic::transport::server::Router<Stack<Deadline, Stack<Observe, Identity>>> {
    let limit = cri_api::MAX_MESSAGE_SIZE;
    Server::builder()
        .layer(Observe(app.calls.clone()))
        .layer(Deadline)
        .add_service(RuntimeServiceServer::new(Runtime(app.clone())).max_decoding_message_size(limit))
        .add_service(ImageServiceServer::new(Images(app.clone())).max_decoding_message_size(limit))
        .add_service(AdminServer::new(Admin(app.clone())).max_decoding_message_size(limit))
}

/// Each stream and each call takes descriptors, of the daemon's and of the supervisors it starts: both may have as many
/// as the hard limit allows. What containers may have is in their specification.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(errno) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%errno, soft = ?limit.current, "the limit of open files stays as it is");
    }
}

/// The daemon's directories. The state directory is searchable, because its socket has a group; what
/// lies in it is not.
fn directories(config: &Config) -> Result<()> {
    for (path, mode) in [
        (config.state_dir.clone(), 0o711),
        (config.state_dir.join("sandboxes"), 0o711),
        (config.state_dir.join("exits"), 0o700),
        (config.data_dir.clone(), 0o700),
        (config.data_dir.join("db"), 0o700),
    ] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&path)
            .map_err(Error::io("create directory", &path))?;
    }
    Ok(())
}

/// Holds the lock of the state directory for as long as the file lives.
fn only_instance(state_dir: &Path) -> Result<File> {
    let path = state_dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    let begun = Instant::now();
    let mut locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
    // A daemon that was killed while it started a supervisor leaves a child that has the file until it executes.
    while locked == Err(rustix::io::Errno::WOULDBLOCK) && begun.elapsed() < LAST_CHILD {
        std::thread::sleep(Duration::from_millis(2));
        locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
    }
    locked.map_err(|errno| match errno {
        rustix::io::Errno::WOULDBLOCK => Error::invalid(
            "state_dir",
            format!(
                "{} is in use by a running crisp; stop that one or choose another directory",
                state_dir.display()
            ),
        ),
        errno => Error::io("lock", &path)(errno.into()),
    })?;
    Ok(file)
}

/// The socket: the service manager's, which survives our restarts, or one of our own.
fn listen(path: &Path) -> Result<(UnixListener, bool)> {
    let refuse = Error::io("listen on", path);
    if let Some(inherited) = inherited_listener() {
        return inherited.map(|listener| (listener, false)).map_err(refuse);
    }
    bind(path).map(|listener| (listener, true)).map_err(refuse)
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(parent)?;
    }
    // The lock is ours, so a socket found here belongs to nobody.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// The first descriptor of sd_listen_fds(3), when it is meant for this process.
fn inherited_listener() -> Option<io::Result<UnixListener>> {
    let variable = |name: &str| std::env::var(name).ok();
    let for_us = variable("LISTEN_PID")?.parse::<u32>().ok()? == std::process::id();
    let some = variable("LISTEN_FDS")?.parse::<u32>().ok()? >= 1;
    if !for_us || !some {
        return None;
    }
    Some(descriptor(3).and_then(|fd| {
        let listener = std::os::unix::net::UnixListener::from(fd);
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    }))
}

/// A duplicate of a descriptor that this process was started with, whatever its number stands for.
fn descriptor(number: i32) -> io::Result<OwnedFd> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(this, number, PidfdGetfdFlags::empty())?)
}

/// Accepts for ever. Running out of descriptors passes; giving up would not.
fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    futures::stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if let Ok(peer) = stream.peer_cred() {
                        tracing::debug!(
                            pid = peer.pid(),
                            uid = peer.uid(),
                            gid = peer.gid(),
                            "client connected"
                        );
                    }
                    return Some((Ok(stream), listener));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}
