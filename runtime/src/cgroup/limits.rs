//! Limits: from the resources of an OCI runtime spec to writes to files.

mod cpu;
mod memory;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxBlockIo, LinuxResources};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::devices::{Policy, v1_writes};
use super::hierarchy::Hierarchies;
use super::{CgroupError, Layout};

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
    /// Its file in a cgroup.
    pub(super) fn path(&self, cgroup: &Path) -> PathBuf {
        self.mount.join(cgroup).join(&self.file)
    }

    pub(super) fn file(&self) -> &str {
        &self.file
    }

    pub(super) fn value(&self) -> &str {
        &self.value
    }

    fn has_file_of(&self, other: &Setting) -> bool {
        self.file == other.file && self.mount == other.mount
    }

    fn refused(&self, cgroup: &Path, errno: Errno) -> CgroupError {
        CgroupError::Write {
            path: self.path(cgroup),
            value: self.value.clone(),
            source: errno.into(),
        }
    }
}

/// Writes settings to a cgroup, in their order. A file that several follow each other to (v1 takes a line per device) is
/// opened once.
pub(super) fn write(settings: &[Setting], cgroup: &Path) -> Result<(), CgroupError> {
    for run in settings.chunk_by(Setting::has_file_of) {
        let [first, ..] = run else { continue };
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = match rustix::fs::open(first.path(cgroup), flags, Mode::empty()) {
            Err(Errno::NOENT) if first.absent == Absent::Ignored => continue,
            file => file.map_err(|errno| first.refused(cgroup, errno))?,
        };
        for setting in run {
            rustix::io::write(&file, setting.value.as_bytes())
                .map_err(|errno| setting.refused(cgroup, errno))?;
        }
    }
    Ok(())
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
    // Device access on v2 takes a program, not a file, but the rules are checked all the same.
    let policy = Policy::parse(resources.devices().as_deref().unwrap_or_default())?;
    if let Some(policy) = policy.filter(|_| !v2) {
        for write in v1_writes(&policy) {
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

#[cfg(test)]
mod tests;
