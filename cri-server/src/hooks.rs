//! The daemon's part in OCI hooks: the bundle directory that they read, and those that run after the start and after
//! the end of a container. The others run where the container is made (`runtime::launch`).
//!
//! ```text
//!   <state>/bundles/<id>/config.json   the specification; root.path is the directory beside it
//!                        rootfs/       the container's root, in the container's own mount namespace only
//! ```
//! Only containers whose specification has hooks get one. A hook sees a clean environment, the bundle as its working
//! directory, the OCI state on its stdin, and has a time limit.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use oci_spec::runtime::{Hook, Hooks, Spec};
use runtime::launch::HookContext;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::container::{Container, ContainerRecord};
use crate::ids::ContainerId;
use crate::{Error, Result};

/// For a hook that sets none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the bundle of a container is, made or not.
pub fn context(state_dir: &Path, id: &ContainerId) -> HookContext {
    HookContext {
        id: id.to_string(),
        bundle: state_dir.join("bundles").join(id.as_str()),
    }
}

/// Whether any hook is to run, at any time.
pub fn has_any(spec: &Spec) -> bool {
    spec.hooks()
        .as_ref()
        .is_some_and(|hooks| *hooks != Hooks::default())
}

/// Writes the bundle.
///
/// # Errors
/// [`Error::Io`] naming the path.
pub async fn make_bundle(state_dir: &Path, record: &ContainerRecord, mut spec: Spec) -> Result<()> {
    let bundle = context(state_dir, &record.id).bundle;
    let rootfs = bundle.join("rootfs");
    if let Some(root) = spec.root_mut() {
        root.set_path(rootfs.clone());
    }
    let text = serde_json::to_vec(&spec)
        .map_err(|error| Error::io("encode", bundle.join("config.json"))(std::io::Error::other(error)))?;
    tokio::fs::create_dir_all(&rootfs)
        .await
        .map_err(Error::io("create directory", &rootfs))?;
    let config = bundle.join("config.json");
    tokio::fs::write(&config, text)
        .await
        .map_err(Error::io("write", &config))
}

/// Removes the bundle, if there is one.
///
/// # Errors
/// [`Error::Io`] naming the path.
pub async fn remove_bundle(state_dir: &Path, container: &Container) -> Result<()> {
    if container.has_hooks.get() == Some(&false) {
        return Ok(());
    }
    let bundle = context(state_dir, &container.record.id).bundle;
    match tokio::fs::remove_file(bundle.join("config.json")).await {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("remove", bundle.join("config.json"))(error)),
    }
    for directory in [bundle.join("rootfs"), bundle] {
        tokio::fs::remove_dir(&directory)
            .await
            .map_err(Error::io("remove", &directory))?;
    }
    Ok(())
}

/// When the daemon runs hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// After the container's program was executed.
    Started {
        /// Its process on the node.
        pid: i32,
    },
    /// After it has ended.
    Stopped,
}

/// What hooks are told of a specification, and which there are.
#[derive(serde::Deserialize)]
struct Hooked {
    #[serde(rename = "ociVersion")]
    version: String,
    annotations: Option<HashMap<String, String>>,
    hooks: Option<Hooks>,
}

/// Runs the hooks of a moment. What goes wrong is logged: the container has started, or ended, all the same (OCI runtime
/// spec, "Lifecycle").
pub async fn run(state_dir: &Path, container: &Container, moment: Moment) {
    // Looking through a specification takes as long as some calls in all.
    if container.has_hooks.get() == Some(&false) {
        return;
    }
    let record = &container.record;
    let Ok(spec) = record.part::<Hooked>() else { return };
    let Some(hooks) = &spec.hooks else {
        let _ = container.has_hooks.set(false);
        return;
    };
    let (list, status, pid) = match moment {
        Moment::Started { pid } => (hooks.poststart(), "running", Some(pid)),
        Moment::Stopped => (hooks.poststop(), "stopped", None),
    };
    let bundle = context(state_dir, &record.id).bundle;
    let mut state = json!({
        "ociVersion": spec.version,
        "id": record.id.as_str(),
        "status": status,
        "bundle": bundle,
        "annotations": spec.annotations,
    });
    if let Some(pid) = pid {
        state["pid"] = pid.into();
    }
    let state = state.to_string();
    for hook in list.iter().flatten() {
        if let Err(error) = run_one(hook, &bundle, state.as_bytes()).await {
            tracing::warn!(
                container = record.config.name.name,
                hook = %hook.path().display(),
                %error,
                "a hook failed; the container is as it is"
            );
        }
    }
}

async fn run_one(hook: &Hook, bundle: &Path, state: &[u8]) -> std::io::Result<()> {
    let mut command = Command::new(hook.path());
    if let Some((name, arguments)) = hook.args().as_deref().unwrap_or_default().split_first() {
        command.arg0(name).args(arguments);
    }
    let variables = hook
        .env()
        .iter()
        .flatten()
        .filter_map(|variable| variable.split_once('='));
    command
        .env_clear()
        .envs(variables)
        .current_dir(bundle)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let limit = hook
        .timeout()
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let mut child = command.spawn()?;
    let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let work = async {
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not want to know closes it.
            let _ = stdin.write_all(state).await;
        }
        child.wait().await
    };
    let Ok(status) = tokio::time::timeout(limit, work).await else {
        // It leads a group, whose number is its own as long as it is not reaped.
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        return Err(std::io::ErrorKind::TimedOut.into());
    };
    let status = status?;
    match status.success() {
        true => Ok(()),
        false => Err(std::io::Error::other(status.to_string())),
    }
}
