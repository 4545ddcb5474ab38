//! Memory and swap.

use oci_spec::runtime::LinuxMemory;

use super::{Absent, CgroupError, Settings};

impl Settings<'_> {
    pub(super) fn memory(&mut self, memory: &LinuxMemory, v2: bool) -> Result<(), CgroupError> {
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
}
