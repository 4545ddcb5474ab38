//! Namespaces, devices, cgroups.

use std::fs;
use std::path::{Path, PathBuf};

use runtime::cgroup::Layout;
use runtime::launch::PidMode;
use serde_json::json;

use crate::Test;
use crate::sandbox::{Sandbox, list};

pub(crate) const TESTS: &[Test] = &[
    ("isolation::namespaces_are_its_own", namespaces_are_its_own),
    ("isolation::host_pid", host_pid),
    (
        "isolation::devices_are_the_usual_ones",
        devices_are_the_usual_ones,
    ),
    ("isolation::extra_devices", extra_devices),
    (
        "isolation::cgroups_are_shown_and_read_only",
        cgroups_are_shown_and_read_only,
    ),
    ("isolation::limits_hold_and_all_dies", limits_hold_and_all_dies),
];

fn namespaces_are_its_own() {
    let sandbox = Sandbox::new();
    let outcome =
        sandbox.sh("for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done; hostname");
    let mut lines = outcome.text().lines();
    for (name, ours) in [
        ("mnt", false),
        ("pid", false),
        ("net", true),
        ("ipc", true),
        ("uts", true),
        ("cgroup", false),
    ] {
        let theirs = lines.next().unwrap();
        let here = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_eq!(
            here.to_str().unwrap() == theirs,
            ours,
            "{name}: the pod's are this process's"
        );
    }
    assert_eq!(lines.next().unwrap(), "the-pod");
    let outcome = sandbox.sh("ip -o addr show lo; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni; echo $$");
    assert!(outcome.text().contains("127.0.0.1/8"), "{outcome:?}");
    assert!(outcome.text().ends_with("\n7\n77\n1"), "{outcome:?}");
    // Only processes of its own, and no mount of the host.
    let outcome = sandbox.sh("ls -d /proc/[0-9]*; cat /proc/self/mountinfo");
    let temp = sandbox.temp.path().to_str().unwrap();
    assert!(outcome.text().starts_with("/proc/1\n"), "{outcome:?}");
    let mounts: Vec<&str> = outcome
        .text()
        .lines()
        .filter(|line| line.contains(" - "))
        .collect();
    assert!(mounts[0].contains(" / / "), "{mounts:?}");
    assert!(
        !mounts
            .iter()
            .skip(1)
            .any(|mount| mount.contains(temp) || mount.contains("ext4")),
        "{mounts:?}"
    );
}

fn host_pid() {
    let mut sandbox = Sandbox::new();
    sandbox.sharing.pid = PidMode::Host;
    let mut container = sandbox.container(&["/bin/sh", "-c", "echo $PPID; readlink /proc/self/ns/pid"]);
    list(&mut container.spec, "/linux/namespaces").retain(|namespace| namespace["type"] != "pid");
    let ours = fs::read_link("/proc/self/ns/pid").unwrap();
    let expected = format!("{}\n{}", std::process::id(), ours.display());
    assert_eq!(sandbox.run(container).text(), expected);
}

fn devices_are_the_usual_ones() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.sh(
        "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' $d; done;
         for l in fd stdin stdout stderr core ptmx; do echo $l $(readlink $l); done; ls /dev; echo x > /dev/null;
         head -c 2 /dev/zero | dd bs=2 2>/dev/null | stat -c %F - ; echo over > /dev/full",
    );
    let expected = "\
null character special file 1:3 666
zero character special file 1:5 666
full character special file 1:7 666
random character special file 1:8 666
urandom character special file 1:9 666
tty character special file 5:0 666
fd /proc/self/fd
stdin /proc/self/fd/0
stdout /proc/self/fd/1
stderr /proc/self/fd/2
core /proc/kcore
ptmx pts/ptmx
core\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n";
    assert!(outcome.stdout.starts_with(expected), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("No space left"), "{outcome:?}");
}

fn extra_devices() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&[
        "/bin/stat",
        "-c",
        "%n %F %t:%T %a %u:%g",
        "/dev/net/tun",
        "/dev/blk",
    ]);
    container.spec["linux"]["devices"] = json!([
        {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o620, "uid": 7, "gid": 8},
        {"path": "/dev/blk", "type": "b", "major": 7, "minor": 99},
        // Hosts list these among their devices; the container has its own.
        {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2},
    ]);
    let outcome = sandbox.run(container);
    assert_eq!(
        outcome.text(),
        "/dev/net/tun character special file a:c8 620 7:8\n/dev/blk block special file 7:63 666 0:0"
    );
}

