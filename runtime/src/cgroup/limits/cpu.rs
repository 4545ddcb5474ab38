//! CPU time and CPU sets.

use oci_spec::runtime::LinuxCpu;

use super::{CgroupError, Settings};

impl Settings<'_> {
    pub(super) fn cpu(&mut self, cpu: &LinuxCpu, v2: bool) -> Result<(), CgroupError> {
        let field = |name: &str| format!("linux.resources.cpu.{name}");
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            let field = field("shares");
            if v2 {
                self.put("cpu", "cpu.weight", weight(shares).to_string(), &field)?;
            } else {
                self.put("cpu", "cpu.shares", shares.to_string(), &field)?;
            }
        }
        let period = cpu.period().filter(|period| *period != 0);
        let quota = cpu.quota().filter(|quota| *quota != 0);
        if v2 && (period.is_some() || quota.is_some()) {
            let quota = quota
                .filter(|quota| *quota > 0)
                .map_or("max".into(), |quota| quota.to_string());
            self.put(
                "cpu",
                "cpu.max",
                format!("{quota} {}", period.unwrap_or(100_000)),
                &field("quota"),
            )?;
        } else {
            if let Some(period) = period {
                self.put("cpu", "cpu.cfs_period_us", period.to_string(), &field("period"))?;
            }
            if let Some(quota) = quota {
                self.put(
                    "cpu",
                    "cpu.cfs_quota_us",
                    quota.max(-1).to_string(),
                    &field("quota"),
                )?;
            }
        }
        if let Some(burst) = cpu.burst() {
            let file = if v2 { "cpu.max.burst" } else { "cpu.cfs_burst_us" };
            self.put("cpu", file, burst.to_string(), &field("burst"))?;
        }
        if let Some(idle) = cpu.idle() {
            self.put("cpu", "cpu.idle", idle.to_string(), &field("idle"))?;
        }
        for (name, list) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                check_cpu_list(&field(name), list)?;
                self.put("cpuset", format!("cpuset.{name}"), list.clone(), &field(name))?;
            }
        }
        Ok(())
    }
}

/// A list such as `0-3,7`. The kernel parses huge ranges happily; nobody has such CPUs.
pub(super) fn check_cpu_list(field: &str, list: &str) -> Result<(), CgroupError> {
    const CPU_MAX: u32 = 65_535;
    let cpu = |text: &str| text.parse::<u32>().ok().filter(|cpu| *cpu <= CPU_MAX);
    let valid = list.split(',').all(|part| match part.split_once('-') {
        None => cpu(part).is_some(),
        Some((first, last)) => matches!((cpu(first), cpu(last)), (Some(first), Some(last)) if first <= last),
    });
    if valid {
        return Ok(());
    }
    Err(CgroupError::Limit {
        field: field.into(),
        value: list.into(),
        reason: "is no list of CPUs or memory nodes",
    })
}

/// v1 shares (2 to 262144, default 1024) as v2 weight (1 to 10000, default 100): the curve through the three pairs
/// that the OCI runtimes use.
pub(super) fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}
