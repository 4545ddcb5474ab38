//! From a request and an image's configuration to the OCI runtime specification.
//!
//! ```text
//!  PodRecord ─────────┐
//!  ContainerConfig ───┼─► process · mounts · resources · linux ─► Spec ─► runtime::launch
//!  ProcessDefaults ───┘
//! ```
//!
//! The specification is the contract with the `runtime` crate, and what verbose status shows. It can
//! only hold text; arguments and environment, which are bytes, travel beside it.

pub mod capabilities;
pub mod identity;
mod mounts;
mod process;
pub mod resources;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use image::config::ProcessDefaults;
use oci_spec::runtime::{
    Linux, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, LinuxPids,
    LinuxResources, Process, Root, Spec,
};

use runtime::launch::IdRange;

use crate::Result;
use crate::config::Limits;
use crate::confinement::{Confined, Held};
use crate::container::{ContainerConfig, Identity};
use crate::ids::ContainerId;
use crate::pod::{NamespaceMode, PodRecord};

pub use mounts::declared;
pub use process::exec;
pub use resources::limits;

/// Paths hidden from a container whose request lists none. (kubelet always lists them, except for an
/// unmasked /proc, which Kubernetes grants only to pods with a user namespace of their own.)
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];
/// Paths that are read-only in a container whose request lists none.
const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Everything that the specification of a container is made of.
pub struct Ingredients<'a> {
    /// The container's id.
    pub id: &'a ContainerId,
    /// Its pod.
    pub pod: &'a PodRecord,
    /// The request.
    pub config: &'a ContainerConfig,
    /// The image.
    pub image: &'a ProcessDefaults,
    /// The image's user databases.
    pub databases: &'a identity::Databases,
    /// Where the pod's own files are.
    pub files: &'a PodFiles,
    /// The container's cgroup, as an OCI specification names it.
    pub cgroup: &'a str,
    /// What the configuration sets for every container.
    pub limits: &'a Limits,
    /// The capabilities that can be given.
    pub held: &'a Held,
    /// What the security modules are told.
    pub confined: &'a Confined,
    /// The process whose PID namespace it joins, in TARGET mode.
    pub target: Option<i32>,
    /// Where the volumes are that the image declares, and at which paths of the container.
    pub declared: &'a [(PathBuf, String)],
}

/// The files that a pod gives to all its containers.
#[derive(Clone, Debug)]
pub struct PodFiles {
    /// Directory that holds them: `<state>/sandboxes/<id>`.
    pub directory: PathBuf,
}

impl PodFiles {
    /// Those of a pod below the daemon's state directory.
    pub fn new(state_dir: &Path, pod: &crate::ids::PodId) -> Self {
        Self {
            directory: state_dir.join("sandboxes").join(pod.as_str()),
        }
    }

    /// `/etc/hostname`.
    pub fn hostname(&self) -> PathBuf {
        self.directory.join("hostname")
    }

    /// `/etc/hosts`.
    pub fn hosts(&self) -> PathBuf {
        self.directory.join("hosts")
    }

    /// `/etc/resolv.conf`.
    pub fn resolv_conf(&self) -> PathBuf {
        self.directory.join("resolv.conf")
    }

    /// `/dev/shm`, one tmpfs for all containers of the pod.
    pub fn shm(&self) -> PathBuf {
        self.directory.join("shm")
    }

    /// The supervisor's control socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("sock")
    }
}

/// A finished specification, and what it cannot hold.
#[derive(Debug)]
pub struct ContainerSpec {
    /// The specification.
    pub spec: Spec,
    /// Numbers of the container's first process.
    pub identity: Identity,
    /// Its arguments.
    pub args: Vec<Vec<u8>>,
    /// Its environment, `NAME=value`.
    pub env: Vec<Vec<u8>>,
}

/// Builds the specification of a container.
///
/// # Errors
/// [`crate::Error::Invalid`] for whatever the request or the image asks that cannot be.
pub fn build(ingredients: &Ingredients<'_>) -> Result<ContainerSpec> {
    let config = ingredients.config;
    let resolved = identity::resolve(&config.security, &ingredients.image.user, ingredients.databases)?;
    let args = process::arguments(config, ingredients.image)?;
    let env = process::environment(config, ingredients.image, ingredients.pod, &resolved.home)?;
    let mut process = Process::default();
    process::fill(&mut process, ingredients, &resolved.identity, &args, &env)?;

    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs"))
        .set_readonly(Some(config.security.readonly_rootfs));
    let mut spec = Spec::default();
    // The pod has the hostname: it belongs to a namespace that the supervisor has made.
    spec.set_version("1.2.1".to_owned())
        .set_hostname(None)
        .set_root(Some(root))
        .set_process(Some(process))
        .set_mounts(Some(mounts::build(ingredients)?))
        .set_annotations(Some(annotations(ingredients)))
        .set_linux(Some(linux(ingredients)?));
    Ok(ContainerSpec {
        spec,
        identity: resolved.identity,
        args,
        env,
    })
}