fn cgroups_are_shown_and_read_only() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&[]);
    let layout = sandbox.hierarchies.layout();
    // Where the container finds each hierarchy.
    let shown = |directory: PathBuf| match layout {
        Layout::V2 => PathBuf::from("/sys/fs/cgroup"),
        Layout::V1 | Layout::Hybrid => {
            let depth = container.cgroup.path().components().count();
            let mount = directory.ancestors().nth(depth).unwrap();
            Path::new("/sys/fs/cgroup").join(mount.file_name().unwrap())
        }
    };
    let shown: Vec<PathBuf> = container.cgroup.directories().map(shown).collect();
    let each: String = shown
        .iter()
        .map(|directory| {
            let directory = directory.display();
            format!(
                "grep -c '^1$' {directory}/cgroup.procs; mkdir {directory}/x; (echo 1 > {directory}/cgroup.procs); "
            )
        })
        .collect();
    let script = format!("{each} mkdir /sys/x /sys/fs/cgroup/x; ls /sys/fs/cgroup");
    container.spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
    let outcome = sandbox.run(container);
    let mut lines = outcome.stdout.lines();
    let counted: Vec<&str> = lines.by_ref().take(shown.len()).collect();
    assert!(counted.iter().all(|count| *count == "1"), "{outcome:?}");
    if layout != Layout::V2 {
        let listed: Vec<&str> = lines.collect();
        let mut host: Vec<_> = fs::read_dir("/sys/fs/cgroup")
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        host.sort();
        assert_eq!(listed, host, "the same hierarchies as on the host");
        for name in ["memory", "cpu", "pids"] {
            assert!(listed.contains(&name), "{name}: {listed:?}");
        }
        assert_eq!(listed.contains(&"unified"), layout == Layout::Hybrid);
    }
    assert_eq!(
        outcome.stderr.matches("Read-only file system").count(),
        2 * shown.len() + 2,
        "{outcome:?}"
    );
}

fn limits_hold_and_all_dies() {
    let sandbox = Sandbox::new();
    let container = sandbox.container(&[
        "/bin/sh",
        "-c",
        "sleep 1000 & sleep 1000 & (sleep 1000 &) ; echo ready; wait",
    ]);
    let cpu = crate::sandbox::first_cpu().to_string();
    let resources = json!({
        "memory": {"limit": 33554432, "swap": 33554432},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": cpu},
        "pids": {"limit": 9},
        "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}],
        "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
    });
    container
        .cgroup
        .create(Some(&serde_json::from_value(resources).unwrap()))
        .unwrap();
    let mut running = sandbox.start(&container).unwrap();
    assert_eq!(running.line(), "ready");
    assert_eq!(container.cgroup.pids().unwrap().len(), 4);
    let layout = sandbox.hierarchies.layout();
    let read = |hierarchy: &str, file: &str| {
        let directory = container
            .cgroup
            .directories()
            .find(|path| layout == Layout::V2 || carries(path, hierarchy))
            .unwrap();
        fs::read_to_string(directory.join(file))
            .unwrap()
            .trim()
            .to_owned()
    };
    match layout {
        Layout::V2 => {
            assert_eq!(read("memory", "memory.max"), "33554432");
            assert_eq!(read("cpu", "cpu.weight"), "59");
            assert_eq!(read("cpu", "cpu.max"), "50000 100000");
            assert_eq!(read("cpuset", "cpuset.cpus"), cpu);
            assert_eq!(read("pids", "pids.max"), "9");
            assert_eq!(read("pids", "cgroup.procs").lines().count(), 4);
        }
        Layout::V1 | Layout::Hybrid => {
            assert_eq!(read("memory", "memory.limit_in_bytes"), "33554432");
            assert_eq!(read("cpu", "cpu.shares"), "512");
            assert_eq!(read("cpu", "cpu.cfs_quota_us"), "50000");
            assert_eq!(read("cpuset", "cpuset.cpus"), cpu);
            assert_eq!(read("pids", "pids.max"), "9");
            let devices = read("devices", "devices.list");
            assert!(
                devices.contains("c 10:229 rw")
                    && devices.contains("c 1:3 rwm")
                    && !devices.contains("a *:*"),
                "{devices}"
            );
            assert_eq!(read("pids", "cgroup.procs").lines().count(), 4);
        }
    }
    if layout == Layout::Hybrid {
        assert_eq!(read("unified", "cgroup.procs").lines().count(), 4);
    }
    // Limits can be changed in both directions while it runs.
    for limit in [67108864, 16777216] {
        let resources = json!({"memory": {"limit": limit, "swap": limit}});
        container
            .cgroup
            .update(&serde_json::from_value(resources).unwrap())
            .unwrap();
    }
    assert!(
        fs::read_to_string(container.cgroup.oom_counter().unwrap())
            .unwrap()
            .contains("oom_kill 0")
    );
    container.cgroup.kill().unwrap();
    let outcome = running.finish();
    assert_eq!(outcome.signal, Some(9));
    container.cgroup.remove().unwrap();
    assert!(container.cgroup.directories().all(|path| !path.exists()));
    container.cgroup.remove().unwrap();
    container.cgroup.kill().unwrap();
}

/// Whether that is a directory of the hierarchy of that name, or of several controllers mounted together.
fn carries(directory: &Path, hierarchy: &str) -> bool {
    directory
        .components()
        .filter_map(|component| component.as_os_str().to_str())
        .any(|component| component.split(',').any(|part| part == hierarchy))
}
