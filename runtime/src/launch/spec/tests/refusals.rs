//! What a specification may not say.

use serde_json::json;

use super::*;

#[test]
fn unsupported_fields_are_named() {
    for (pointer, value, field) in [
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW"}),
            "linux.seccomp: contradicts the filter, which comes compiled",
        ),
        (
            "/linux/mountLabel",
            json!("x"),
            "linux.mountLabel: \"x\" is no SELinux label",
        ),
        (
            "/linux/uidMappings",
            json!([{"hostID": 1, "containerID": 0, "size": 1}]),
            "linux.gidMappings: missing",
        ),
        (
            "/process/apparmorProfile",
            json!("x\nunconfined"),
            "process.apparmorProfile: \"x\\nunconfined\" is no name of a profile",
        ),
        (
            "/process/selinuxLabel",
            json!("a:b:c d"),
            "process.selinuxLabel: \"a:b:c d\" is no SELinux label",
        ),
        (
            "/hooks",
            json!({"createContainer": [{"path": "/x"}]}),
            "bundle of the hooks: missing",
        ),
        ("/domainname", json!("x"), "domainname: not supported"),
        (
            "/linux/namespaces/-",
            // Without mappings it would be nobody's.
            json!({"type": "user"}),
            "linux.uidMappings: contradicts linux.namespaces: a user namespace and its mappings go together",
        ),
        (
            "/linux/namespaces/-",
            json!({"type": "time"}),
            "linux.namespaces[time]: not supported",
        ),
        (
            "/mounts/-",
            json!({"destination": "/x", "type": "nfs"}),
            "mounts[2].type (nfs): not supported",
        ),
        (
            "/mounts/-",
            json!({"destination": "/x", "type": "tmpfs", "options": ["tmpcopyup"]}),
            "mounts[2].options (tmpcopyup): not supported",
        ),
    ] {
        assert_eq!(refusal(pointer, value), field);
    }
}

#[test]
fn contradictions_are_named() {
    for (pointer, value, field) in [
        ("/hostname", json!("x"), "hostname: contradicts"),
        (
            "/linux/sysctl",
            json!({"net.x": "1"}),
            "linux.sysctl: contradicts",
        ),
        (
            "/linux/namespaces/-",
            json!({"type": "pid"}),
            "linux.namespaces[pid]: contradicts an earlier entry",
        ),
        (
            "/linux/cgroupsPath",
            json!("/other/id"),
            "linux.cgroupsPath: contradicts",
        ),
        (
            "/process/capabilities/permitted",
            json!(["CAP_KILL"]),
            "process.capabilities.permitted: contradicts",
        ),
        (
            "/process/capabilities/inheritable",
            json!(["CAP_CHOWN"]),
            "process.capabilities.inheritable: contradicts",
        ),
        (
            "/process/capabilities/ambient",
            json!(["CAP_KILL"]),
            "process.capabilities.ambient: contradicts",
        ),
        (
            "/process/rlimits/-",
            json!({"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}),
            "process.rlimits[RLIMIT_NOFILE]: contradicts",
        ),
        (
            "/process/rlimits/-",
            json!({"type": "RLIMIT_CPU", "soft": 3, "hard": 2}),
            "process.rlimits[RLIMIT_CPU].soft: contradicts",
        ),
    ] {
        let error = refusal(pointer, value);
        assert!(error.starts_with(field), "{error}");
    }
    let mut spec = usual();
    spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|namespace| namespace["type"] != "ipc");
    assert_eq!(
        plan(&spec).unwrap_err().to_string(),
        "linux.namespaces[ipc]: contradicts what the pod shares"
    );
    let host = plan_in(&usual(), PidMode::Host, Rootfs::Directory("/rootfs".into())).unwrap_err();
    assert_eq!(
        host.to_string(),
        "linux.namespaces[pid]: contradicts what the pod shares"
    );
}

#[test]
fn values_that_can_never_be_right_are_named() {
    for (pointer, value, field) in [
        ("/process/args", json!([]), "process.args: missing"),
        ("/process/args", json!([""]), "process.args: missing"),
        (
            "/process/args",
            json!(["a\0b"]),
            "process.args: \"(hidden)\" contains a NUL byte",
        ),
        (
            "/process/env",
            json!(["SECRET"]),
            "process.env: \"(hidden)\" is not NAME=value",
        ),
        (
            "/process/env",
            json!(["=x"]),
            "process.env: \"(hidden)\" has no name before =",
        ),
        (
            "/process/cwd",
            json!("relative"),
            "process.cwd: \"relative\" is not absolute",
        ),
        (
            "/process/user/uid",
            json!(2147483648u32),
            "process.user.uid: \"2147483648\" is 2^31 or more",
        ),
        (
            "/process/user/gid",
            json!(4294967295u32),
            "process.user.gid: \"4294967295\" is 2^31 or more",
        ),
        (
            "/process/user/umask",
            json!(0o1000),
            "process.user.umask: \"1000\" is no file mode mask",
        ),
        (
            "/process/oomScoreAdj",
            json!(1001),
            "process.oomScoreAdj: \"1001\" is not between",
        ),
        (
            "/linux/maskedPaths/-",
            json!("/"),
            "linux.maskedPaths[1]: \"/\" is the root",
        ),
        (
            "/linux/readonlyPaths",
            json!(["x"]),
            "linux.readonlyPaths[0]: \"x\" is not absolute",
        ),
        (
            "/linux/rootfsPropagation",
            json!("odd"),
            "linux.rootfsPropagation: \"odd\" is no propagation type",
        ),
        (
            "/linux/devices",
            json!([{"path": "/etc/x", "type": "c", "major": 1, "minor": 1}]),
            "linux.devices[0].path",
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "c", "major": -1, "minor": 1}]),
            "linux.devices[0].major",
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 5}]),
            "linux.devices[0]",
        ),
        (
            "/mounts/-",
            json!({"destination": "/", "type": "tmpfs"}),
            "mounts[2].destination: \"/\" is the root",
        ),
        (
            "/mounts/-",
            json!({"destination": "/a/../", "type": "tmpfs"}),
            "mounts[2].destination: \"/\" is the root",
        ),
        (
            "/mounts/-",
            json!({"destination": "/x/../proc", "type": "tmpfs"}),
            "mounts[2].destination: \"/proc\" may not",
        ),
        (
            "/mounts/-",
            json!({"destination": "/proc/self", "type": "bind", "source": "/x"}),
            "mounts[2].destination: \"/proc/self\" may not",
        ),
        (
            "/mounts/-",
            json!({"destination": "/sys", "type": "bind", "source": "/sys"}),
            "mounts[2].destination: \"/sys\" may not",
        ),
        (
            "/mounts/-",
            json!({"destination": "/x", "type": "bind"}),
            "mounts[2].source: missing",
        ),
        (
            "/mounts/-",
            json!({"destination": "/x", "type": "bind", "source": "x"}),
            "mounts[2].source: \"x\" is not",
        ),
        (
            "/mounts/-",
            json!({"destination": "/x"}),
            "mounts[2].type: missing",
        ),
        (
            "/mounts/-",
            json!({"destination": "/x", "type": "tmpfs", "options": ["lowerdir=/etc"]}),
            "mounts[2].options: \"lowerdir\" is no option of this file system",
        ),
        (
            "/mounts/-",
            json!({"destination": "/x", "type": "tmpfs", "options": ["typo"]}),
            "mounts[2].options: \"typo\" is no mount option",
        ),
    ] {
        let error = refusal(pointer, value);
        assert!(error.starts_with(field), "{error}");
    }
}
