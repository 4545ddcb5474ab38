//! CPU time and throttling.

use runtime::cgroup::usage::CpuUsage;

use super::Kind::Counter;
use super::{Family, Subject, Value, one};

const SECOND: u64 = 1_000_000_000;

fn cpu(subject: &Subject, read: fn(&CpuUsage) -> u64) -> Vec<Value> {
    one(subject.usage.cpu.as_ref().map(read))
}

pub(super) const FAMILIES: &[Family] = &[
    Family::new(
        "container_cpu_usage_seconds_total",
        "CPU time used, in seconds",
        Counter,
        &["cpu"],
        |subject| {
            let total = subject
                .usage
                .cpu
                .map(|cpu| (vec!["total".to_owned()], cpu.total_ns / SECOND));
            total.into_iter().collect()
        },
    ),
    Family::new(
        "container_cpu_user_seconds_total",
        "CPU time used in user mode, in seconds",
        Counter,
        &[],
        |subject| cpu(subject, |cpu| cpu.user_ns / SECOND),
    ),
    Family::new(
        "container_cpu_system_seconds_total",
        "CPU time used in kernel mode, in seconds",
        Counter,
        &[],
        |subject| cpu(subject, |cpu| cpu.system_ns / SECOND),
    ),
    Family::new(
        "container_cpu_cfs_periods_total",
        "Periods in which a CPU quota was enforced",
        Counter,
        &[],
        |subject| cpu(subject, |cpu| cpu.periods),
    ),
    Family::new(
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which the CPU quota ran out",
        Counter,
        &[],
        |subject| cpu(subject, |cpu| cpu.throttled_periods),
    ),
    Family::new(
        "container_cpu_cfs_throttled_seconds_total",
        "Time spent throttled for want of CPU quota, in seconds",
        Counter,
        &[],
        |subject| cpu(subject, |cpu| cpu.throttled_ns / SECOND),
    ),
];
