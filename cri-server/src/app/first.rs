//! The cgroup of a sandbox's first container, made as soon as the sandbox stands.
//!
//! On v1 a cgroup is a directory in each of ten hierarchies, and so the longest wait of a container. All that these directories
//! need is a name, which is the container's id. So a sandbox chooses the id of its first container:
//!
//! ```text
//!   RunPodSandbox ── answer          CreateContainer   the first: that id, and its limits into that cgroup
//!        └─ directories, meanwhile ───────┘            another: an id and directories of its own
//!   StopPodSandbox   removes what no container came for
//! ```
//!
//! The id is in the sandbox's record: by it the next daemon finds directories that belong to no container.

use std::sync::Arc;

use runtime::cgroup::systemd::Scope;

use super::App;
use crate::Result;
use crate::container::Ahead;
use crate::pod::Pod;

impl App {
    /// Begins to make the cgroup of a sandbox's first container. Where systemd keeps cgroups, one without a process would
    /// not last, so there is none.
    pub fn make_first_cgroup(self: &Arc<Self>, pod: &Pod) {
        let Some(id) = pod.record.first.clone() else {
            return;
        };
        let path = self.cgroups.of_container(&pod.record.cgroup, &id);
        let Ok(cgroup) = path.and_then(|path| self.cgroups.open(&path)) else {
            return;
        };
        if Scope::of(&cgroup).is_some() {
            return;
        }
        let work = tokio::task::spawn_blocking(move || {
            let made = cgroup.create(None);
            if let Err(error) = &made {
                tracing::debug!(%error, "no cgroup for the first container of a sandbox; its creation tries again");
            }
            made.is_ok()
        });
        pod.first.put(id, Ahead::begun(work));
    }

    /// Removes the cgroup of a first container that has not come, and will not.
    ///
    /// # Errors
    /// [`Error::Cgroup`](crate::Error::Cgroup) when it stays.
    pub async fn clear_first_cgroup(&self, pod: &Pod) -> Result<()> {
        let Some((id, ahead)) = pod.first.take() else {
            return Ok(());
        };
        ahead.settled().await;
        let path = self.cgroups.of_container(&pod.record.cgroup, &id)?;
        let removed = self.remove_cgroup(&path).await;
        if removed.is_err() {
            // For whoever tries again.
            pod.first.put(id, ahead);
        }
        removed
    }
}
