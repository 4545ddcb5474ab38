//! Limits: from the resources of an OCI runtime spec to writes to files.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};
use rustix::io::Errno;

use super::devices::v1_writes;
use super::hierarchy::Hierarchies;
use super::{CgroupError, Layout, try_write};

/// One write of one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    mount: PathBuf,
    file: String,
    value: String,
    absent: Absent,
}

/// What a missing file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absent {
    Fails,
    /// The kernel was built or booted without it, and a container without this limit still runs.
    Ignored,
}

impl Setting {
    pub(super) fn write(&self, cgroup: &Path) -> Result<(), CgroupError> {
        let path = self.mount.join(cgroup).join(&self.file);
        match try_write(&path, &self.value) {
            Err(Errno::NOENT) if self.absent == Absent::Ignored => Ok(()),
            Err(errno) => Err(CgroupError::Write {
                path,
                value: self.value.clone(),
                source: errno.into(),
            }),
            Ok(()) => Ok(()),
        }
    }
}

/// Collects the writes for one set of resources.
struct Settings<'a> {
    hierarchies: &'a Hierarchies,
    list: Vec<Setting>,
}

/// All writes, in an order that the kernel accepts.
pub(super) fn settings(
    hierarchies: &Hierarchies,
    resources: &LinuxResources,
) -> Result<Vec<Setting>, CgroupError> {
    refuse_unsupported(resources)?;
    let v2 = hierarchies.layout() == Layout::V2;
    let mut settings = Settings {
        hierarchies,
        list: Vec::new(),
    };
    if let Some(cpu) = resources.cpu() {
        settings.cpu(cpu, v2)?;
    }
    if let Some(memory) = resources.memory() {
        settings.memory(memory, v2)?;
    }
    if let Some(limit) = resources.pids().map(|pids| pids.limit()) {
        // 0 is how many writers say "not set"; a cgroup without any process is useless.
        let value = if limit > 0 {
            limit.to_string()
        } else {
            "max".into()
        };
        settings.put("pids", "pids.max", value, "linux.resources.pids")?;
    }
    for (index, page) in resources.hugepage_limits().iter().flatten().enumerate() {
        settings.hugepages(
            &format!("linux.resources.hugepageLimits[{index}]"),
            page.page_size(),
            page.limit(),
            v2,
        )?;
    }
    if let Some(io) = resources.block_io() {
        settings.io(io, v2)?;
    }
    if v2 {
        for (file, value) in resources.unified().iter().flatten() {
            settings.unified(file, value)?;
        }
    } else if resources
        .unified()
        .as_ref()
        .is_some_and(|unified| !unified.is_empty())
    {
        return Err(CgroupError::Controller {
            field: "linux.resources.unified".into(),
            controller: "of the v2 hierarchy".into(),
        });
    }
    // Device access on v2 takes a BPF program, not a file.
    if !v2 {
        for write in v1_writes(resources.devices().as_deref().unwrap_or_default())? {
            settings.put("devices", write.file, write.value, "linux.resources.devices")?;
        }
    }
    Ok(settings.list)
}

fn refuse_unsupported(resources: &LinuxResources) -> Result<(), CgroupError> {
    let network = resources.network().as_ref().is_some_and(|network| {
        network.class_id().is_some() || network.priorities().as_ref().is_some_and(|list| !list.is_empty())
    });
    let rdma = resources.rdma().as_ref().is_some_and(|map| !map.is_empty());
    let realtime = resources
        .cpu()
        .as_ref()
        .is_some_and(|cpu| cpu.realtime_runtime().is_some() || cpu.realtime_period().is_some());
    for (field, present) in [("network", network), ("rdma", rdma), ("cpu.realtime", realtime)] {
        if present {
            return Err(CgroupError::Limit {
                field: format!("linux.resources.{field}"),
                value: "(set)".into(),
                reason: "is not supported",
            });
        }
    }
    Ok(())
}

