//! Which files get which values.

use std::sync::Arc;

use serde_json::json;

use super::cpu::{check_cpu_list, weight};
use super::*;

const HYBRID: &[u8] = b"\
1 1 0:1 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct
2 1 0:2 / /cg/memory rw - cgroup cgroup rw,memory
3 1 0:3 / /cg/pids rw - cgroup cgroup rw,pids
4 1 0:4 / /cg/cpuset rw - cgroup cgroup rw,cpuset
5 1 0:5 / /cg/unified rw - cgroup2 cgroup2 rw
";
const UNIFIED: &[u8] = b"1 1 0:1 / /cg rw - cgroup2 cgroup2 rw\n";

fn hierarchies(table: &[u8]) -> Arc<Hierarchies> {
    Hierarchies::from_mount_table(table)
}

fn writes(table: &[u8], resources: serde_json::Value) -> Result<Vec<(String, String)>, CgroupError> {
    let resources = serde_json::from_value(resources).unwrap();
    let list = settings(&hierarchies(table), &resources)?;
    Ok(list
        .into_iter()
        .map(|setting| (setting.file, setting.value))
        .collect())
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(file, value)| ((*file).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn shares_become_weights_along_the_known_points() {
    for (shares, expected) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
        assert_eq!(weight(shares), expected, "{shares}");
    }
    assert!(
        (2..=262_144)
            .step_by(97)
            .all(|shares| (1..=10_000).contains(&weight(shares)))
    );
}

#[test]
fn memory_limits_are_written_in_an_order_that_works_both_ways() {
    let limits = json!({"memory": {"limit": 100, "swap": 100}});
    assert_eq!(
        writes(HYBRID, limits.clone()).unwrap(),
        pairs(&[
            ("memory.memsw.limit_in_bytes", "-1"),
            ("memory.limit_in_bytes", "100"),
            ("memory.memsw.limit_in_bytes", "100"),
        ])
    );
    assert_eq!(
        writes(UNIFIED, limits).unwrap(),
        pairs(&[("memory.max", "100"), ("memory.swap.max", "0")])
    );
    let unlimited = json!({"memory": {"limit": -1, "swap": -1}});
    assert_eq!(
        writes(UNIFIED, unlimited).unwrap(),
        pairs(&[("memory.max", "max"), ("memory.swap.max", "max")])
    );
    assert!(writes(HYBRID, json!({"memory": {"limit": 100, "swap": 50}})).is_err());
}

#[test]
fn zero_means_not_set() {
    let zeros = json!({"cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""}, "memory": {"limit": 0, "swap": 0}});
    assert!(writes(HYBRID, zeros.clone()).unwrap().is_empty());
    assert!(writes(UNIFIED, zeros).unwrap().is_empty());
    assert_eq!(
        writes(HYBRID, json!({"pids": {"limit": 0}})).unwrap(),
        pairs(&[("pids.max", "max")])
    );
}

#[test]
fn cpu_lists_are_parsed_before_the_kernel_allocates_them() {
    for list in ["0", "0-3", "0,2-5,7"] {
        assert!(check_cpu_list("f", list).is_ok(), "{list}");
    }
    for list in [
        "0-2147483647",
        "3-1",
        "a",
        "-",
        "1-",
        "0,,1",
        "0\n",
        " 0",
        "70000",
    ] {
        assert!(check_cpu_list("f", list).is_err(), "{list:?}");
    }
}

#[test]
fn a_missing_controller_is_named_and_huge_pages_are_forgiven() {
    let error = writes(
        HYBRID,
        json!({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]}}),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "linux.resources.blockIO.throttleReadBpsDevice: the host has no cgroup controller blkio"
    );
    assert!(
        writes(
            HYBRID,
            json!({"hugepageLimits": [{"pageSize": "1GB", "limit": 0}]})
        )
        .unwrap()
        .is_empty()
    );
    assert!(
        writes(
            HYBRID,
            json!({"hugepageLimits": [{"pageSize": "../x", "limit": 0}]})
        )
        .is_err()
    );
}

#[test]
fn unified_files_are_files_of_controllers() {
    assert_eq!(
        writes(UNIFIED, json!({"unified": {"memory.high": "5"}})).unwrap(),
        pairs(&[("memory.high", "5")])
    );
    for file in ["cgroup.procs", "cgroup.kill", "../x.y", "memory", ".x", "a/b.c"] {
        assert!(
            writes(UNIFIED, json!({"unified": {file: "1"}})).is_err(),
            "{file}"
        );
    }
    assert!(writes(HYBRID, json!({"unified": {"memory.high": "5"}})).is_err());
}

#[test]
fn what_is_not_supported_is_refused() {
    for resources in [
        json!({"network": {"classID": 1}}),
        json!({"rdma": {"mlx5_0": {"hcaHandles": 1}}}),
        json!({"cpu": {"realtimeRuntime": 1}}),
        json!({"memory": {"disableOOMKiller": true}}),
    ] {
        assert!(matches!(
            writes(HYBRID, resources),
            Err(CgroupError::Limit { .. })
        ));
    }
}
