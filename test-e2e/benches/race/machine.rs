//! What the kernel counts: processes and their memory, CPU time, the machine itself.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::prctl;

/// Orphans of the contenders (shims detach themselves) become children of the bench, so that every process
/// involved is found by its ancestry.
pub(crate) fn adopt_orphans() {
    if let Err(errno) = prctl::set_child_subreaper(true) {
        eprintln!("race: orphans cannot be adopted ({errno}): memory figures will miss shims");
    }
}

/// A line about the machine for the report.
pub(crate) fn describe() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = field("/proc/meminfo", "MemTotal:").unwrap_or(0) >> 20;
    let mode = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "cgroup v2"
    } else {
        "cgroup v1 (hybrid)"
    };
    format!(
        "{cpus} CPUs, {memory} GiB, Linux {}, {mode}, ext4 with a journal",
        kernel.trim()
    )
}

/// CPU time that the whole machine has spent working since boot, but for what has been told to stand back (nice(1)).
pub(crate) fn busy() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let columns: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal. A tick is 10 ms (USER_HZ).
    let ticks: u64 = columns
        .iter()
        .take(8)
        .enumerate()
        .filter(|(column, _)| !matches!(column, 1 | 3 | 4))
        .map(|(_, ticks)| ticks)
        .sum();
    Duration::from_millis(ticks * 10)
}

/// A process and what it costs.
#[derive(Clone, Debug)]
pub(crate) struct Resident {
    /// Its pid.
    pub(crate) pid: u32,
    /// Its command line, words joined by blanks.
    pub(crate) command: String,
    /// Proportional set size, KiB (`/proc/<pid>/smaps_rollup`).
    pub(crate) pss: u64,
}

/// Every living descendant of the bench.
pub(crate) fn descendants() -> Vec<Resident> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in pids() {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = HashSet::new();
    let mut queue = vec![std::process::id()];
    while let Some(pid) = queue.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            if found.insert(child) {
                queue.push(child);
            }
        }
    }
    found.into_iter().filter_map(resident).collect()
}

fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    stat[stat.rfind(')')? + 1..]
        .split_ascii_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

fn resident(pid: u32) -> Option<Resident> {
    // A zombie has no memory map, and no line of it.
    let pss = field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    Some(Resident {
        pid,
        command: command.trim_end().to_owned(),
        pss,
    })
}

/// The process' peak resident set since it was last reset, KiB.
pub(crate) fn peak(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/status"), "VmHWM:").unwrap_or(0)
}

/// Starts the peak anew (proc(5), `clear_refs` 5).
pub(crate) fn reset_peak(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Kernel memory that grows with pods: slabs, stacks, page tables, per-CPU areas. KiB.
pub(crate) fn kernel_memory() -> u64 {
    ["Slab:", "KernelStack:", "PageTables:", "Percpu:"]
        .iter()
        .filter_map(|name| field("/proc/meminfo", name))
        .sum()
}

fn field(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line[name.len()..].split_ascii_whitespace().next()?.parse().ok()
}
