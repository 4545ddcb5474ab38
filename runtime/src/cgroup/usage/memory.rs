//! Memory and swap.

use super::Directory;
use super::text::Keyed;

/// v1 has no word for "unlimited" but a number just below 2^63; nobody limits memory to more than this.
const UNLIMITED: u64 = 1 << 62;

/// Memory charged to a cgroup and those below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// All of it, page cache included.
    pub usage: u64,
    /// The highest `usage` so far; zero where the kernel does not say (v2 before 5.19).
    pub peak: u64,
    /// Page cache that was not used lately: the first to be reclaimed.
    pub inactive_file: u64,
    /// Anonymous memory.
    pub anon: u64,
    /// Page cache and shared memory.
    pub file: u64,
    /// Mapped files.
    pub mapped_file: u64,
    /// The kernel's own on behalf of the processes.
    pub kernel: u64,
    /// The hard limit; `None` when there is none.
    pub limit: Option<u64>,
    /// What is not reclaimed while others have more than theirs (v1 soft limit, v2 `memory.low`).
    pub reservation: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Those that waited for a disk.
    pub major_page_faults: u64,
    /// The two without those of cgroups below.
    pub own_page_faults: (u64, u64),
    /// How often the limit was hit.
    pub limit_hits: u64,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
    /// Swap; `None` where the kernel does not count it.
    pub swap: Option<SwapUsage>,
}

/// Swap charged to a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwapUsage {
    /// In use.
    pub usage: u64,
    /// Of swap alone, without memory; `None` when there is none.
    pub limit: Option<u64>,
}

impl MemoryUsage {
    /// Usage without what would be reclaimed first: what eviction goes by.
    pub fn working_set(&self) -> u64 {
        self.usage.saturating_sub(self.inactive_file)
    }

    /// How much the working set may still grow; `None` without a limit.
    pub fn available(&self) -> Option<u64> {
        Some(self.limit?.saturating_sub(self.working_set()))
    }
}

pub(super) fn read(directory: &Directory) -> Option<MemoryUsage> {
    if directory.v2 {
        v2(directory)
    } else {
        v1(directory)
    }
}

fn v1(directory: &Directory) -> Option<MemoryUsage> {
    let stat = Keyed::read(&directory.file("memory.stat"))?;
    let usage = directory.number("memory.usage_in_bytes")?;
    let limited = |file: &str| directory.number(file).filter(|bytes| *bytes < UNLIMITED);
    let limit = limited("memory.limit_in_bytes");
    let events = Keyed::read(&directory.file("memory.oom_control"));
    // Counted together with memory; absent when booted with swapaccount=0.
    let swap = directory
        .number("memory.memsw.usage_in_bytes")
        .map(|_| SwapUsage {
            usage: stat.or_zero("total_swap"),
            limit: limited("memory.memsw.limit_in_bytes")
                .zip(limit)
                .map(|(both, memory)| both.saturating_sub(memory)),
        });
    Some(MemoryUsage {
        usage,
        peak: directory.number("memory.max_usage_in_bytes").unwrap_or_default(),
        inactive_file: stat.or_zero("total_inactive_file"),
        anon: stat.or_zero("total_rss"),
        file: stat.or_zero("total_cache"),
        mapped_file: stat.or_zero("total_mapped_file"),
        kernel: directory.number("memory.kmem.usage_in_bytes").unwrap_or_default(),
        limit,
        reservation: limited("memory.soft_limit_in_bytes"),
        page_faults: stat.or_zero("total_pgfault"),
        major_page_faults: stat.or_zero("total_pgmajfault"),
        own_page_faults: (stat.or_zero("pgfault"), stat.or_zero("pgmajfault")),
        limit_hits: directory.number("memory.failcnt").unwrap_or_default(),
        oom_kills: events.map_or(0, |events| events.or_zero("oom_kill")),
        swap,
    })
}

fn v2(directory: &Directory) -> Option<MemoryUsage> {
    let stat = Keyed::read(&directory.file("memory.stat"))?;
    let faults = (stat.or_zero("pgfault"), stat.or_zero("pgmajfault"));
    let events = Keyed::read(&directory.file("memory.events"));
    let event = |key: &str| events.as_ref().map_or(0, |events| events.or_zero(key));
    Some(MemoryUsage {
        usage: directory.number("memory.current")?,
        peak: directory.number("memory.peak").unwrap_or_default(),
        inactive_file: stat.or_zero("inactive_file"),
        anon: stat.or_zero("anon"),
        file: stat.or_zero("file"),
        mapped_file: stat.or_zero("file_mapped"),
        // One line since 5.18, its parts before.
        kernel: stat.get("kernel").unwrap_or_else(|| {
            ["kernel_stack", "pagetables", "percpu", "slab", "sock"]
                .iter()
                .map(|part| stat.or_zero(part))
                .sum()
        }),
        limit: directory.number("memory.max"),
        reservation: directory.number("memory.low").filter(|bytes| *bytes > 0),
        page_faults: faults.0,
        major_page_faults: faults.1,
        own_page_faults: faults,
        limit_hits: event("max"),
        oom_kills: event("oom_kill"),
        swap: directory.number("memory.swap.current").map(|usage| SwapUsage {
            usage,
            limit: directory.number("memory.swap.max"),
        }),
    })
}
