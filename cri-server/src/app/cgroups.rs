//! Where pods, containers and supervisors are in the cgroup tree, and the work on it off the async threads.
//!
//! ```text
//!                  cgroupfs                          systemd
//!   a pod's own    <cgroup_parent>/<pod id>          <slice>/<pod id>     found by agents under its id; nobody is in it
//!   a container's  <cgroup_parent>/<container id>    <slice>/crisp-<container id>.scope
//!   a supervisor's <root>/sup/<pod id>               the same             out of reach of what kubelet kills
//! ```
//! A record holds the path, and the path says who has made it: one that ends in a scope is systemd's, whatever the
//! driver is by now.

use std::path::Path;
use std::sync::Arc;

use oci_spec::runtime::LinuxResources;
use runtime::cgroup::systemd::{Scope, Slice, Systemd};
use runtime::cgroup::{Cgroup, Hierarchies, Layout};
use runtime::client::Placeholder;

use super::App;
use crate::config::{self, CgroupDriver};
use crate::ids::{ContainerId, PodId};
use crate::task::blocking;
use crate::{Error, Result};

/// The tree of this host, and our place in it.
#[derive(Clone, Debug)]
pub struct Cgroups {
    hierarchies: Arc<Hierarchies>,
    root: String,
    driver: Driver,
    systemd: Systemd,
}

/// Who makes containers' cgroups.
#[derive(Clone, Debug)]
enum Driver {
    Cgroupfs,
    Systemd {
        /// First part of scopes' names.
        prefix: String,
        /// Of pods that name no parent.
        slice: Slice,
    },
}

