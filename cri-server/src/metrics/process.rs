//! Processes, threads, descriptors, and when they were seen.

use super::Kind::Gauge;
use super::subject::OfContainer;
use super::{Family, Subject, Value, one};

const SECOND: i64 = 1_000_000_000;

fn container(subject: &Subject, read: fn(&OfContainer) -> u64) -> Vec<Value> {
    one(subject.container.as_ref().map(read))
}

fn seconds(nanos: i64) -> u64 {
    u64::try_from(nanos / SECOND).unwrap_or_default()
}

const fn gauge(name: &'static str, help: &'static str, read: fn(&Subject) -> Vec<Value>) -> Family {
    Family::new(name, help, Gauge, &[], read)
}

pub(super) const FAMILIES: &[Family] = &[
    gauge("container_processes", "Processes", |subject| {
        container(subject, |container| container.processes.processes)
    }),
    gauge("container_threads", "Threads of all processes", |subject| {
        container(subject, |container| container.processes.threads)
    }),
    gauge(
        "container_threads_max",
        "The most processes and threads that there may be; 0 is any number",
        |subject| {
            let limit = subject
                .usage
                .pids
                .map_or(0, |pids| pids.limit.unwrap_or_default());
            one(subject.container.as_ref().map(|_| limit))
        },
    ),
    gauge(
        "container_file_descriptors",
        "Open descriptors of all processes",
        |subject| container(subject, |container| container.processes.descriptors),
    ),
    gauge("container_sockets", "Open sockets of all processes", |subject| {
        container(subject, |container| container.processes.sockets)
    }),
    Family::new(
        "container_ulimits_soft",
        "Soft limits of the first process",
        Gauge,
        &["ulimit"],
        |subject| {
            let files = subject
                .container
                .as_ref()
                .and_then(|container| container.open_files);
            files
                .map(|files| (vec!["max_open_files".to_owned()], files))
                .into_iter()
                .collect()
        },
    ),
    gauge(
        "container_start_time_seconds",
        "When the container was started, in seconds since 1970",
        |subject| container(subject, |container| seconds(container.started_at)),
    ),
    gauge(
        "container_last_seen",
        "When the values were read, in seconds since 1970",
        |subject| one(Some(seconds(subject.at))),
    ),
];
