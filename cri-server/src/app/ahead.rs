//! What a container has of the node, made by one thread: its writable layer, and ahead of its start its cgroup, which on v1
//! is a directory in each of ten hierarchies.
//!
//! ```text
//!   CreateContainer   filter ─────────┬─ record, launch plan ─ answer
//!                     writable layer ─┴─ cgroup and limits ────────────┐
//!   StartContainer                                                     └─ waits for what is left of that
//! ```
//! A writable layer has its container's name and is there first: by it the next daemon finds what one that was killed has
//! made of a container without a record. Whoever removes the cgroup waits until nobody makes it any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use image::ImageId;
use oci_spec::runtime::LinuxResources;
use runtime::cgroup::systemd::Scope;
use tokio::sync::oneshot::{self, Receiver};

use super::{App, Cgroups};
use crate::container::{Ahead, Container};
use crate::ids::ContainerId;
use crate::{Error, Result};

/// What is to be made.
pub struct Wanted {
    /// Of which container.
    pub id: ContainerId,
    /// What its layer is on.
    pub image: ImageId,
    /// How many volumes the layer has.
    pub volumes: usize,
    /// The path of its cgroup.
    pub cgroup: String,
    /// What limits it.
    pub limits: Option<LinuxResources>,
}

impl App {
    /// Begins to make a container's writable layer on an image, and then its cgroup with its limits. Where systemd keeps
    /// that, it would last only while a process is in it, so it is left to the start.
    ///
    /// # Errors
    /// [`Error::Cgroup`] for a path that is none. What goes wrong with the layer comes by the channel; with the cgroup the
    /// start tries again, and tells.
    pub fn make_ahead(self: &Arc<Self>, wanted: Wanted) -> Result<(Receiver<Result<()>>, Ahead)> {
        let cgroup = self.cgroups.open(&wanted.cgroup)?;
        let (made, layer) = oneshot::channel();
        let app = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let prepared = app
                .images
                .prepare_here(&wanted.image, wanted.id.as_str(), wanted.volumes);
            let has_layer = prepared.is_ok();
            // Whoever has gone meanwhile takes it away again.
            let _ = made.send(prepared.map(drop).map_err(Error::from));
            if !has_layer || Scope::of(&cgroup).is_some() {
                return false;
            }
            let made = cgroup.create(wanted.limits.as_ref());
            if let Err(error) = &made {
                tracing::debug!(cgroup = wanted.cgroup, %error, "no cgroup ahead of the start");
            }
            made.is_ok()
        });
        Ok((layer, Ahead::begun(work)))
    }

    /// Removes the cgroup of a container that does not run, unless this daemon has. It is begun when the outer future is
    /// done, and is over when the inner one is.
    ///
    /// # Errors
    /// As [`Self::remove_cgroup`].
    pub async fn clear_cgroup(
        &self,
        container: &Container,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        if let Some(ahead) = &container.ahead {
            ahead.settled().await;
        }
        let gone = container.cgroup_gone.clone();
        let removal = (!gone.load(Ordering::Acquire)).then(|| self.remove_cgroup(&container.record.cgroup));
        async move {
            if let Some(removal) = removal {
                removal.await?;
                gone.store(true, Ordering::Release);
            }
            Ok(())
        }
    }

    /// Removes the cgroup that a daemon before this one may have made of a container that it did not record, in one of
    /// the pods whose cgroups are `pods`.
    pub(super) async fn remove_unrecorded_cgroup(&self, id: &ContainerId, pods: &[String]) -> Result<()> {
        for path in self.cgroups.places(id, pods)? {
            self.remove_cgroup(&path).await?;
        }
        Ok(())
    }
}

impl Cgroups {
    /// Where a container's cgroup may be that belongs to one of these pods; those in the same place are looked at once.
    fn places(&self, id: &ContainerId, pods: &[String]) -> Result<BTreeSet<String>> {
        pods.iter().map(|pod| self.of_container(pod, id)).collect()
    }
}