fn linux(ingredients: &Ingredients<'_>) -> Result<Linux> {
    let security = &ingredients.config.security;
    let mut linux = Linux::default();
    let paths = |asked: &[String], default: &[&str]| match (security.privileged, asked.is_empty()) {
        (true, _) => Vec::new(),
        (false, false) => asked.to_vec(),
        (false, true) => default.iter().map(|p| (*p).to_owned()).collect(),
    };
    let mut masked = paths(&security.masked_paths, &MASKED);
    if !security.privileged && security.masked_paths.is_empty() {
        masked.extend(thermal_throttles().iter().cloned());
    }
    let readonly = paths(&security.readonly_paths, &READONLY);
    let mut resources: LinuxResources = limits(&ingredients.config.resources)?;
    if let Some(most) = ingredients.limits.pids {
        let mut pids = LinuxPids::default();
        pids.set_limit(i64::try_from(most).unwrap_or(i64::MAX));
        resources.set_pids(Some(pids));
    }
    let (devices, resources) = resources::devices(ingredients.config, resources)?;
    linux
        .set_namespaces(Some(namespaces(ingredients)))
        .set_cgroups_path(Some(PathBuf::from(ingredients.cgroup)))
        .set_masked_paths(Some(masked))
        .set_readonly_paths(Some(readonly))
        .set_mount_label(ingredients.confined.mount_label.clone())
        .set_rootfs_propagation(Some(mounts::rootfs_propagation(ingredients.config).to_owned()))
        .set_devices(Some(devices))
        .set_resources(Some(resources))
        .set_uid_mappings(security.namespaces.user.as_ref().map(|ids| mappings(ids.uids())))
        .set_gid_mappings(security.namespaces.user.as_ref().map(|ids| mappings(ids.gids())))
        // Sysctls belong to the pod: its supervisor sets them when it makes the namespaces.
        .set_sysctl(None);
    Ok(linux)
}

/// Counters of each CPU's throttling, by which containers could watch each other. Where the machine has them, they stay
/// where they are.
fn thermal_throttles() -> &'static [String] {
    static FOUND: OnceLock<Vec<String>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let cpus = std::fs::read_dir("/sys/devices/system/cpu")
            .into_iter()
            .flatten()
            .flatten();
        let mut paths: Vec<_> = cpus
            .map(|cpu| cpu.path().join("thermal_throttle"))
            .filter(|path| path.is_dir())
            .map(|path| path.to_string_lossy().into_owned())
            .collect();
        paths.sort();
        paths
    })
}

/// Namespaces that stand without a path are the supervisor's own (net, ipc, uts), which are the
/// pod's, or new ones (mount, pid, cgroup); one that is absent is the node's.
fn namespaces(ingredients: &Ingredients<'_>) -> Vec<LinuxNamespace> {
    let pod = &ingredients.pod.config.namespaces;
    let own = &ingredients.config.security.namespaces;
    let mut all = vec![
        namespace(LinuxNamespaceType::Mount, None),
        namespace(LinuxNamespaceType::Cgroup, None),
    ];
    if pod.network != NamespaceMode::Node {
        all.push(namespace(LinuxNamespaceType::Network, None));
        all.push(namespace(LinuxNamespaceType::Uts, None));
    }
    if pod.ipc != NamespaceMode::Node {
        all.push(namespace(LinuxNamespaceType::Ipc, None));
    }
    if own.user.is_some() {
        all.push(namespace(LinuxNamespaceType::User, None));
    }
    match (&own.pid, ingredients.target) {
        (NamespaceMode::Node, _) => {}
        (NamespaceMode::Container | NamespaceMode::Pod | NamespaceMode::Target(_), None) => {
            all.push(namespace(LinuxNamespaceType::Pid, None));
        }
        (_, Some(pid)) => {
            all.push(namespace(
                LinuxNamespaceType::Pid,
                Some(format!("/proc/{pid}/ns/pid")),
            ));
        }
    }
    all
}

fn namespace(typ: LinuxNamespaceType, path: Option<String>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(typ).set_path(path.map(PathBuf::from));
    namespace
}

/// Ranges of ids as OCI has them.
fn mappings(ranges: &[IdRange]) -> Vec<LinuxIdMapping> {
    let one = |range: &IdRange| {
        LinuxIdMappingBuilder::default()
            .container_id(range.container)
            .host_id(range.host)
            .size(range.length)
            .build()
            .expect("a mapping with all its fields")
    };
    ranges.iter().map(one).collect()
}

/// The annotations that agents on the node look for in a specification.
fn annotations(ingredients: &Ingredients<'_>) -> std::collections::HashMap<String, String> {
    let name = &ingredients.pod.config.name;
    [
        ("crisp.run/container-type", "container".to_owned()),
        ("crisp.run/container-name", ingredients.config.name.name.clone()),
        ("crisp.run/sandbox-id", ingredients.pod.id.to_string()),
        ("crisp.run/sandbox-name", name.name.clone()),
        ("crisp.run/sandbox-namespace", name.namespace.clone()),
        ("crisp.run/sandbox-uid", name.uid.clone()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}