impl Settings<'_> {
    fn put(
        &mut self,
        controller: &str,
        file: impl Into<String>,
        value: impl Into<String>,
        field: &str,
    ) -> Result<(), CgroupError> {
        self.put_or(controller, file, value, field, Absent::Fails)
    }

    fn put_or(
        &mut self,
        controller: &str,
        file: impl Into<String>,
        value: impl Into<String>,
        field: &str,
        absent: Absent,
    ) -> Result<(), CgroupError> {
        match self.hierarchies.controller(controller) {
            Some(hierarchy) => self.list.push(Setting {
                mount: hierarchy.mount.clone(),
                file: file.into(),
                value: value.into(),
                absent,
            }),
            None if absent == Absent::Ignored => {}
            None => {
                return Err(CgroupError::Controller {
                    field: field.into(),
                    controller: controller.into(),
                });
            }
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &LinuxCpu, v2: bool) -> Result<(), CgroupError> {
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

    fn memory(&mut self, memory: &LinuxMemory, v2: bool) -> Result<(), CgroupError> {
        let field = |name: &str| format!("linux.resources.memory.{name}");
        let limit = memory.limit().filter(|limit| *limit != 0);
        let swap = memory.swap().filter(|swap| *swap != 0);
        if let (Some(limit @ 1..), Some(swap @ 1..)) = (limit, swap)
            && swap < limit
        {
            return Err(CgroupError::Limit {
                field: field("swap"),
                value: swap.to_string(),
                reason: "is less than the memory limit, which it includes",
            });
        }
        if v2 {
            self.memory_v2(memory, limit, swap)?;
        } else {
            self.memory_v1(limit, swap)?;
            if let Some(reservation) = memory.reservation().filter(|value| *value != 0) {
                self.put(
                    "memory",
                    "memory.soft_limit_in_bytes",
                    reservation.to_string(),
                    &field("reservation"),
                )?;
            }
            if let Some(swappiness) = memory.swappiness() {
                self.put(
                    "memory",
                    "memory.swappiness",
                    swappiness.to_string(),
                    &field("swappiness"),
                )?;
            }
        }
        if memory.disable_oom_killer().unwrap_or(false) {
            return Err(CgroupError::Limit {
                field: field("disableOOMKiller"),
                value: "true".into(),
                reason: "is not supported",
            });
        }
        Ok(())
    }

    /// In v1 the limit of memory and swap together may never be below that of memory alone, whichever of the two is
    /// written first. So it is lifted, the other written, and then set.
    fn memory_v1(&mut self, limit: Option<i64>, swap: Option<i64>) -> Result<(), CgroupError> {
        let field = "linux.resources.memory.limit";
        let together = "memory.memsw.limit_in_bytes";
        if limit.is_some() && swap.is_some() {
            self.put_or("memory", together, "-1", field, Absent::Ignored)?;
        }
        if let Some(limit) = limit {
            self.put(
                "memory",
                "memory.limit_in_bytes",
                limit.max(-1).to_string(),
                field,
            )?;
        }
        match swap {
            Some(swap @ 1..) => self.put_or("memory", together, swap.to_string(), field, Absent::Ignored),
            Some(_) if limit.is_none() => self.put_or("memory", together, "-1", field, Absent::Ignored),
            _ => Ok(()),
        }
    }

    fn memory_v2(
        &mut self,
        memory: &LinuxMemory,
        limit: Option<i64>,
        swap: Option<i64>,
    ) -> Result<(), CgroupError> {
        let field = "linux.resources.memory.limit";
        let text = |value: i64| {
            if value > 0 {
                value.to_string()
            } else {
                "max".into()
            }
        };
        if let Some(limit) = limit {
            self.put("memory", "memory.max", text(limit), field)?;
        }
        // The spec's value includes memory, the kernel's file does not.
        let swap = match (limit, swap) {
            (_, None) => None,
            (Some(limit @ 1..), Some(swap @ 1..)) => Some((swap - limit).to_string()),
            (_, Some(swap)) => Some(text(swap)),
        };
        if let Some(swap) = swap {
            self.put_or(
                "memory",
                "memory.swap.max",
                swap,
                "linux.resources.memory.swap",
                Absent::Ignored,
            )?;
        }
        if let Some(reservation) = memory.reservation().filter(|value| *value > 0) {
            self.put(
                "memory",
                "memory.low",
                reservation.to_string(),
                "linux.resources.memory.reservation",
            )?;
        }
        Ok(())
    }

    /// Kubelet lists every page size of the node; a host without the controller has nothing to limit.
    fn hugepages(&mut self, field: &str, size: &str, limit: i64, v2: bool) -> Result<(), CgroupError> {
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(CgroupError::Limit {
                field: field.into(),
                value: size.into(),
                reason: "is no page size",
            });
        }
        let value = if limit >= 0 {
            limit.to_string()
        } else if v2 {
            "max".into()
        } else {
            "-1".into()
        };
        let file = if v2 {
            format!("hugetlb.{size}.max")
        } else {
            format!("hugetlb.{size}.limit_in_bytes")
        };
        self.put_or("hugetlb", file, value, field, Absent::Ignored)
    }

    fn io(&mut self, io: &LinuxBlockIo, v2: bool) -> Result<(), CgroupError> {
        let throttles = [
            (
                "throttleReadBpsDevice",
                "read_bps_device",
                "rbps",
                io.throttle_read_bps_device(),
            ),
            (
                "throttleWriteBpsDevice",
                "write_bps_device",
                "wbps",
                io.throttle_write_bps_device(),
            ),
            (
                "throttleReadIOPSDevice",
                "read_iops_device",
                "riops",
                io.throttle_read_iops_device(),
            ),
            (
                "throttleWriteIOPSDevice",
                "write_iops_device",
                "wiops",
                io.throttle_write_iops_device(),
            ),
        ];
        for (name, v1_file, v2_key, devices) in throttles {
            let field = format!("linux.resources.blockIO.{name}");
            for device in devices.iter().flatten() {
                let (major, minor, rate) = (device.major(), device.minor(), device.rate());
                if v2 {
                    self.put("io", "io.max", format!("{major}:{minor} {v2_key}={rate}"), &field)?;
                } else {
                    let file = format!("blkio.throttle.{v1_file}");
                    self.put("blkio", file, format!("{major}:{minor} {rate}"), &field)?;
                }
            }
        }
        if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
            let field = "linux.resources.blockIO.weight";
            // Only some I/O schedulers have weights.
            if v2 {
                self.put_or("io", "io.bfq.weight", weight.to_string(), field, Absent::Ignored)?;
            } else {
                self.put_or(
                    "blkio",
                    "blkio.bfq.weight",
                    weight.to_string(),
                    field,
                    Absent::Ignored,
                )?;
            }
        }
        Ok(())
    }

    fn unified(&mut self, file: &str, value: &str) -> Result<(), CgroupError> {
        let field = format!("linux.resources.unified[{file}]");
        let controller = file.split('.').next().unwrap_or_default();
        let plain = file
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte));
        // cgroup.procs, cgroup.kill and the like are not limits.
        if !plain || !file.contains('.') || file.starts_with('.') || controller == "cgroup" {
            return Err(CgroupError::Limit {
                field,
                value: file.into(),
                reason: "is no file of a controller",
            });
        }
        self.put(controller, file, value, &field)
    }
}

/// A list such as `0-3,7`. The kernel parses huge ranges happily; nobody has such CPUs.
fn check_cpu_list(field: &str, list: &str) -> Result<(), CgroupError> {
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
fn weight(shares: u64) -> u64 {
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

#[cfg(test)]
mod tests;
