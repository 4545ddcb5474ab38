//! What a cgroup has used: CPU, memory, I/O, processes, huge pages, and how long it waited for them.
//!
//! ```text
//!   Cgroup ──usage()──► Usage ─┬ cpu       cpuacct.*, cpu.stat            v2 cpu.stat
//!                              ├ memory    memory.*_in_bytes, memory.stat v2 memory.*
//!                              ├ io        blkio.throttle.*_recursive     v2 io.stat
//!                              ├ pids      pids.current, pids.max         the same
//!                              ├ hugetlb   hugetlb.SIZE.*                 the same
//!                              └ pressure  of the v2 hierarchy, also on a hybrid host
//! ```
//! One file per controller, each with both versions. A part whose files are missing is `None`: the kernel was built
//! without the controller, or the cgroup is just being removed. Times are nanoseconds, sizes bytes, counters
//! cumulative since the cgroup was made. Reading blocks for some ten microseconds per file.

mod cpu;
mod hugetlb;
mod io;
mod memory;
mod pids;
mod pressure;
mod text;

use std::path::PathBuf;

pub use cpu::CpuUsage;
pub use hugetlb::HugePageUsage;
pub use io::{DeviceIo, IoUsage};
pub use memory::{MemoryUsage, SwapUsage};
pub use pids::{PidsUsage, ProcessUsage};
pub use pressure::{Pressure, Pressures, Stall};

use super::Cgroup;

/// All that the kernel counts for a cgroup.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// CPU time.
    pub cpu: Option<CpuUsage>,
    /// Memory and swap.
    pub memory: Option<MemoryUsage>,
    /// Block devices.
    pub io: Option<IoUsage>,
    /// Processes and threads.
    pub pids: Option<PidsUsage>,
    /// One entry per page size.
    pub hugetlb: Vec<HugePageUsage>,
    /// Time spent waiting for resources.
    pub pressure: Pressures,
}

/// A cgroup's directory in the hierarchy of one controller.
struct Directory {
    path: PathBuf,
    v2: bool,
}

impl Directory {
    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file that holds one number.
    fn number(&self, name: &str) -> Option<u64> {
        text::number(&self.file(name))
    }
}

impl Cgroup {
    /// Reads everything. A cgroup that does not exist has used nothing that could be read.
    pub fn usage(&self) -> Usage {
        let read = |controller: &str| self.directory(controller);
        Usage {
            cpu: cpu::read(read("cpu").as_ref(), read("cpuacct").as_ref()),
            memory: read("memory").and_then(|directory| memory::read(&directory)),
            io: read("blkio").and_then(|directory| io::read(&directory)),
            pids: read("pids").and_then(|directory| pids::read(&directory)),
            hugetlb: read("hugetlb")
                .map(|directory| hugetlb::read(&directory))
                .unwrap_or_default(),
            pressure: self
                .pressure_directory()
                .map(|path| pressure::read(&path))
                .unwrap_or_default(),
        }
    }

    /// Counts processes, threads, descriptors and sockets, by looking at each process: milliseconds where there are
    /// thousands.
    pub fn processes(&self) -> ProcessUsage {
        pids::look(&self.pids().unwrap_or_default())
    }

    /// Whether its directories exist.
    pub fn exists(&self) -> bool {
        self.representative().mount.join(&self.path).is_dir()
    }

    fn directory(&self, controller: &str) -> Option<Directory> {
        let hierarchy = self.hierarchies.controller(controller)?;
        Some(Directory {
            path: hierarchy.mount.join(&self.path),
            v2: hierarchy.is_v2(),
        })
    }

    /// Pressure is counted for every cgroup of the v2 hierarchy, whatever controllers it has.
    fn pressure_directory(&self) -> Option<PathBuf> {
        let v2 = self.members().find(|hierarchy| hierarchy.is_v2())?;
        Some(v2.mount.join(&self.path))
    }
}

#[cfg(test)]
mod tests;
