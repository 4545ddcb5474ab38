//! Time spent waiting for resources: some of the processes ("waiting"), or all of them ("stalled").

use runtime::cgroup::usage::{Pressure, Pressures};

use super::Kind::Counter;
use super::{Family, Subject, Value, one};

const SECOND: u64 = 1_000_000_000;

fn waiting(subject: &Subject, of: fn(&Pressures) -> Option<Pressure>) -> Vec<Value> {
    one(of(&subject.usage.pressure).map(|pressure| pressure.some.total_ns / SECOND))
}

fn stalled(subject: &Subject, of: fn(&Pressures) -> Option<Pressure>) -> Vec<Value> {
    one(of(&subject.usage.pressure).map(|pressure| pressure.full.total_ns / SECOND))
}

const fn family(name: &'static str, help: &'static str, read: fn(&Subject) -> Vec<Value>) -> Family {
    Family::new(name, help, Counter, &[], read)
}

pub(super) const FAMILIES: &[Family] = &[
    family(
        "container_pressure_cpu_waiting_seconds_total",
        "Time in which some processes waited for a CPU, in seconds",
        |subject| waiting(subject, |pressure| pressure.cpu),
    ),
    family(
        "container_pressure_cpu_stalled_seconds_total",
        "Time in which all processes waited for a CPU, in seconds",
        |subject| stalled(subject, |pressure| pressure.cpu),
    ),
    family(
        "container_pressure_memory_waiting_seconds_total",
        "Time in which some processes waited for memory, in seconds",
        |subject| waiting(subject, |pressure| pressure.memory),
    ),
    family(
        "container_pressure_memory_stalled_seconds_total",
        "Time in which all processes waited for memory, in seconds",
        |subject| stalled(subject, |pressure| pressure.memory),
    ),
    family(
        "container_pressure_io_waiting_seconds_total",
        "Time in which some processes waited for a device, in seconds",
        |subject| waiting(subject, |pressure| pressure.io),
    ),
    family(
        "container_pressure_io_stalled_seconds_total",
        "Time in which all processes waited for a device, in seconds",
        |subject| stalled(subject, |pressure| pressure.io),
    ),
];
