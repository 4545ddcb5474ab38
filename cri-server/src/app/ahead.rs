//! What a container has of the node, made beside the rest of it: its writable layer, and ahead of its start its cgroup, which on
//! v1 is a directory in each of ten hierarchies, and its root file system.
//!
//! ```text
//!   CreateContainer   specification, filter ─┬───── record, launch plan ┬─ answer
//!                     writable layer, cgroup ┴─ limits ─────────────────┼─────────┐
//!                                                                       └─ root ──┤
//!   StartContainer                                                                └─ waits for what is left of that
//! ```
//! A root is a mount that is attached nowhere: it goes with the daemon. Who finds a container that was created before gives its
//! overlay a fresh scratch directory, since one that was used is refused.
//!
//! A writable layer has its container's name and is there first: by it the next daemon finds what one that was killed has
//! made of a container without a record. Whoever removes the cgroup waits until nobody makes it any more.
//!
//! The directories of a sandbox's [first](super::first) container are begun before all of that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use image::ImageId;
use oci_spec::runtime::LinuxResources;
use runtime::cgroup::systemd::Scope;
use runtime::launch::Root;
use tokio::sync::oneshot::{self, Receiver, Sender};

use super::{App, Cgroups};
use crate::container::{Ahead, Container, ContainerRecord, FdAhead, Prepared};
use crate::ids::ContainerId;
use crate::pod::Pod;
use crate::task::blocking;
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
    /// That cgroup, if somebody has begun to make it.
    pub first: Option<Ahead>,
}

/// What is being made.
pub struct Begun {
    /// Tells of the layer.
    pub layer: Receiver<Result<()>>,
    /// Takes the limits of the cgroup, once they are known.
    pub limits: Sender<Option<LinuxResources>>,
    /// The cgroup, with those limits.
    pub ahead: Ahead,
}

impl App {
    /// Begins to make a container's writable layer on an image, and then its cgroup. Where systemd keeps that, it would last
    /// only while a process is in it, so it is left to the start.
    ///
    /// # Errors
    /// [`Error::Cgroup`] for a path that is none. What goes wrong with the layer comes by the channel; with the cgroup the
    /// start tries again, and tells.
    pub fn make_ahead(self: &Arc<Self>, wanted: Wanted) -> Result<Begun> {
        let cgroup = self.cgroups.open(&wanted.cgroup)?;
        let (made, layer) = oneshot::channel();
        let (limits, known) = oneshot::channel::<Option<LinuxResources>>();
        let app = self.clone();
        let runtime = tokio::runtime::Handle::current();
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
            let is_there = wanted
                .first
                .is_some_and(|first| runtime.block_on(first.settled()));
            let directories = if is_there { Ok(()) } else { cgroup.create(None) };
            let made = directories.and_then(|()| {
                // Without limits nothing comes of this container.
                let limits = known.blocking_recv().unwrap_or_default();
                cgroup.limit(limits.as_ref())
            });
            if let Err(error) = &made {
                tracing::debug!(cgroup = wanted.cgroup, %error, "no cgroup ahead of the start");
            }
            made.is_ok()
        });
        let ahead = Ahead::begun(work);
        Ok(Begun { layer, limits, ahead })
    }

    /// Begins to make the root file system of a container whose writable layer is there.
    pub fn make_root_ahead(self: &Arc<Self>, id: &ContainerId, root: Root) -> FdAhead {
        let (app, id) = (self.clone(), id.clone());
        let work = tokio::task::spawn_blocking(move || {
            let mounted = app.images.snapshot_mounts(id.as_str()).map_err(Error::from);
            let made =
                mounted.and_then(|mounted| root.make(mounted).map_err(|failed| Error::Launch(failed.into())));
            made.inspect_err(|error| {
                tracing::debug!(container = id.short(), %error, "no root ahead of the start, which will tell why");
                if let Err(error) = app.images.renew_work(id.as_str()) {
                    tracing::warn!(container = id.short(), %error, "its start will fail");
                }
            })
            .unwrap_or_default()
        });
        FdAhead::begun(work)
    }

    /// Works out the start of a container that a daemon before this one created.
    ///
    /// # Errors
    /// As [`Self::prepare`], and [`Error::Image`].
    pub async fn prepare_again(self: &Arc<Self>, pod: &Pod, record: &ContainerRecord) -> Result<Prepared> {
        let (prepared, _) = self.prepare(pod, record, record.spec()?)?;
        let (app, id) = (self.clone(), record.id.clone());
        // That daemon may have made the root.
        blocking(move || Ok(app.images.renew_work(id.as_str())?)).await?;
        Ok(prepared)
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
