//! Cgroups of the host that runs the tests, and of a made-up v2 host.

use std::fs;

use serde_json::json;

use super::*;

/// A cgroup of this host that goes with its test, however that ends.
pub(in crate::cgroup) struct Passing(Cgroup);

impl Passing {
    pub(in crate::cgroup) fn new(parent: &str, id: &str) -> Passing {
        Passing(Cgroup::new(&Hierarchies::detect().unwrap(), parent, id).unwrap())
    }
}

impl std::ops::Deref for Passing {
    type Target = Cgroup;

    fn deref(&self) -> &Cgroup {
        &self.0
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.remove();
    }
}

/// A v2 host of plain directories: what is written can be read back.
fn made_up() -> (tempfile::TempDir, Arc<Hierarchies>) {
    let temp = tempfile::tempdir().unwrap();
    let table = format!("31 27 0:27 / {} rw - cgroup2 cgroup2 rw\n", temp.path().display());
    fs::write(
        temp.path().join("cgroup.controllers"),
        "cpuset cpu memory pids misc\n",
    )
    .unwrap();
    let files = [
        "cgroup.subtree_control",
        "cpu.max",
        "cpu.weight",
        "memory.max",
        "memory.high",
        "pids.max",
        "cgroup.kill",
    ];
    for directory in ["", "pods", "pods/id"] {
        fs::create_dir_all(temp.path().join(directory)).unwrap();
        for file in files {
            fs::write(temp.path().join(directory).join(file), "").unwrap();
        }
    }
    let hierarchies = Hierarchies::from_mount_table(table.as_bytes());
    (temp, hierarchies)
}

