//! The systemd driver: a container's cgroup as a scope, a unit that systemd knows and keeps.
//!
//! ```text
//!   daemon                                  systemd
//!   placeholder ──┐
//!   create_scope ─┴─ StartTransientUnit ──► mkdir <slice>/crisp-<id>.scope, moves the placeholder there
//!      every limit, to files too  ◄───────── JobRemoved "done"
//!   launch: init is born in the scope (CLONE_INTO_CGROUP); the placeholder ends
//!   last process exits; remove_scope ──────► unit and directory are gone
//!   update_scope ─── files, then SetUnitProperties (or the files are as before)
//! ```
//! Why a placeholder: systemd takes no scope without a process, and a container's init must find its cgroup limited
//! before its first instruction. So a process of ours stands there until init is in, and everything else is as with the
//! other driver.
//!
//! Why D-Bus by hand: four calls on one socket, from threads that may block. A client library brings an async runtime
//! into a crate that has none, and thirty crates into the build.
//!
//! Invariants: the limits that systemd is told are made from those that are written (`properties`), so a reload
//! restores them; `Delegate=yes` keeps systemd out of what is below; what a container or its pod says never becomes part
//! of a property: names are made of ids, values of checked numbers. Only for hosts with v2 alone.
//!
//! Read next: `slice` for names, `bus` and `wire` for the conversation.

mod bus;
mod properties;
mod slice;
mod wire;

use std::path::Path;

use oci_spec::runtime::LinuxResources;

pub use bus::BusError;
pub use slice::{Scope, Slice};

use super::{Cgroup, CgroupError, limits, tree};
use bus::{Connection, Places};
use wire::{Properties, Value, Writer};

/// systemd as a service that can be asked.
#[derive(Debug, Clone)]
pub struct Systemd {
    places: Places,
}

impl Systemd {
    /// The one that runs this host.
    pub fn of_host() -> Systemd {
        Systemd {
            places: Places {
                bus: "/run/dbus/system_bus_socket".into(),
                private: "/run/systemd/private".into(),
            },
        }
    }

    /// Whether it booted this host (sd_booted(3)).
    pub fn has_booted() -> bool {
        Path::new("/run/systemd/system").is_dir()
    }

    /// Its version, as it says: `252.38-1`.
    ///
    /// # Errors
    /// [`CgroupError::Systemd`] when it cannot be reached.
    pub fn version(&self) -> Result<String, CgroupError> {
        Connection::open(&self.places)
            .and_then(|mut connection| connection.manager_property("Version"))
            .map_err(failed("ask for its version", ""))
    }

    /// Stops a slice that systemd made for our scopes and keeps when they are gone; one that it does not know is stopped.
    /// The caller has seen that nothing is in it: whatever is would be stopped, too.
    ///
    /// # Errors
    /// [`CgroupError::Systemd`]
    pub fn stop_slice(&self, slice: &Slice) -> Result<(), CgroupError> {
        self.stop(slice.name())
            .map_err(failed("stop a slice", slice.name()))
    }

    fn stop(&self, unit: &str) -> Result<(), BusError> {
        let mut connection = Connection::open(&self.places)?;
        connection.follow_jobs_of(unit)?;
        stop(&mut connection, unit)
    }

    /// Starts a scope with one process in it, and waits until it stands.
    fn start(&self, scope: &Scope, member: i32, limits: Properties) -> Result<(), BusError> {
        let mut connection = Connection::open(&self.places)?;
        connection.follow_jobs_of(scope.name())?;
        let member = u32::try_from(member).map_err(|_| BusError::Malformed("process id"))?;
        let properties = unit(scope, member, limits);
        match start(&mut connection, scope, &properties) {
            Err(error) if error.is_unit_exists() => {
                // Of a start that a killed daemon did not finish: nothing but a placeholder was ever in it.
                stop(&mut connection, scope.name())?;
                start(&mut connection, scope, &properties)
            }
            outcome => outcome,
        }
    }

    fn set(&self, scope: &Scope, properties: &Properties) -> Result<(), BusError> {
        let mut body = Writer::default();
        body.text(scope.name());
        // Until the next boot only, which no scope survives.
        body.number(1);
        body.properties(properties);
        Connection::open(&self.places)?
            .manager("SetUnitProperties", ("sba(sv)", body.finish()))
            .map(drop)
    }
}

