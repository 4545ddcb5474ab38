//! What a process inherits: a fresh process's view, whatever its supervisor was like.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use runtime::cgroup::Cgroup;
use rustix::thread::CpuSet;
use serde_json::json;

use crate::Test;
use crate::sandbox::{Sandbox, first_cpu};

pub(crate) const TESTS: &[Test] = &[
    (
        "inheritance::nothing_of_the_supervisor_shows",
        nothing_of_the_supervisor_shows,
    ),
    (
        "inheritance::limits_are_those_of_the_plan",
        limits_are_those_of_the_plan,
    ),
    (
        "inheritance::identity_and_capabilities",
        identity_and_capabilities,
    ),
    (
        "inheritance::other_users_have_no_capabilities",
        other_users_have_no_capabilities,
    ),
    (
        "inheritance::environment_is_exact_bytes",
        environment_is_exact_bytes,
    ),
];

/// Makes this process as odd as a supervisor could be.
fn be_odd() {
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGUSR1);
    blocked.add(Signal::SIGTERM);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None).unwrap();
    let mut first = CpuSet::new();
    first.set(first_cpu());
    rustix::thread::sched_setaffinity(None, &first).unwrap();
    rustix::process::umask(rustix::fs::Mode::from(0o077));
    rustix::process::setpriority_process(None, 5).unwrap();
    fs::write("/proc/self/oom_score_adj", "321").unwrap();
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status
        .lines()
        .find(|line| line.starts_with(&format!("{name}:")))
        .expect(name);
    line.split_once(':').unwrap().1.trim()
}

/// The CPUs of a cgroup: those of its cpuset, or of the nearest above where it has none of its own.
fn granted_cpus(cgroup: &Cgroup) -> String {
    let directories: Vec<PathBuf> = cgroup.directories().collect();
    let of_cpuset = directories
        .iter()
        .flat_map(|directory| directory.ancestors())
        .flat_map(|directory| {
            ["cpuset.effective_cpus", "cpuset.cpus.effective"].map(|file| directory.join(file))
        })
        .find_map(|file| fs::read_to_string(file).ok());
    let all = || fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    of_cpuset.unwrap_or_else(all).trim().to_owned()
}

fn nothing_of_the_supervisor_shows() {
    be_odd();
    let sandbox = Sandbox::new();
    let hold = fs::File::open("/etc").unwrap();
    rustix::io::fcntl_setfd(&hold, rustix::io::FdFlags::empty()).unwrap();
    let container = sandbox.container(&["/bin/cat", "/proc/self/status"]);
    let granted = granted_cpus(&container.cgroup);
    let status = sandbox.run(container);
    let status = status.text();
    for set in ["SigBlk", "SigIgn", "SigCgt", "ShdPnd", "SigPnd"] {
        assert_eq!(field(status, set), "0000000000000000", "{set}");
    }
    assert_eq!(field(status, "Umask"), "0022");
    assert_eq!(field(status, "Pid"), "1");
    assert_eq!(field(status, "PPid"), "0");
    assert_eq!(field(status, "NoNewPrivs"), "0");
    assert_eq!(field(status, "Seccomp"), "0");
    assert_eq!(field(status, "Groups"), "0");
    assert_eq!(field(status, "Cpus_allowed_list"), granted, "affinity");

    let view = sandbox.sh(
        "cat /proc/self/oom_score_adj; cat /proc/self/cgroup; cut=$(cat /proc/self/stat); set -- $cut; echo nice ${19};
         echo session $6 group $5; n=0; while [ $n -lt 300 ]; do [ -L /proc/$$/fd/$n ] && echo fd $n; n=$((n+1)); done; for f in 0 1 2; do readlink /proc/self/fd/$f; done; pwd; umask",
    );
    let view = view.text();
    let mut lines = view.lines();
    assert_eq!(lines.next().unwrap(), "0", "oom_score_adj");
    let cgroups: Vec<&str> = lines
        .by_ref()
        .take_while(|line| !line.starts_with("nice"))
        .collect();
    assert!(
        !cgroups.is_empty() && cgroups.iter().all(|line| line.ends_with(":/")),
        "{cgroups:?}"
    );
    assert!(view.contains("nice 0\nsession 1 group 1\n"), "{view}");
    assert!(view.contains("\nfd 0\nfd 1\nfd 2\n/dev/null\npipe:["), "{view}");
    assert!(view.ends_with("/\n0022"), "{view}");
    let null = sandbox.sh("stat -L -c '%t:%T %a' /proc/self/fd/0; readlink /proc/self/fd/0");
    assert_eq!(null.text(), "1:3 666\n/dev/null");
    let _ = hold.as_fd();
}

