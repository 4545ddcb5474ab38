//! What a container was allowed. Zero is "no limit", as cAdvisor has it.

use super::Kind::Gauge;
use super::{Family, Subject, Value, one};
use crate::container::Resources;

/// The kernel's own period, in µs, when none was asked for.
const DEFAULT_PERIOD: u64 = 100_000;
/// The kernel's own weight.
const DEFAULT_SHARES: u64 = 1024;

fn asked(subject: &Subject, read: fn(&Resources) -> i64, default: u64) -> Vec<Value> {
    let container = subject.container.as_ref();
    one(
        container.map(|container| match u64::try_from(read(&container.resources)) {
            Ok(value) if value > 0 => value,
            _ => default,
        }),
    )
}

const fn family(name: &'static str, help: &'static str, read: fn(&Subject) -> Vec<Value>) -> Family {
    Family::new(name, help, Gauge, &[], read)
}

pub(super) const FAMILIES: &[Family] = &[
    family(
        "container_spec_cpu_period",
        "Period of the CPU quota, in µs",
        |subject| asked(subject, |resources| resources.cpu_period, DEFAULT_PERIOD),
    ),
    family(
        "container_spec_cpu_quota",
        "CPU time per period, in µs",
        |subject| {
            let mut quota = asked(subject, |resources| resources.cpu_quota, 0);
            quota.retain(|(_, quota)| *quota > 0);
            quota
        },
    ),
    family(
        "container_spec_cpu_shares",
        "Weight among those that want the same CPU",
        |subject| asked(subject, |resources| resources.cpu_shares, DEFAULT_SHARES),
    ),
    family(
        "container_spec_memory_limit_bytes",
        "Limit of memory, in bytes",
        |subject| asked(subject, |resources| resources.memory_limit, 0),
    ),
    family(
        "container_spec_memory_swap_limit_bytes",
        "Limit of memory and swap together, in bytes",
        |subject| asked(subject, |resources| resources.memory_swap_limit, 0),
    ),
    family(
        "container_spec_memory_reservation_limit_bytes",
        "Memory that is not reclaimed while others have more than theirs, in bytes",
        |subject| {
            let memory = subject.usage.memory.as_ref();
            one(subject
                .container
                .as_ref()
                .map(|_| memory.and_then(|memory| memory.reservation).unwrap_or_default()))
        },
    ),
];
