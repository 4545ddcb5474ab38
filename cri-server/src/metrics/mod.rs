//! cAdvisor's metrics, served over CRI: for nodes whose kubelet takes them from the runtime.
//!
//! ```text
//!   ListMetricDescriptors ◄── FAMILIES: name, help, labels ──┐  one table, so both calls
//!   ListPodSandboxMetrics ◄── Subject ──► Family::read ──────┘  have the same label sets
//! ```
//! A [`Subject`] is a container, or the pod itself with empty `name`, `image` and `container`, as cAdvisor has it for a
//! pod's cgroup. Names, labels and meanings are cAdvisor's, so dashboards need no change. Values are whole numbers,
//! because the wire has no others: seconds lose their fractions.
//!
//! A family without a value for a subject (no quota, no huge pages) is left out for it; those that everybody has are
//! always there.

mod cpu;
mod disk;
mod memory;
mod network;
mod pressure;
mod process;
mod spec;
mod subject;

use cri_api::v1;

pub use subject::{Subject, of_container, of_pod};

/// Labels that every metric has, before its own.
const BASE_LABELS: [&str; 6] = ["id", "name", "image", "namespace", "pod", "container"];

/// Whether a value can fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// One value of a family: those of its own labels, in their order, and the number.
type Value = (Vec<String>, u64);

/// All metrics of one name.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    /// Beyond [`BASE_LABELS`].
    labels: &'static [&'static str],
    read: fn(&Subject) -> Vec<Value>,
}

impl Family {
    const fn new(
        name: &'static str,
        help: &'static str,
        kind: Kind,
        labels: &'static [&'static str],
        read: fn(&Subject) -> Vec<Value>,
    ) -> Self {
        Self {
            name,
            help,
            kind,
            labels,
            read,
        }
    }
}

/// A single value without labels of its own, if there is one.
fn one(value: Option<u64>) -> Vec<Value> {
    value.map(|value| (Vec::new(), value)).into_iter().collect()
}

fn families() -> impl Iterator<Item = &'static Family> {
    [
        cpu::FAMILIES,
        memory::FAMILIES,
        disk::FAMILIES,
        network::FAMILIES,
        process::FAMILIES,
        spec::FAMILIES,
        pressure::FAMILIES,
    ]
    .into_iter()
    .flatten()
}

/// What each metric is and which labels it has.
pub fn descriptors() -> Vec<v1::MetricDescriptor> {
    families()
        .map(|family| v1::MetricDescriptor {
            name: family.name.to_owned(),
            help: family.help.to_owned(),
            label_keys: BASE_LABELS
                .iter()
                .chain(family.labels)
                .map(|key| (*key).to_owned())
                .collect(),
        })
        .collect()
}

/// All metrics of a container or pod. Blocks: devices are named by sysfs.
pub fn of(subject: &Subject) -> Vec<v1::Metric> {
    let mut all = Vec::new();
    for family in families() {
        for (labels, value) in (family.read)(subject) {
            debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
            all.push(v1::Metric {
                name: family.name.to_owned(),
                timestamp: subject.at,
                metric_type: match family.kind {
                    Kind::Counter => v1::MetricType::Counter,
                    Kind::Gauge => v1::MetricType::Gauge,
                } as i32,
                label_values: subject.labels.iter().cloned().chain(labels).collect(),
                value: Some(v1::UInt64Value { value }),
            });
        }
    }
    all
}

#[cfg(test)]
mod tests;
