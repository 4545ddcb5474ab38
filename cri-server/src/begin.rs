//! The beginning of a sandbox: what takes longest, and depends on nothing that the request says but whether the pod has a
//! network of its own.
//!
//! ```text
//!   directory ─ cgroup ─ spawn ─► crisp-pod ─ greeting ──┬─► begun
//!   a thread: network namespace ─────────────────────────┘
//! ```
//! All of it is under the pod's id and without a record, so that the next daemon [collects](crate::spare::collect) it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use futures::future::Either;
use runtime::client::{ClientError, Spawn};
use tokio::sync::oneshot;

use crate::app::App;
use crate::ids::PodId;
use crate::pod::{NamespaceMode, PodConfig};
use crate::spec::PodFiles;
use crate::supervisor::{Notices, Supervisor};
use crate::task::blocking;
use crate::{Error, Result};

/// A supervisor that has been greeted and has no pod yet.
pub struct Begun {
    /// Of the pod that it will keep.
    pub id: PodId,
    /// The supervisor.
    pub supervisor: Supervisor,
    /// What it tells.
    pub notices: Notices,
}

/// Whether a pod's network namespace is made here. With a user namespace it is that which owns it, so it is made in there.
pub fn makes_network(config: &PodConfig) -> bool {
    config.namespaces.network != NamespaceMode::Node && config.namespaces.user.is_none()
}

/// Starts the supervisor of a sandbox, with its directory and its own cgroup: from this call on, and to its end also when
/// nobody waits for it.
///
/// # Errors
/// The step that failed. What was made by then stays, under the id.
pub fn supervisor(app: &Arc<App>, id: &PodId) -> impl Future<Output = Result<Begun>> + Send + use<> {
    let (app, id) = (app.clone(), id.clone());
    let begun = crate::task::spawn(async move {
        let (starter, pod) = (app.clone(), id.clone());
        let spawned = blocking(move || {
            // First the directory, by whose name the next daemon would find the rest.
            let files = PodFiles::new(&starter.config.state_dir, &pod);
            starter.host.make_directory(&files)?;
            let cgroup = starter.make_supervisor_cgroup(&pod)?;
            let pod = runtime::protocol::PodId::new(pod.as_str())
                .map_err(|_| Error::invalid("pod id", "is not one of ours"))?;
            let spawned = starter.supervisor_binary.spawn(Spawn {
                pod: &pod,
                directory: &files.directory,
                exits: &starter.exits_dir(),
                cgroup: Some(&cgroup),
                stderr: None,
            });
            spawned.map_err(|error: ClientError| crate::supervisor::Error::from(error).into())
        });
        let (supervisor, notices) = Supervisor::adopt(spawned.await?).await?;
        Ok(Begun {
            id,
            supervisor,
            notices,
        })
    });
    async move { begun.await.unwrap_or(Err(Error::Crashed)) }
}

/// Makes a network namespace, from this call on.
///
/// # Errors
/// [`Error::Launch`] with the step that failed; [`Error::Io`] when the daemon has threads enough.
pub fn network() -> impl Future<Output = Result<OwnedFd>> + Send + use<> {
    let (sender, made) = oneshot::channel();
    let begun = runtime::launch::make_network_namespace(move |made| {
        // Whoever wanted it has gone, and it goes as well.
        let _ = sender.send(made);
    });
    match begun.map_err(Error::io("start a thread for", "a network namespace")) {
        Err(error) => Either::Left(std::future::ready(Err(error))),
        Ok(()) => Either::Right(async move {
            let made = made.await.map_err(|_| Error::Crashed)?;
            made.map_err(|failed| Error::Launch(failed.into()))
        }),
    }
}
