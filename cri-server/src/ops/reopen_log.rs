//! ReopenContainerLog.

use std::sync::Arc;

use crate::app::App;
use crate::{Result, logs};

/// Makes a running container's log go on in a new file, after kubelet has renamed the old one.
///
/// One at a time: a file system that hangs holds one thread of the daemon's, however often kubelet asks. And whoever asks
/// again has renamed again: the file that the call under way opens may be the renamed one, so its success is not theirs.
///
/// # Errors
/// [`crate::Error::State`] when it does not run, or is reopened already; no file is created then.
pub async fn reopen(app: &Arc<App>, id: &str) -> Result<()> {
    let (pod, container) = app.registry.container(id)?;
    container.running()?;
    if container.record.log_path.is_empty() {
        return Err(container.refuse("has no log: it was created without a log_path"));
    }
    let supervisor = pod.ready()?;
    let key = container.record.id.clone();
    let ours = container.clone();
    let reopening = move || async move {
        let log = logs::open(&ours.record).await?;
        Ok(supervisor.reopen_log(ours.record.wire_id()?, log).await?)
    };
    match app.inflight.reopen_log.run_alone(key, reopening).await {
        Some(outcome) => Ok(outcome?),
        None => {
            Err(container
                .refuse("is having its log reopened already: its file system may not answer; try later"))
        }
    }
}