fn limits_are_those_of_the_plan() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&["/bin/cat", "/proc/self/limits", "/proc/self/oom_score_adj"]);
    container.spec["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        // More than anybody has: without CAP_SYS_RESOURCE it becomes what we have.
        {"type": "RLIMIT_MSGQUEUE", "soft": 1000, "hard": 18446744073709551615u64},
    ]);
    container.spec["process"]["oomScoreAdj"] = json!(777);
    let outcome = sandbox.run(container);
    let text = outcome.text();
    let limit = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..]
            .split_whitespace()
            .take(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(limit("Max open files"), ["100", "200"]);
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    assert_eq!(limit("Max msgqueue size")[0], "1000");
    assert!(text.ends_with("777"));
}

fn identity_and_capabilities() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&["/bin/cat", "/proc/self/status"]);
    container.spec["process"]["user"] =
        json!({"uid": 0, "gid": 12, "additionalGids": [34, 56, 12], "umask": 0o27});
    container.spec["process"]["noNewPrivileges"] = json!(true);
    let outcome = sandbox.run(container);
    let status = outcome.text();
    assert_eq!(field(status, "Uid"), "0\t0\t0\t0");
    assert_eq!(field(status, "Gid"), "12\t12\t12\t12");
    assert_eq!(field(status, "Groups"), "12 34 56");
    assert_eq!(field(status, "Umask"), "0027");
    assert_eq!(field(status, "NoNewPrivs"), "1");
    // CHOWN (0), KILL (5), NET_RAW (13).
    let expected = format!("{:016x}", 1 | 1 << 5 | 1 << 13);
    for set in ["CapBnd", "CapPrm", "CapEff"] {
        assert_eq!(field(status, set), expected, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(field(status, set), "0000000000000000", "{set}");
    }
}

fn other_users_have_no_capabilities() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&["/bin/cat", "/proc/self/status"]);
    container.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let outcome = sandbox.run(container);
    let status = outcome.text();
    assert_eq!(field(status, "Uid"), "1000\t1000\t1000\t1000");
    assert_eq!(field(status, "Groups"), "1000");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(status, set), "0000000000000000", "{set}");
    }
    let mut container = sandbox.container(&["/bin/cat", "/proc/self/status"]);
    container.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    container.spec["process"]["capabilities"]["ambient"] = json!(["CAP_NET_RAW"]);
    container.spec["process"]["capabilities"]["inheritable"] = json!(["CAP_NET_RAW"]);
    let outcome = sandbox.run(container);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(outcome.text(), set), format!("{:016x}", 1 << 13), "{set}");
    }
}

fn environment_is_exact_bytes() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&["ignored"]);
    container.exact.args = Some(vec![b"/bin/cat".to_vec(), b"/proc/self/environ".to_vec()]);
    container.exact.env = Some(vec![b"PATH=/bin".to_vec(), b"BINARY=\x01\xf0\xc0".to_vec()]);
    let running = sandbox.start(&container).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut (&running.stdout), &mut bytes).unwrap();
    running.finish();
    assert_eq!(bytes, b"PATH=/bin\0BINARY=\x01\xf0\xc0\0");
}
