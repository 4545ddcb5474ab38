//! Control groups: where a container is placed, limited, counted and killed.
//!
//! ```text
//!   Hierarchies (found once)             Cgroup = the same path in each of them
//!   v1  /sys/fs/cgroup/memory   ──►      /sys/fs/cgroup/memory/<parent>/<id>
//!       /sys/fs/cgroup/cpu,…    ──►      /sys/fs/cgroup/cpu,…/<parent>/<id>
//!   v2  /sys/fs/cgroup[/unified] ─►      …/<parent>/<id>   born into by CLONE_INTO_CGROUP, killed by cgroup.kill
//! ```
//! One layer serves v1, hybrid and v2 hosts: a cgroup is directories, a limit is one write to one file in one of
//! them, and `limits` knows which. This is the `cgroupfs` driver: the path is the one asked for; [`systemd`] has
//! another make the directory, and shares the rest. Everything here blocks (removal up to two seconds) and is called from
//! threads made for that.
//!
//! Invariants: a path is checked component by component and never leaves its hierarchy; what a failed creation made
//! is removed; creation and removal can be repeated. What a cgroup has used is read in [`usage`].

mod devices;
mod extent;
mod hierarchy;
mod kill;
mod limits;
mod path;
pub mod systemd;
mod tree;
mod update;
pub mod usage;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::LinuxResources;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub use hierarchy::{Hierarchies, Layout};

use crate::launch::CgroupLayout;
use extent::Extent;
use path::checked;

