//! What a spec becomes, and what is refused by the name of its field.

mod refusals;

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::cgroup::Hierarchies;
use crate::launch::plan::{FileSystem, MountSource, Propagation};

fn usual() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 1, "gid": 2, "additionalGids": [3]},
            "args": ["/bin/app", "-v"],
            "env": ["PATH=/bin"],
            "cwd": "/srv/../work",
            "capabilities": {"bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
        },
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc"},
            {"destination": "/dev", "type": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        ],
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/run/netns/x"},
                           {"type": "ipc"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/kcore"],
        },
    })
}

fn cgroup() -> Cgroup {
    let table = b"31 27 0:27 / /cg/memory rw - cgroup cgroup rw,memory\n35 31 0:31 / /cg/unified rw - cgroup2 cgroup2 rw\n";
    Cgroup::new(&Hierarchies::from_mount_table(table), "/pods", "id").unwrap()
}

fn plan_in(spec: &Value, pid: PidMode, rootfs: Rootfs) -> Result<LaunchPlan, PlanError> {
    let cgroup = cgroup();
    let context = LaunchContext {
        rootfs,
        cgroup: &cgroup,
        sharing: Sharing {
            network: NetworkMode::Pod,
            ipc: IpcMode::Pod,
            pid,
        },
        exact: ExactStrings::default(),
        images: Default::default(),
        hooks: None,
    };
    LaunchPlan::from_spec(&serde_json::from_value(spec.clone()).unwrap(), &context)
}

fn plan(spec: &Value) -> Result<LaunchPlan, PlanError> {
    plan_in(spec, PidMode::Container, Rootfs::Directory("/rootfs".into()))
}

/// Sets one value in the usual spec and returns the refusal.
fn refusal(pointer: &str, value: Value) -> String {
    let mut spec = usual();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = spec.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"));
    match parent {
        Value::Array(list) => list.push(value),
        other => other[key] = value,
    }
    plan(&spec).expect_err(pointer).to_string()
}

#[test]
fn a_usual_spec_becomes_a_plan() {
    let plan = plan(&usual()).unwrap();
    assert_eq!(plan.process.cwd.to_string(), "/work");
    assert_eq!(
        (plan.process.uid, plan.process.gid, plan.process.groups.as_slice()),
        (1, 2, &[3][..])
    );
    assert_eq!(plan.process.umask, 0o22);
    assert_eq!(plan.process.oom_score_adj, 0);
    assert_eq!(plan.process.capabilities.bounding, 1);
    assert!(plan.root.readonly && !plan.root.shared);
    assert!(plan.cgroup.namespace);
    assert_eq!(plan.cgroup.tasks[0].to_string(), "/cg/memory/pods/id/tasks");
    assert_eq!(plan.devices.len(), 6);
    let MountSource::Fresh { kind, options } = &plan.mounts[1].source else {
        panic!()
    };
    assert_eq!(*kind, FileSystem::Dev);
    assert_eq!(options[0], ("mode".to_owned(), "755".to_owned()));
    let bytes = minicbor::to_vec(&plan).unwrap();
    assert_eq!(minicbor::decode::<LaunchPlan>(&bytes).unwrap(), plan);
}

#[test]
fn labels_go_to_the_process_and_to_what_is_mounted_afresh() {
    let mut spec = usual();
    let (process, files) = (
        "system_u:system_r:container_t:s0:c1,c2",
        "system_u:object_r:container_file_t:s0:c1,c2",
    );
    spec["process"]["selinuxLabel"] = json!(process);
    spec["process"]["apparmorProfile"] = json!("a profile");
    spec["linux"]["mountLabel"] = json!(files);
    let plan = plan(&spec).unwrap();
    assert_eq!(plan.process.selinux.unwrap().to_bytes(), process.as_bytes());
    assert_eq!(plan.process.apparmor.unwrap().to_bytes(), b"a profile");
    assert_eq!(plan.root.label.as_deref(), Some(files));
    let labelled: Vec<_> = plan
        .mounts
        .iter()
        .filter(|mount| match &mount.source {
            MountSource::Fresh { options, .. } => options.contains(&("context".into(), files.into())),
            _ => false,
        })
        .map(|mount| mount.target.to_string())
        .collect();
    assert_eq!(labelled, ["/dev"], "procfs has labels by policy");
}