impl Cgroups {
    /// Finds the hierarchies and, where it is wanted, systemd. Blocks for as long as systemd takes to answer.
    ///
    /// # Errors
    /// [`Error::Cgroup`] on a host without cgroups; the same when the configuration wants systemd
    /// and it does not answer; [`Error::Invalid`] when it does on a host that has v1 hierarchies.
    pub fn detect(config: &config::Cgroup) -> Result<Self> {
        let hierarchies = Hierarchies::detect()?;
        let systemd = Systemd::of_host();
        let driver = match config.driver {
            CgroupDriver::Cgroupfs => Driver::Cgroupfs,
            CgroupDriver::Auto if hierarchies.layout() != Layout::V2 || !Systemd::has_booted() => {
                Driver::Cgroupfs
            }
            CgroupDriver::Auto => match systemd.version() {
                Ok(_) => Driver::systemd(config)?,
                Err(error) => {
                    tracing::warn!(%error, "systemd runs this host but cannot be asked; cgroups are made without it");
                    Driver::Cgroupfs
                }
            },
            CgroupDriver::Systemd if hierarchies.layout() != Layout::V2 => {
                return Err(Error::invalid(
                    "cgroup.driver",
                    "is systemd, which takes a host with cgroup v2 alone; boot with \
                     systemd.unified_cgroup_hierarchy=1 or write \"cgroupfs\"",
                ));
            }
            CgroupDriver::Systemd => {
                systemd.version()?;
                Driver::systemd(config)?
            }
        };
        Ok(Self {
            hierarchies,
            root: config.root.to_string_lossy().trim_end_matches('/').to_owned(),
            driver,
            systemd,
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

    /// Whether systemd makes those of containers.
    pub fn has_systemd(&self) -> bool {
        matches!(self.driver, Driver::Systemd { .. })
    }

    /// The parent that kubelet asks for, as a path of the tree; empty for none.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a parent that is no slice where systemd makes cgroups.
    pub fn parent(&self, asked: &str) -> Result<String> {
        match &self.driver {
            Driver::Systemd { .. } if !asked.is_empty() => {
                Slice::parse(asked).map(|slice| slice.path()).map_err(|error| {
                    Error::invalid(
                        "config.linux.cgroup_parent",
                        format!(
                            "{error}; write `cgroupDriver: systemd` in kubelet's configuration, or driver = \
                             \"cgroupfs\" in crisp's"
                        ),
                    )
                })
            }
            Driver::Systemd { .. } | Driver::Cgroupfs => Ok(asked.to_owned()),
        }
    }

    /// The path of a pod's own cgroup below its parent.
    ///
    /// # Errors
    /// [`Error::Cgroup`] for a parent that is no plain path.
    pub fn of_pod(&self, parent: &str, pod: &PodId) -> Result<String> {
        let default = match &self.driver {
            Driver::Cgroupfs => self.root.clone(),
            Driver::Systemd { slice, .. } => slice.path(),
        };
        let parent = if parent.is_empty() { &default } else { parent };
        let cgroup = Cgroup::new(&self.hierarchies, parent, pod.as_str())?;
        Ok(format!("/{}", cgroup.path().display()))
    }

    /// The path of a container's cgroup, beside that of its pod.
    ///
    /// # Errors
    /// [`Error::Cgroup`] for a damaged record.
    pub fn of_container(&self, pod: &str, container: &ContainerId) -> Result<String> {
        let parent = pod.rsplit_once('/').map_or("", |(parent, _)| parent);
        match (&self.driver, Slice::parse(parent)) {
            (Driver::Systemd { prefix, .. }, Ok(slice)) => {
                Ok(Scope::new(slice, prefix, container.as_str()).path())
            }
            // Also in a pod that is older than the driver.
            _ => {
                let cgroup = Cgroup::new(&self.hierarchies, parent, container.as_str())?;
                Ok(format!("/{}", cgroup.path().display()))
            }
        }
    }

    /// A recorded path as an OCI specification has it.
    ///
    /// # Errors
    /// [`Error::Cgroup`] for a damaged record.
    pub fn in_oci(&self, path: &str) -> Result<String> {
        let scope = Scope::of(&self.open(path)?);
        Ok(scope.map_or_else(|| path.to_owned(), |scope| scope.to_oci()))
    }

    /// The cgroup at a recorded path.
    ///
    /// # Errors
    /// [`Error::Cgroup`] for a damaged record.
    pub fn open(&self, path: &str) -> Result<Cgroup> {
        let (parent, id) = path.rsplit_once('/').unwrap_or(("", path));
        Ok(Cgroup::new(&self.hierarchies, parent, id)?)
    }

    /// systemd keeps a slice that it made for a scope.
    fn stop_empty_slice(&self) -> Result<()> {
        let Driver::Systemd { slice, .. } = &self.driver else {
            return Ok(());
        };
        let cgroup = self.open(&slice.path())?;
        if cgroup.exists() && cgroup.pids()?.is_empty() {
            self.systemd.stop_slice(slice)?;
        }
        Ok(())
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

impl Driver {
    /// Of `/a/b` the default slice is `a-b.slice`, which is `/a.slice/a-b.slice`.
    fn systemd(config: &config::Cgroup) -> Result<Self> {
        let name = |path: &Path| {
            let names: Vec<_> = path.iter().skip(1).map(|part| part.to_string_lossy()).collect();
            format!("{}.slice", names.join("-"))
        };
        let root = config.root.to_string_lossy();
        let slice = if root.ends_with(".slice") {
            Slice::parse(&root)
        } else {
            Slice::parse(&name(&config.root))
        };
        Ok(Self::Systemd {
            prefix: config.prefix.clone(),
            slice: slice.map_err(|error| Error::invalid("cgroup.root", error.to_string()))?,
        })
    }
}

/// A container's cgroup that is ready to be entered. One that systemd keeps lasts only while a process is in it, so there
/// is one of ours until this is dropped.
#[derive(Debug)]
pub struct Place {
    cgroup: Cgroup,
    placeholder: Option<Placeholder>,
}

impl std::ops::Deref for Place {
    type Target = Cgroup;

    fn deref(&self) -> &Cgroup {
        &self.cgroup
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(placeholder) = self.placeholder.take() {
            // Its end is waited for.
            tokio::task::spawn_blocking(move || drop(placeholder));
        }
    }
}

impl App {
    /// Makes a pod's own cgroup, where agents look for it.
    ///
    /// # Errors
    /// [`Error::Cgroup`]; what was made is removed again.
    pub async fn make_pod_cgroup(&self, path: &str) -> Result<()> {
        let cgroup = self.cgroups.open(path)?.of_counters();
        blocking(move || Ok(cgroup.create(None)?)).await
    }

    /// A container's cgroup that was made ahead; `None` when somebody has removed it since. Looking at the kernel's own
    /// directories waits for no disk.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a path that is none.
    pub fn prepared_cgroup(&self, path: &str) -> Result<Option<Place>> {
        let cgroup = self.cgroups.open(path)?;
        let is_there = cgroup.directories().all(|path| path.is_dir());
        Ok(is_there.then_some(Place {
            cgroup,
            placeholder: None,
        }))
    }

    /// Makes a container's cgroup, unless it is there, and gives it its limits.
    ///
    /// # Errors
    /// [`Error::Cgroup`]; what was made is removed again.
    pub async fn make_cgroup(self: &Arc<Self>, path: &str, limits: Option<LinuxResources>) -> Result<Place> {
        let cgroup = self.cgroups.open(path)?;
        let app = self.clone();
        blocking(move || {
            let placeholder = match Scope::of(&cgroup) {
                Some(scope) => {
                    let placeholder = app
                        .supervisor_binary
                        .hold_place()
                        .map_err(crate::supervisor::Error::from)?;
                    cgroup.create_scope(&app.cgroups.systemd, &scope, limits.as_ref(), placeholder.pid())?;
                    Some(placeholder)
                }
                None => {
                    cgroup.create(limits.as_ref())?;
                    None
                }
            };
            Ok(Place { cgroup, placeholder })
        })
        .await
    }

    /// Changes the limits of a container's cgroup: all, or none.
    ///
    /// # Errors
    /// [`Error::Cgroup`] naming the limit that cannot be.
    pub async fn update_cgroup(&self, path: &str, limits: LinuxResources) -> Result<()> {
        let cgroup = self.cgroups.open(path)?;
        let systemd = self.cgroups.systemd.clone();
        blocking(move || match Scope::of(&cgroup) {
            Some(scope) => Ok(cgroup.update_scope(&systemd, &scope, &limits)?),
            None => Ok(cgroup.update(&limits)?),
        })
        .await
    }

    /// Removes a cgroup, a scope by way of systemd; one that does not exist is removed already. Begins at once.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when processes stay in it.
    pub fn remove_cgroup(&self, path: &str) -> impl Future<Output = Result<()>> + Send + use<> {
        let cgroup = self.cgroups.open(path);
        let systemd = self.cgroups.systemd.clone();
        blocking(move || {
            let cgroup = cgroup?;
            match Scope::of(&cgroup) {
                Some(scope) => Ok(cgroup.remove_scope(&systemd, &scope)?),
                None => Ok(cgroup.remove()?),
            }
        })
    }

    /// Kills every process in a cgroup.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when processes keep appearing.
    pub async fn kill_cgroup(&self, path: &str) -> Result<()> {
        let cgroup = self.cgroups.open(path)?;
        blocking(move || Ok(cgroup.kill()?)).await
    }

    /// Makes the cgroup that a pod's supervisor enters. Blocks.
    ///
    /// # Errors
    /// [`Error::Cgroup`].
    pub fn make_supervisor_cgroup(&self, pod: &PodId) -> Result<Cgroup> {
        let cgroup = self.cgroups.supervisor(pod)?;
        cgroup.create(None)?;
        Ok(cgroup)
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
        let cgroups = self.cgroups.clone();
        let removed = blocking(move || {
            supervisors.remove()?;
            cgroups.open(&cgroups.root)?.remove()?;
            cgroups.stop_empty_slice()
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "a cgroup of ours stays");
        }
    }
}
