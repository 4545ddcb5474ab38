//! Processes and threads.

use std::fs;
use std::path::Path;

use super::Directory;

/// What the `pids` controller counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsUsage {
    /// Processes and threads: all that has a pid of its own.
    pub tasks: u64,
    /// At most so many; `None` when there is no limit.
    pub limit: Option<u64>,
}

/// What the processes of a cgroup hold at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// Processes.
    pub processes: u64,
    /// Their threads.
    pub threads: u64,
    /// Their open descriptors.
    pub descriptors: u64,
    /// Those that are sockets.
    pub sockets: u64,
}

pub(super) fn read(directory: &Directory) -> Option<PidsUsage> {
    Some(PidsUsage {
        tasks: directory.number("pids.current")?,
        limit: directory.number("pids.max"),
    })
}

/// Looks at each process; one that has ended meanwhile holds nothing.
pub(super) fn look(pids: &[i32]) -> ProcessUsage {
    let mut all = ProcessUsage {
        processes: pids.len() as u64,
        ..ProcessUsage::default()
    };
    for pid in pids {
        let process = Path::new("/proc").join(pid.to_string());
        all.threads += entries(&process.join("task")).count() as u64;
        for descriptor in entries(&process.join("fd")) {
            all.descriptors += 1;
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            all.sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        }
    }
    all
}

fn entries(path: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(path).into_iter().flatten().flatten()
}
