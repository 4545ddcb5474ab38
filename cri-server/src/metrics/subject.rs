//! What metrics are about, with everything that they are read from.

use std::path::Path;
use std::sync::Arc;

use runtime::cgroup::usage::{ProcessUsage, Usage};

use crate::app::App;
use crate::container::{Container, ContainerState, Resources};
use crate::pod::Pod;
use crate::stats::{ContainerSample, Interface, PodSample};
use crate::time::Nanos;
use crate::{Error, Result};

/// A container or a pod at one moment.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    /// Values of the labels that every metric has.
    pub labels: [String; 6],
    /// When its counters were read.
    pub at: Nanos,
    /// Its counters.
    pub usage: Usage,
    /// Its links; a container has none of its own.
    pub links: Vec<Interface>,
    /// What only a container has.
    pub container: Option<OfContainer>,
}

/// What only a container has.
#[derive(Debug, Clone, Default)]
pub struct OfContainer {
    /// When it was started.
    pub started_at: Nanos,
    /// What it was allowed.
    pub resources: Resources,
    /// What its processes hold.
    pub processes: ProcessUsage,
    /// Soft limit of open files of its first process.
    pub open_files: Option<u64>,
    /// Bytes of its writable layer.
    pub layer_bytes: u64,
    /// The file system that writable layers are on.
    pub layers: FileSystem,
}

/// A file system.
#[derive(Debug, Clone, Default)]
pub struct FileSystem {
    /// `/dev/sda1`.
    pub device: String,
    /// Its size.
    pub bytes: u64,
    /// All inodes; zero where they are made on demand.
    pub inodes: u64,
    /// Those still free.
    pub inodes_free: u64,
}

impl FileSystem {
    /// That of a path.
    fn of(path: &Path) -> Result<Self> {
        let failed = |errno: rustix::io::Errno| Error::io("statvfs", path)(errno.into());
        let size = rustix::fs::statvfs(path).map_err(failed)?;
        let stat = rustix::fs::stat(path).map_err(failed)?;
        Ok(Self {
            device: device(rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev)),
            bytes: size.f_blocks * size.f_frsize,
            inodes: size.f_files,
            inodes_free: size.f_ffree,
        })
    }
}

/// The name of a block device, or its numbers when it has none (tmpfs, btrfs).
pub(super) fn device(major: u32, minor: u32) -> String {
    let numbers = format!("{major}:{minor}");
    let link = std::fs::read_link(Path::new("/sys/dev/block").join(&numbers)).unwrap_or_default();
    match link.file_name().and_then(|name| name.to_str()) {
        Some(name) => format!("/dev/{name}"),
        None => numbers,
    }
}

/// A container that has been sampled.
///
/// # Errors
/// [`Error::Cgroup`] for a damaged record; [`Error::Io`] when the file system of writable layers is gone.
pub async fn of_container(
    app: &Arc<App>,
    pod: &Pod,
    container: &Arc<Container>,
    sample: ContainerSample,
) -> Result<Subject> {
    let record = &container.record;
    let cgroup = app.cgroups.open(&record.cgroup)?;
    let state = container.state();
    let path = app.images.containers_path().to_owned();
    let looked = tokio::task::spawn_blocking(move || {
        let open_files = match state {
            ContainerState::Running { pid, .. } => soft_limit_of_files(pid),
            ContainerState::Created | ContainerState::Exited { .. } => None,
        };
        Ok::<_, Error>((cgroup.processes(), open_files, FileSystem::of(&path)?))
    });
    let (processes, open_files, layers) = looked.await.unwrap_or(Err(Error::Crashed))?;
    let config = &record.config;
    let image = if config.user_image.is_empty() {
        &config.image
    } else {
        &config.user_image
    };
    let name = &pod.record.config.name;
    Ok(Subject {
        labels: [
            &record.cgroup,
            record.id.as_str(),
            image,
            &name.namespace,
            &name.name,
            &config.name.name,
        ]
        .map(|text: &str| text.to_owned()),
        at: sample.at,
        usage: sample.usage,
        links: Vec::new(),
        container: Some(OfContainer {
            started_at: match container.state() {
                ContainerState::Running { started_at, .. } => started_at,
                ContainerState::Created | ContainerState::Exited { .. } => 0,
            },
            resources: container.resources(),
            processes,
            open_files,
            layer_bytes: sample.layer.map_or(0, |layer| layer.bytes),
            layers,
        }),
    })
}

/// A pod that has been sampled.
pub fn of_pod(pod: &Pod, sample: &PodSample) -> Subject {
    let config = &pod.record.config;
    let cgroup = match config.cgroup_parent.as_str() {
        "" => &pod.record.cgroup,
        parent => parent,
    };
    Subject {
        labels: [cgroup, "", "", &config.name.namespace, &config.name.name, ""].map(str::to_owned),
        at: sample.at,
        usage: sample.usage.clone(),
        links: sample.network.clone().unwrap_or_default(),
        container: None,
    }
}

/// `Max open files   SOFT   HARD   files` of proc_pid_limits(5).
fn soft_limit_of_files(pid: i32) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