fn resources(value: serde_json::Value) -> LinuxResources {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_v2_host_gets_one_write_per_file() {
    let (temp, hierarchies) = made_up();
    let cgroup = Cgroup::new(&hierarchies, "/pods", "id").unwrap();
    let limits = json!({
        "cpu": {"shares": 1024, "quota": 50000, "period": 100000},
        "memory": {"limit": 1000, "swap": 1000},
        "pids": {"limit": -1},
        "unified": {"memory.high": "900"},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
    });
    cgroup.create(Some(&resources(limits))).unwrap();
    let read = |file: &str| fs::read_to_string(temp.path().join("pods/id").join(file)).unwrap();
    assert_eq!(read("cpu.weight"), "100");
    assert_eq!(read("cpu.max"), "50000 100000");
    assert_eq!(read("memory.max"), "1000");
    assert_eq!(read("memory.high"), "900");
    assert_eq!(read("pids.max"), "max");
    for parent in ["", "pods"] {
        let enabled = fs::read_to_string(temp.path().join(parent).join("cgroup.subtree_control")).unwrap();
        assert!(enabled.starts_with('+'), "{parent}: {enabled:?}");
    }
    assert_eq!(
        read("cgroup.subtree_control"),
        "",
        "the leaf has processes and passes nothing on"
    );
    assert_eq!(
        cgroup.oom_counter().unwrap(),
        temp.path().join("pods/id/memory.events")
    );
    assert!(cgroup.tasks_files().is_empty());
    cgroup.kill().unwrap();
    assert_eq!(read("cgroup.kill"), "1");
}

#[test]
fn a_controller_that_only_a_limit_names_is_passed_on_for_it() {
    let (temp, hierarchies) = made_up();
    let cgroup = Cgroup::new(&hierarchies, "/pods", "id").unwrap();
    let misc = temp.path().join("pods/id/misc.max");
    fs::write(&misc, "").unwrap();
    // Each write to these plain files replaces the beginning of the one before: the last one shows.
    let last = || fs::read_to_string(temp.path().join("pods/cgroup.subtree_control")).unwrap();
    cgroup.create(None).unwrap();
    assert!(last().starts_with("+pids"), "{}", last());
    let limits = json!({"unified": {"misc.max": "res_a 1"}});
    cgroup.create(Some(&resources(limits))).unwrap();
    assert!(last().starts_with("+misc"), "{}", last());
    assert_eq!(fs::read_to_string(misc).unwrap(), "res_a 1");
}

#[test]
fn a_failed_creation_leaves_nothing() {
    let (temp, hierarchies) = made_up();
    let cgroup = Cgroup::new(&hierarchies, "/pods/deeper", "other").unwrap();
    // The plain directories have no such file, as a kernel without the controller has none.
    let error = cgroup
        .create(Some(&resources(json!({"pids": {"limit": 5}}))))
        .unwrap_err();
    assert!(matches!(error, CgroupError::Write { .. }), "{error}");
    assert!(
        !temp.path().join("pods/deeper").exists(),
        "neither it nor the parent that was made for it"
    );
    assert!(temp.path().join("pods").exists());
}

#[test]
fn paths_never_leave_the_hierarchy() {
    let (_temp, hierarchies) = made_up();
    for parent in [
        "..",
        "/a/../b",
        "/a//b",
        "/./a",
        "/a/",
        "a\nb",
        "/x/..",
        &"/y".repeat(2000),
    ] {
        assert!(
            matches!(
                Cgroup::new(&hierarchies, parent, "id"),
                Err(CgroupError::Path { .. })
            ),
            "{parent:?}"
        );
    }
    for id in ["", "..", ".", "a/b", "/a", "a\0b"] {
        assert!(
            matches!(
                Cgroup::new(&hierarchies, "/pods", id),
                Err(CgroupError::Path { .. })
            ),
            "{id:?}"
        );
    }
    assert_eq!(
        Cgroup::new(&hierarchies, "", "id").unwrap().path(),
        Path::new("id")
    );
    assert_eq!(
        Cgroup::new(&hierarchies, "/kubepods/burstable/podx", "id")
            .unwrap()
            .path(),
        Path::new("kubepods/burstable/podx/id")
    );
}

#[test]
fn a_service_is_where_memory_is_charged() {
    let table =
        b"1 1 0:1 / /cg/memory rw - cgroup cgroup rw,memory\n2 1 0:2 / /cg/cpu rw - cgroup cgroup rw,cpu\n\
                  3 1 0:3 / /cg/unified rw - cgroup2 cgroup2 rw\n";
    let hierarchies = Hierarchies::from_mount_table(table);
    let service = Cgroup::service(&hierarchies, "crisp/daemon").unwrap();
    assert_eq!(
        service.directories().collect::<Vec<_>>(),
        [Path::new("/cg/memory/crisp/daemon")]
    );
    let whole = Cgroup::new(&hierarchies, "crisp", "x").unwrap();
    assert_eq!(whole.directories().count(), 3);
    assert_eq!(whole.tasks_files().len(), 2);
    assert_eq!(
        whole.oom_counter().unwrap(),
        Path::new("/cg/memory/crisp/x/memory.oom_control")
    );
}

#[test]
fn one_of_counters_is_in_no_hierarchy_that_counts_nothing() {
    let v1 = b"1 1 0:1 / /cg/memory rw - cgroup cgroup rw,memory\n2 1 0:2 / /cg/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
               3 1 0:3 / /cg/freezer rw - cgroup cgroup rw,freezer\n4 1 0:4 / /cg/unified rw - cgroup2 cgroup2 rw\n";
    let v2 = b"1 1 0:1 / /cg rw - cgroup2 cgroup2 rw\n";
    for (table, expected) in [
        (
            v1.as_slice(),
            &["/cg/memory/pods/x", "/cg/cpu,cpuacct/pods/x"][..],
        ),
        (v2, &["/cg/pods/x"]),
    ] {
        let hierarchies = Hierarchies::from_mount_table(table);
        let cgroup = Cgroup::new(&hierarchies, "/pods", "x").unwrap().of_counters();
        let directories: Vec<_> = cgroup.directories().collect();
        assert_eq!(directories, expected.iter().map(Path::new).collect::<Vec<_>>());
    }
}

#[test]
fn beside_one_of_counters_all_else_finds_its_parent() {
    let temp = tempfile::tempdir().unwrap();
    let at = |path: &str| temp.path().join(path);
    let table: String = ["memory", "freezer"]
        .map(|name| format!("1 1 0:1 / {} rw - cgroup cgroup rw,{name}\n", at(name).display()))
        .concat();
    for name in ["memory", "freezer"] {
        fs::create_dir(at(name)).unwrap();
    }
    let hierarchies = Hierarchies::from_mount_table(table.as_bytes());
    let pod = Cgroup::new(&hierarchies, "/pods/a", "pod").unwrap().of_counters();
    pod.create(None).unwrap();
    assert!(at("memory/pods/a/pod").is_dir());
    assert!(at("freezer/pods/a").is_dir() && !at("freezer/pods/a/pod").exists());

    // And what fails takes away no more than it brought.
    let beside = Cgroup::new(&hierarchies, "/pods/a", "beside").unwrap();
    let limits = resources(json!({"memory": {"limit": 1000}}));
    assert!(beside.create(Some(&limits)).is_err(), "there is no such file");
    assert!(!at("memory/pods/a/beside").exists() && !at("freezer/pods/a/beside").exists());
    assert!(at("freezer/pods/a").is_dir());
}

#[test]
fn creation_and_removal_can_be_repeated_on_this_host() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: cgroups of this host need root");
        return;
    }
    let above = Passing::new("", &format!("crisp-unit-{}", std::process::id()));
    let parent = format!("/{}/a", above.path().display());
    let cgroup = Passing::new(&parent, "b");
    for _ in 0..2 {
        cgroup
            .create(Some(&resources(json!({"pids": {"limit": 7}}))))
            .unwrap();
    }
    assert!(cgroup.directories().all(|path| path.is_dir()));
    assert!(cgroup.pids().unwrap().is_empty());
    cgroup.kill().unwrap();
    // A container that may write its cgroups can make some of its own.
    for directory in cgroup.directories() {
        fs::create_dir_all(directory.join("nested/deeper")).unwrap();
    }
    for _ in 0..2 {
        cgroup.remove().unwrap();
    }
    assert!(cgroup.directories().all(|path| !path.exists()));
    above.remove().unwrap();
}
