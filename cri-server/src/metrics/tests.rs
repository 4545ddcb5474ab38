//! The table agrees with itself and with what its readers expect.

use std::collections::{BTreeMap, BTreeSet};

use runtime::cgroup::usage::{
    CpuUsage, DeviceIo, HugePageUsage, IoUsage, MemoryUsage, PidsUsage, Pressure, Pressures, Usage,
};

use super::subject::OfContainer;
use super::*;
use crate::container::Resources;
use crate::stats::Interface;

/// A subject that has everything.
fn whole() -> Subject {
    Subject {
        labels: ["/pods/c1", "c1", "busybox", "default", "web", "main"].map(str::to_owned),
        at: 5_000_000_000,
        usage: Usage {
            cpu: Some(CpuUsage {
                total_ns: 2_500_000_000,
                ..CpuUsage::default()
            }),
            memory: Some(MemoryUsage {
                usage: 100,
                inactive_file: 30,
                ..MemoryUsage::default()
            }),
            io: Some(IoUsage {
                devices: vec![DeviceIo {
                    major: 4095,
                    read_bytes: 7,
                    ..DeviceIo::default()
                }],
            }),
            pids: Some(PidsUsage::default()),
            hugetlb: vec![HugePageUsage {
                size: "2MB".to_owned(),
                usage: 1,
                peak: 2,
            }],
            pressure: Pressures {
                cpu: Some(Pressure::default()),
                memory: Some(Pressure::default()),
                io: Some(Pressure::default()),
            },
        },
        links: vec![Interface {
            name: "eth0".to_owned(),
            ..Interface::default()
        }],
        container: Some(OfContainer {
            open_files: Some(1024),
            resources: Resources {
                cpu_quota: 20_000,
                cpu_shares: 2,
                ..Resources::default()
            },
            ..OfContainer::default()
        }),
    }
}

#[test]
fn every_descriptor_has_a_value_with_the_same_labels() {
    let metrics = of(&whole());
    for descriptor in descriptors() {
        let values: Vec<_> = metrics
            .iter()
            .filter(|metric| metric.name == descriptor.name)
            .collect();
        assert!(!values.is_empty(), "{} has no value", descriptor.name);
        for value in values {
            assert_eq!(
                value.label_values.len(),
                descriptor.label_keys.len(),
                "{}",
                descriptor.name
            );
        }
        assert!(!descriptor.help.is_empty());
    }
    let names: BTreeSet<_> = descriptors()
        .into_iter()
        .map(|descriptor| descriptor.name)
        .collect();
    assert_eq!(names.len(), descriptors().len(), "a name is used twice");
    assert!(metrics.iter().all(|metric| names.contains(&metric.name)));
}

#[test]
fn a_series_is_told_once() {
    let mut series = BTreeMap::new();
    for metric in of(&whole()) {
        let known = series.insert((metric.name.clone(), metric.label_values.clone()), metric.value);
        assert!(known.is_none(), "{} {:?}", metric.name, metric.label_values);
    }
}

#[test]
fn values_are_in_the_units_of_their_names() {
    let metrics = of(&whole());
    let value = |name: &str| {
        let metric = metrics.iter().find(|metric| metric.name == name).unwrap();
        metric.value.unwrap().value
    };
    assert_eq!(value("container_cpu_usage_seconds_total"), 2);
    assert_eq!(value("container_memory_working_set_bytes"), 70);
    assert_eq!(value("container_last_seen"), 5);
    assert_eq!(value("container_spec_cpu_quota"), 20_000);
    assert_eq!(value("container_spec_cpu_period"), 100_000);
    assert_eq!(value("container_spec_cpu_shares"), 2);
    assert_eq!(value("container_spec_memory_limit_bytes"), 0);
    assert_eq!(value("container_fs_reads_bytes_total"), 7);
}

#[test]
fn a_pod_has_links_and_no_writable_layer() {
    let pod = Subject {
        container: None,
        ..whole()
    };
    let names: BTreeSet<_> = of(&pod).into_iter().map(|metric| metric.name).collect();
    assert!(names.contains("container_network_receive_bytes_total"));
    assert!(names.contains("container_memory_usage_bytes"));
    for absent in [
        "container_fs_usage_bytes",
        "container_processes",
        "container_spec_cpu_shares",
    ] {
        assert!(!names.contains(absent), "{absent}");
    }
}