/// What went wrong with a cgroup, on which file.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The mounts of the host could not be read, or have no cgroup hierarchy.
    #[error("find cgroup hierarchies: {source}")]
    Detect {
        /// The kernel's answer.
        source: io::Error,
    },
    /// A path that may not be used.
    #[error("cgroup path {path:?} {reason}")]
    Path {
        /// As it was given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A limit that no cgroup can have.
    #[error("{field}: {value} {reason}")]
    Limit {
        /// The field of the OCI runtime spec.
        field: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A limit for a controller that the host lacks.
    #[error("{field}: the host has no cgroup controller {controller}")]
    Controller {
        /// The field of the OCI runtime spec.
        field: String,
        /// The controller.
        controller: String,
    },
    /// Making a directory.
    #[error("create cgroup {path:?}: {source}")]
    Create {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Writing a file.
    #[error("write {value:?} to {path:?}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Reading a file or directory.
    #[error("read {path:?}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Enforcing which devices may be used, by a BPF program.
    #[error("{step} cgroup {path:?}: {source}")]
    Devices {
        /// What was tried.
        step: &'static str,
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// systemd did not do it.
    #[error("systemd: {operation}: {source}")]
    Systemd {
        /// What it was asked.
        operation: &'static str,
        /// The unit; not part of the text, which is the same for every container.
        unit: String,
        /// Why not.
        source: systemd::BusError,
    },
    /// Processes kept appearing.
    #[error("kill cgroup {path:?}: processes keep appearing")]
    Kill {
        /// The directory.
        path: PathBuf,
    },
    /// Removing a directory.
    #[error("remove cgroup {path:?}: {source}")]
    Remove {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A cgroup: one path in every hierarchy of the host, whether it exists or not.
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchies: Arc<Hierarchies>,
    path: PathBuf,
    extent: Extent,
}

impl Cgroup {
    /// The cgroup `<parent>/<id>` of a container. A leading slash of the parent is the root of the hierarchy.
    ///
    /// # Errors
    /// [`CgroupError::Path`] when a component is empty, `.`, `..`, too long or not plain text, or the id is no name.
    pub fn new(hierarchies: &Arc<Hierarchies>, parent: &str, id: &str) -> Result<Cgroup, CgroupError> {
        if id.contains('/') {
            return Err(CgroupError::Path {
                path: id.into(),
                reason: "is no single name",
            });
        }
        let path = checked(parent, true)?.join(checked(id, false)?);
        Ok(Cgroup {
            hierarchies: Arc::clone(hierarchies),
            path,
            extent: Extent::Whole,
        })
    }

    /// The cgroup of a process of our own, such as `crisp/daemon` or `crisp/sup/<pod>`.
    ///
    /// # Errors
    /// As [`Cgroup::new`].
    pub fn service(hierarchies: &Arc<Hierarchies>, path: &str) -> Result<Cgroup, CgroupError> {
        let path = checked(path, false)?;
        Ok(Cgroup {
            hierarchies: Arc::clone(hierarchies),
            path,
            extent: Extent::Service,
        })
    }

    /// The path below the root of each hierarchy, without a leading slash.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory in each hierarchy, for whoever shows or watches it.
    pub fn directories(&self) -> impl Iterator<Item = PathBuf> {
        self.members().map(|hierarchy| hierarchy.mount.join(&self.path))
    }

    /// The v1 files to which a process writes `0` to attach itself.
    pub fn tasks_files(&self) -> Vec<PathBuf> {
        self.members()
            .filter(|hierarchy| !hierarchy.is_v2())
            .map(|hierarchy| hierarchy.mount.join(&self.path).join("tasks"))
            .collect()
    }

    /// The directory in the v2 hierarchy, for `CLONE_INTO_CGROUP`; `None` where the host has none.
    ///
    /// # Errors
    /// [`CgroupError::Read`] when it does not exist.
    pub fn open_v2(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let Some(v2) = self.members().find(|hierarchy| hierarchy.is_v2()) else {
            return Ok(None);
        };
        let path = v2.mount.join(&self.path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(errno) => Err(CgroupError::Read {
                path,
                source: errno.into(),
            }),
        }
    }

    /// The file with the line `oom_kill N`: v1 `memory.oom_control`, v2 `memory.events`. `None` without a memory
    /// controller.
    pub fn oom_counter(&self) -> Option<PathBuf> {
        let memory = self.hierarchies.controller("memory")?;
        let file = if memory.is_v2() {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        Some(memory.mount.join(&self.path).join(file))
    }

    /// Makes the directories and writes the limits. What exists already is used; a failure removes what was made.
    ///
    /// # Errors
    /// [`CgroupError`] of the directory or limit.
    pub fn create(&self, resources: Option<&LinuxResources>) -> Result<(), CgroupError> {
        let settings = resources.map_or(Ok(Vec::new()), |resources| {
            limits::settings(&self.hierarchies, resources)
        })?;
        let mut made = tree::Made::default();
        let outcome = self
            .members()
            .try_for_each(|hierarchy| {
                give_way();
                tree::create(hierarchy, &self.path, &settings, &mut made)
            })
            .and_then(|()| self.create_parents(&mut made))
            .and_then(|()| limits::write(&settings, &self.path))
            .and_then(|()| self.guard_devices(resources));
        if outcome.is_err() {
            made.undo();
        }
        outcome
    }

    /// Writes the limits of a cgroup that was made without any.
    ///
    /// # Errors
    /// [`CgroupError`] of the limit; those before it stay.
    pub fn limit(&self, resources: Option<&LinuxResources>) -> Result<(), CgroupError> {
        let settings = resources.map_or(Ok(Vec::new()), |resources| {
            limits::settings(&self.hierarchies, resources)
        })?;
        if self.hierarchies.layout() == Layout::V2 {
            self.members()
                .for_each(|v2| tree::enable_controllers(v2, &self.path, &settings));
        }
        limits::write(&settings, &self.path)?;
        self.guard_devices(resources)
    }

    /// On v2, lets a program decide which devices may be used; v1 has files for that.
    fn guard_devices(&self, resources: Option<&LinuxResources>) -> Result<(), CgroupError> {
        let rules = resources.and_then(|resources| resources.devices().as_deref());
        let policy = devices::Policy::parse(rules.unwrap_or_default())?;
        match (self.hierarchies.layout(), policy, self.members().next()) {
            (Layout::V2, Some(policy), Some(v2)) => devices::attach(&v2.mount.join(&self.path), &policy),
            _ => Ok(()),
        }
    }

    /// Moves the calling process here; it must have a single thread where the host has v1 hierarchies.
    ///
    /// # Errors
    /// [`CgroupError::Write`].
    pub fn enter(&self) -> Result<(), CgroupError> {
        for hierarchy in self.members() {
            // On a hybrid host the v2 hierarchy limits nothing, and moving there costs up to 10 ms.
            if hierarchy.is_v2() && self.hierarchies.layout() != Layout::V2 {
                continue;
            }
            let file = if hierarchy.is_v2() {
                "cgroup.procs"
            } else {
                "tasks"
            };
            write_file(&hierarchy.mount.join(&self.path).join(file), "0")?;
        }
        Ok(())
    }

    /// The processes in it and in cgroups below it.
    ///
    /// # Errors
    /// [`CgroupError::Read`]; a cgroup that does not exist has no processes.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        kill::pids(&self.representative().mount.join(&self.path))
    }

    /// Lets a frozen cgroup go on, so that its processes can act on a signal. One that does not exist, or is frozen
    /// from above, is left as it is: for what must end there is [`kill`](Cgroup::kill).
    pub fn thaw(&self) {
        for hierarchy in self.members() {
            let directory = hierarchy.mount.join(&self.path);
            let _ = match hierarchy.is_v2() {
                true => try_write(&directory.join("cgroup.freeze"), "0"),
                false => try_write(&directory.join("freezer.state"), "THAWED"),
            };
        }
    }

    /// Sends SIGKILL to every process in it and below it, also to those that are forked meanwhile. Does not wait for
    /// them to be gone: [`Cgroup::remove`] does.
    ///
    /// This is the end of the cgroup: from Linux 6.14 on the kernel also kills what is born by `CLONE_INTO_CGROUP` into
    /// a cgroup that was killed before.
    ///
    /// # Errors
    /// [`CgroupError::Kill`] when processes keep appearing.
    pub fn kill(&self) -> Result<(), CgroupError> {
        for hierarchy in self.members().filter(|hierarchy| hierarchy.is_v2()) {
            if kill::at_once(&hierarchy.mount.join(&self.path))? && self.hierarchies.layout() == Layout::V2 {
                return Ok(());
            }
        }
        let freezer = self
            .hierarchies
            .controller("freezer")
            .filter(|hierarchy| !hierarchy.is_v2());
        let freezer = freezer.map(|hierarchy| hierarchy.mount.join(&self.path));
        kill::one_by_one(&self.representative().mount.join(&self.path), freezer.as_deref())
    }

    /// Removes the directories and those below them. Waits up to two seconds for processes that are on their way out.
    /// What does not exist is removed already.
    ///
    /// # Errors
    /// [`CgroupError::Remove`] of the first directory that could not be removed, after all have been tried.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut failed = None;
        for hierarchy in self.members() {
            give_way();
            if let Err(error) = tree::remove(&hierarchy.mount.join(&self.path)) {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// What a cgroup mount inside the container shows: this cgroup as if it were the root, or without a cgroup
    /// namespace, in which the names would be wrong, all of the host's.
    pub(crate) fn mount_layout(&self, own_namespace: bool) -> Result<CgroupLayout, &'static str> {
        self.hierarchies
            .mount_layout(if own_namespace { &self.path } else { Path::new("") })
    }
}

/// Lets others have the processor: making and removing are long for a system call, there are ten of them on v1, mostly in
/// the background, and the kernel would let somebody who was woken meanwhile, for whom a call waits, wait for all of them.
fn give_way() {
    std::thread::yield_now();
}

/// One write to a file that exists.
fn write_file(path: &Path, value: &str) -> Result<(), CgroupError> {
    try_write(path, value).map_err(|errno| CgroupError::Write {
        path: path.into(),
        value: value.into(),
        source: errno.into(),
    })
}

fn try_write(path: &Path, value: &str) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests;
