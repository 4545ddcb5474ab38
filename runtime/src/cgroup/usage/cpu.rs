//! CPU time and throttling.

use super::Directory;
use super::text::Keyed;

/// CPU time since the cgroup was made, over all CPUs, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuUsage {
    /// In user and kernel mode.
    pub total_ns: u64,
    /// In user mode.
    pub user_ns: u64,
    /// In kernel mode.
    pub system_ns: u64,
    /// Periods in which a quota was enforced.
    pub periods: u64,
    /// Those in which the quota ran out.
    pub throttled_periods: u64,
    /// How long it had to wait then.
    pub throttled_ns: u64,
}

/// v1 counts time in `cpuacct` and throttling in `cpu`; v2 has both in one file.
pub(super) fn read(cpu: Option<&Directory>, cpuacct: Option<&Directory>) -> Option<CpuUsage> {
    match cpu {
        Some(directory) if directory.v2 => Keyed::read(&directory.file("cpu.stat")).map(|stat| v2(&stat)),
        cpu => {
            let cpuacct = cpuacct.filter(|directory| !directory.v2)?;
            let throttling = cpu.and_then(|directory| Keyed::read(&directory.file("cpu.stat")));
            let throttling = |key: &str| throttling.as_ref().map_or(0, |stat| stat.or_zero(key));
            Some(CpuUsage {
                total_ns: cpuacct.number("cpuacct.usage")?,
                user_ns: cpuacct.number("cpuacct.usage_user").unwrap_or_default(),
                system_ns: cpuacct.number("cpuacct.usage_sys").unwrap_or_default(),
                periods: throttling("nr_periods"),
                throttled_periods: throttling("nr_throttled"),
                throttled_ns: throttling("throttled_time"),
            })
        }
    }
}

fn v2(stat: &Keyed) -> CpuUsage {
    let ns = |key: &str| stat.or_zero(key).saturating_mul(1000);
    CpuUsage {
        total_ns: ns("usage_usec"),
        user_ns: ns("user_usec"),
        system_ns: ns("system_usec"),
        periods: stat.or_zero("nr_periods"),
        throttled_periods: stat.or_zero("nr_throttled"),
        throttled_ns: ns("throttled_usec"),
    }
}