/// All that systemd is told of a scope.
fn unit(scope: &Scope, member: u32, limits: Properties) -> Properties {
    let mut properties = vec![
        ("Description", Value::Text(format!("container {}", scope.name()))),
        ("Slice", Value::Text(scope.slice().name().to_owned())),
        ("Delegate", Value::Flag(true)),
        // A pod's end is kubelet's business, also at a shutdown.
        ("DefaultDependencies", Value::Flag(false)),
        // One that failed is forgotten like one that did not.
        ("CollectMode", Value::Text("inactive-or-failed".to_owned())),
        ("PIDs", Value::Numbers(vec![member])),
    ];
    properties.extend(limits);
    properties
}

fn start(connection: &mut Connection, scope: &Scope, properties: &Properties) -> Result<(), BusError> {
    let mut body = Writer::default();
    body.text(scope.name());
    body.text("fail");
    body.properties(properties);
    // Units that would be started along with it: none.
    body.array(8, |_| {});
    let job = connection.manager("StartTransientUnit", ("ssa(sv)a(sa(sv))", body.finish()))?;
    connection.job_done(&job)
}

/// Ends whatever is left of a unit.
fn stop(connection: &mut Connection, unit: &str) -> Result<(), BusError> {
    let mut body = Writer::default();
    body.text(unit);
    body.text("replace");
    match connection.manager("StopUnit", ("ss", body.finish())) {
        Ok(job) => connection.job_done(&job),
        Err(error) if error.is_no_such_unit() => Ok(()),
        Err(error) => Err(error),
    }
}

impl Cgroup {
    /// Makes the cgroup as a scope, with the process `member` in it, and writes the limits. The scope lasts as long as
    /// any process is in it: a failure removes nothing, the end of `member` does.
    ///
    /// # Errors
    /// [`CgroupError::Systemd`], and those of [`Cgroup::create`].
    pub fn create_scope(
        &self,
        systemd: &Systemd,
        scope: &Scope,
        resources: Option<&LinuxResources>,
        member: i32,
    ) -> Result<(), CgroupError> {
        let told = self.told(resources)?;
        systemd
            .start(scope, member, told)
            .map_err(failed("start the container's scope", scope.name()))?;
        self.create(resources)
    }

    /// Changes the limits of a scope: all in the kernel and in systemd, or none.
    ///
    /// # Errors
    /// [`CgroupError::Systemd`], and those of [`Cgroup::update`].
    pub fn update_scope(
        &self,
        systemd: &Systemd,
        scope: &Scope,
        resources: &LinuxResources,
    ) -> Result<(), CgroupError> {
        let told = self.told(Some(resources))?;
        self.update_if(resources, || {
            systemd
                .set(scope, &told)
                .map_err(failed("set the limits of the container's scope", scope.name()))
        })
    }

    /// Ends a scope and removes its cgroup; waits up to two seconds for processes on their way out. What does not exist
    /// is removed already.
    ///
    /// systemd ends a scope by itself after its last process, but keeps the unit for ever when the directory is gone
    /// before it has looked. So it is asked first, and only when nobody is in it: whoever is would be killed.
    ///
    /// # Errors
    /// [`CgroupError::Systemd`], and those of [`Cgroup::remove`]; with processes in it all is left as it is.
    pub fn remove_scope(&self, systemd: &Systemd, scope: &Scope) -> Result<(), CgroupError> {
        if self.exists() {
            self.directories()
                .try_for_each(|directory| tree::await_vacancy(&directory))?;
            systemd
                .stop(scope.name())
                .map_err(failed("stop the container's scope", scope.name()))?;
        }
        self.remove()
    }

    fn told(&self, resources: Option<&LinuxResources>) -> Result<Properties, CgroupError> {
        let settings = resources.map(|resources| limits::settings(&self.hierarchies, resources));
        Ok(properties::of(&settings.transpose()?.unwrap_or_default()))
    }
}

fn failed(operation: &'static str, unit: &str) -> impl FnOnce(BusError) -> CgroupError {
    let unit = unit.to_owned();
    move |source| CgroupError::Systemd {
        operation,
        unit,
        source,
    }
}

#[cfg(test)]
mod tests;