#[test]
fn exact_strings_replace_those_of_the_spec() {
    let cgroup = cgroup();
    let exact = ExactStrings {
        args: Some(vec![b"\xff".to_vec()]),
        env: Some(vec![b"A=\xfe".to_vec()]),
    };
    let context = ExecContext {
        cgroup: &cgroup,
        exact,
        user: None,
    };
    let process = serde_json::from_value(usual()["process"].clone()).unwrap();
    let plan = ExecPlan::from_process(&process, &context).unwrap();
    assert_eq!(plan.process.args[0].to_bytes(), b"\xff");
    assert_eq!(plan.process.env[0].to_bytes(), b"A=\xfe");
    assert_eq!(
        format!("{:?}", context.exact),
        "ExactStrings { args: Some(1), env: Some(1) }"
    );
}

#[test]
fn writable_cgroups_need_a_namespace_of_their_own() {
    let mount =
        |options: Value| json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": options});
    let mut spec = usual();
    spec["mounts"].as_array_mut().unwrap().push(mount(json!(["rw"])));
    assert!(plan(&spec).is_ok());
    spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|namespace| namespace["type"] != "cgroup");
    assert!(
        plan(&spec)
            .unwrap_err()
            .to_string()
            .starts_with("mounts[2].options: contradicts")
    );
    spec["mounts"][2] = mount(json!(["ro"]));
    assert!(!plan(&spec).unwrap().cgroup.namespace);
}

#[test]
fn mount_options_are_understood() {
    let mut spec = usual();
    spec["mounts"].as_array_mut().unwrap().extend([
        json!({"destination": "/a", "source": "/x", "options": ["rbind", "ro", "rslave", "noatime"]}),
        json!({"destination": "/b", "type": "bind", "source": "/x", "options": ["ro", "rw", "rro"]}),
    ]);
    let plan = plan(&spec).unwrap();
    let MountSource::Bind {
        recursive,
        propagation,
        recursive_propagation,
        ..
    } = plan.mounts[2].source
    else {
        panic!()
    };
    assert!(recursive && recursive_propagation && propagation == Propagation::Slave);
    let attributes = plan.mounts[2].attributes;
    assert_eq!((attributes.set, attributes.clear), (0x01 | 0x10, 0x70));
    let MountSource::Bind {
        recursive,
        propagation,
        recursive_propagation,
        ..
    } = plan.mounts[3].source
    else {
        panic!()
    };
    assert!(!recursive && recursive_propagation && propagation == Propagation::Private);
    let attributes = plan.mounts[3].attributes;
    assert_eq!(
        (attributes.set, attributes.clear, attributes.set_recursive),
        (0, 1, 1)
    );
}

#[test]
fn overlay_paths_must_need_no_escaping() {
    let overlay = |lower: &[&str], upper: &str| {
        let rootfs = Rootfs::Overlay {
            lower: lower.iter().map(PathBuf::from).collect(),
            upper: upper.into(),
            work: "/work".into(),
        };
        plan_in(&usual(), PidMode::Container, rootfs)
    };
    assert!(overlay(&["/a", "/b"], "/upper").is_ok());
    assert_eq!(
        overlay(&[], "/upper").unwrap_err().to_string(),
        "rootfs.overlay.lower: missing"
    );
    for bad in ["/a:b", "/a,b", "/a\\b", "/a\nb", "relative"] {
        assert!(
            overlay(&[bad], "/upper")
                .unwrap_err()
                .to_string()
                .starts_with("rootfs.overlay.lower"),
            "{bad}"
        );
        assert!(
            overlay(&["/a"], bad)
                .unwrap_err()
                .to_string()
                .starts_with("rootfs.overlay.upper"),
            "{bad}"
        );
    }
    let many = vec!["/layer"; 501];
    assert!(
        overlay(&many, "/upper")
            .unwrap_err()
            .to_string()
            .contains("more than the 500")
    );
}
