//! ReopenContainerLog.

use std::sync::Arc;

use crate::app::App;
use crate::{Error, Result, logs};

/// Makes a running container's log go on in a new file, after kubelet has renamed the old one.
///
/// # Errors
/// [`Error::State`] when it does not run; no file is created then.
pub async fn reopen(app: &Arc<App>, id: &str) -> Result<()> {
    let (pod, container) = app.registry.container(id)?;
    container.running()?;
    if container.record.log_path.is_empty() {
        return Err(container.refuse("has no log: it was created without a log_path"));
    }
    let supervisor = pod.ready()?;
    let log = logs::open(&container.record).await?;
    supervisor
        .reopen_log(container.record.wire_id()?, log)
        .await
        .map_err(Error::from)
}
