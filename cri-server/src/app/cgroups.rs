//! Where pods, containers and supervisors are in the cgroup tree, and the work on it off the async threads.
//!
//! ```text
//!   <cgroup_parent>/<pod id>          the pod's own, found by agents under its id
//!   <cgroup_parent>/<container id>    its containers
//!   <root>/sup/<pod id>               its supervisor, out of reach of what kubelet kills
//! ```

use std::sync::Arc;

use oci_spec::runtime::LinuxResources;
use runtime::cgroup::{Cgroup, CgroupError, Hierarchies, Layout};

use super::App;
use crate::ids::PodId;
use crate::{Error, Result};

/// The tree of this host, and our place in it.
#[derive(Clone, Debug)]
pub struct Cgroups {
    hierarchies: Arc<Hierarchies>,
    root: String,
}

impl Cgroups {
    /// Finds the hierarchies. `root` is the parent of pods that name none.
    ///
    /// # Errors
    /// [`CgroupError::Detect`] on a host without cgroups.
    pub fn detect(root: &std::path::Path) -> std::result::Result<Self, CgroupError> {
        let root = root.to_string_lossy().trim_end_matches('/').to_owned();
        Ok(Self {
            hierarchies: Hierarchies::detect()?,
            root,
        })
    }

    /// How the host mounts them, for people.
    pub fn mode(&self) -> &'static str {
        match self.hierarchies.layout() {
            Layout::V1 => "v1",
            Layout::Hybrid => "v1 (hybrid)",
            Layout::V2 => "v2",
        }
    }

    /// The path of a pod or container below its pod's parent.
    ///
    /// # Errors
    /// [`Error::Cgroup`] for a parent that is no plain path.
    pub fn path(&self, parent: &str, id: &str) -> Result<String> {
        let parent = if parent.is_empty() { &self.root } else { parent };
        let cgroup = Cgroup::new(&self.hierarchies, parent, id)?;
        Ok(format!("/{}", cgroup.path().display()))
    }

    /// The cgroup at a recorded path.
    ///
    /// # Errors
    /// [`Error::Cgroup`] for a damaged record.
    pub fn open(&self, path: &str) -> Result<Cgroup> {
        let (parent, id) = path.rsplit_once('/').unwrap_or(("", path));
        Ok(Cgroup::new(&self.hierarchies, parent, id)?)
    }

    fn supervisor(&self, pod: &PodId) -> Result<Cgroup> {
        Ok(Cgroup::service(
            &self.hierarchies,
            &format!("{}/sup/{pod}", self.root),
        )?)
    }

    fn own(&self) -> Result<Cgroup> {
        Ok(Cgroup::service(&self.hierarchies, &format!("{}/sup", self.root))?)
    }
}

impl App {
    /// Makes a cgroup with limits.
    ///
    /// # Errors
    /// [`Error::Cgroup`]; what was made is removed again.
    pub async fn make_cgroup(&self, path: &str, limits: Option<LinuxResources>) -> Result<Cgroup> {
        let cgroup = self.cgroups.open(path)?;
        blocking(move || {
            cgroup.create(limits.as_ref())?;
            Ok(cgroup)
        })
        .await
    }

    /// Changes the limits of a cgroup: all, or none.
    ///
    /// # Errors
    /// [`Error::Cgroup`] naming the limit that cannot be.
    pub async fn update_cgroup(&self, path: &str, limits: LinuxResources) -> Result<()> {
        let cgroup = self.cgroups.open(path)?;
        blocking(move || Ok(cgroup.update(&limits)?)).await
    }

    /// Removes a cgroup; one that does not exist is removed already.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when processes stay in it.
    pub async fn remove_cgroup(&self, path: &str) -> Result<()> {
        let cgroup = self.cgroups.open(path)?;
        blocking(move || Ok(cgroup.remove()?)).await
    }

    /// Kills every process in a cgroup.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when processes keep appearing.
    pub async fn kill_cgroup(&self, path: &str) -> Result<()> {
        let cgroup = self.cgroups.open(path)?;
        blocking(move || Ok(cgroup.kill()?)).await
    }

    /// Makes the cgroup that a pod's supervisor enters.
    ///
    /// # Errors
    /// [`Error::Cgroup`].
    pub async fn make_supervisor_cgroup(&self, pod: &PodId) -> Result<Cgroup> {
        let cgroup = self.cgroups.supervisor(pod)?;
        blocking(move || {
            cgroup.create(None)?;
            Ok(cgroup)
        })
        .await
    }

    /// Ends a supervisor that may still be there, and removes its cgroup.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when it does not vanish.
    pub async fn remove_supervisor_cgroup(&self, pod: &PodId) -> Result<()> {
        let cgroup = self.cgroups.supervisor(pod)?;
        blocking(move || {
            cgroup.kill()?;
            Ok(cgroup.remove()?)
        })
        .await
    }

    /// Removes the groups above those of supervisors and of pods without a parent, when nobody is in them.
    pub(super) async fn remove_empty_cgroups(&self) {
        let Ok(supervisors) = self.cgroups.own() else {
            return;
        };
        let root = self.cgroups.open(&self.cgroups.root);
        let removed = blocking(move || {
            supervisors.remove()?;
            Ok(root?.remove()?)
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "a cgroup of ours stays");
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Error::Crashed))
}
