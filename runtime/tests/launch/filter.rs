//! Seccomp filters: when they are loaded, and that nobody in the container is without.

use oci_spec::runtime::{Capabilities, LinuxSeccomp, LinuxSeccompAction, LinuxSyscall};
use runtime::launch::{PidMode, PodPidMode, Step};
use runtime::seccomp::{Filter, Machine, SocketCall, compile, runtime_default};
use serde_json::{Value, json};

use crate::Test;
use crate::sandbox::{Container, Sandbox, has_ended, usual_spec};

pub(crate) const TESTS: &[Test] = &[
    (
        "filter::is_loaded_for_every_identity",
        is_loaded_for_every_identity,
    ),
    (
        "filter::holds_in_a_shared_pid_namespace",
        holds_in_a_shared_pid_namespace,
    ),
    ("filter::holds_for_an_exec", holds_for_an_exec),
    (
        "filter::needs_to_allow_no_more_than_execve",
        needs_to_allow_no_more_than_execve,
    ),
    (
        "filter::may_deny_what_only_the_launch_calls",
        may_deny_what_only_the_launch_calls,
    ),
    (
        "filter::that_denies_the_last_clone_is_told",
        that_denies_the_last_clone_is_told,
    ),
    ("filter::may_kill_what_it_denies", may_kill_what_it_denies),
    ("filter::confines_the_pod_init", confines_the_pod_init),
    (
        "filter::an_unknown_security_module_is_an_error",
        an_unknown_security_module_is_an_error,
    ),
    (
        "filter::security_modules_are_told_in_a_user_namespace_too",
        security_modules_are_told_in_a_user_namespace_too,
    ),
];

/// Mode 2 is a filter (proc_pid_status(5)); `mkdir` is what it denies.
const LOOK: &str =
    "grep -e ^Seccomp: -e ^NoNewPrivs /proc/self/status; mkdir /tmp/x 2>/dev/null && echo made";

fn rules(default: LinuxSeccompAction, names: &[&str], action: LinuxSeccompAction) -> Filter {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect())
        .set_action(action);
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(default).set_syscalls(Some(vec![rule]));
    compile(&profile, Machine::HOST).unwrap().filter
}

/// The default profile of a container with the usual capabilities, but for making directories.
fn default_without_mkdir() -> Filter {
    let mut profile = runtime_default(&Capabilities::new(), Machine::HOST, SocketCall::default());
    let mut rules = profile.syscalls().clone().unwrap();
    let mut rule = LinuxSyscall::default();
    rule.set_names(vec!["mkdir".into(), "mkdirat".into()])
        .set_action(LinuxSeccompAction::ScmpActErrno);
    rules.insert(0, rule);
    profile.set_syscalls(Some(rules));
    compile(&profile, Machine::HOST).unwrap().filter
}

fn with(sandbox: &Sandbox, args: &[&str], filter: Filter, change: impl FnOnce(&mut Value)) -> Container {
    let mut container = sandbox.container(args);
    container.filter = Some(filter);
    change(&mut container.spec["process"]);
    container
}

fn is_loaded_for_every_identity() {
    let sandbox = Sandbox::new();
    for uid in [0, 1000] {
        for no_new_privileges in [false, true] {
            let container = with(
                &sandbox,
                &["/bin/sh", "-c", LOOK],
                default_without_mkdir(),
                |process| {
                    process["user"] = json!({"uid": uid, "gid": uid});
                    process["noNewPrivileges"] = json!(no_new_privileges);
                    if uid != 0 {
                        process["capabilities"] = json!({"bounding": ["CAP_CHOWN"]});
                    }
                },
            );
            let outcome = sandbox.run(container);
            let expected = format!("NoNewPrivs:\t{}\nSeccomp:\t2\n", u8::from(no_new_privileges));
            assert_eq!(outcome.stdout, expected, "uid {uid}: {outcome:?}");
        }
    }
}

fn holds_in_a_shared_pid_namespace() {
    let sandbox = Sandbox::with(PodPidMode::Pod, PidMode::Pod);
    for no_new_privileges in [false, true] {
        let container = with(
            &sandbox,
            &["/bin/sh", "-c", LOOK],
            default_without_mkdir(),
            |process| {
                process["noNewPrivileges"] = json!(no_new_privileges);
            },
        );
        let outcome = sandbox.run(container);
        assert!(outcome.stdout.ends_with("Seccomp:\t2\n"), "{outcome:?}");
    }
}

fn holds_for_an_exec() {
    let sandbox = Sandbox::new();
    let container = with(&sandbox, &["/bin/sleep", "1000"], default_without_mkdir(), |_| {});
    let init = sandbox.start(&container).unwrap();
    for no_new_privileges in [false, true] {
        let mut process = usual_spec(&["/bin/sh", "-c", LOOK])["process"].clone();
        process["noNewPrivileges"] = json!(no_new_privileges);
        let outcome = sandbox.exec(&container, &init, &process).unwrap().finish();
        let expected = format!("NoNewPrivs:\t{}\nSeccomp:\t2\n", u8::from(no_new_privileges));
        assert_eq!(outcome.stdout, expected, "{outcome:?}");
    }
    init.kill();
}

/// With `no_new_privs` a profile for one small program needs nothing of what the launch itself calls.
fn needs_to_allow_no_more_than_execve() {
    let sandbox = Sandbox::new();
    let (errno, allow) = (LinuxSeccompAction::ScmpActErrno, LinuxSeccompAction::ScmpActAllow);
    // What static busybox calls to say something.
    let names = [
        "execve",
        "brk",
        "arch_prctl",
        "set_tid_address",
        "set_robust_list",
        "rseq",
        "prlimit64",
        "readlink",
        "readlinkat",
        "getrandom",
        "mprotect",
        "prctl",
        "getuid",
        "fstat",
        "newfstatat",
        "write",
        "exit_group",
        "mmap",
    ];
    let filter = || rules(errno, &names, allow);
    let container = with(&sandbox, &["/bin/echo", "hello"], filter(), |process| {
        process["noNewPrivileges"] = json!(true);
    });
    assert_eq!(sandbox.run(container).stdout, "hello\n");
    let container = with(
        &sandbox,
        &["/bin/sleep", "1000"],
        rules(allow, &["mkdir"], errno),
        |_| {},
    );
    let init = sandbox.start(&container).unwrap();
    let mut strict = container;
    strict.filter = Some(filter());
    let mut process = usual_spec(&["/bin/echo", "hello"])["process"].clone();
    process["noNewPrivileges"] = json!(true);
    assert_eq!(
        sandbox.exec(&strict, &init, &process).unwrap().finish().stdout,
        "hello\n"
    );
    init.kill();
}

/// Without `no_new_privs` the filter comes before the last clone. What the launch itself says and does from there on takes
/// no call that a program would not make.
fn may_deny_what_only_the_launch_calls() {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActKillProcess};
    let names = [
        "sendmsg",
        "sendto",
        "setns",
        "unshare",
        "clone3",
        "mount",
        "pidfd_open",
        "close_range",
        "fchown",
    ];
    let filter = || rules(ScmpActAllow, &names, ScmpActKillProcess);
    for (pod_pid, pid) in [
        (PodPidMode::Container, PidMode::Container),
        (PodPidMode::Pod, PidMode::Pod),
    ] {
        let sandbox = Sandbox::with(pod_pid, pid);
        let container = with(&sandbox, &["/bin/sleep", "1000"], filter(), |_| {});
        let init = sandbox.start(&container).unwrap();
        let process = usual_spec(&["/bin/echo", "hello"])["process"].clone();
        let outcome = sandbox.exec(&container, &init, &process).unwrap().finish();
        assert_eq!((outcome.text(), pid), ("hello", pid));
        init.kill();
    }
}

/// Whoever is in a PID namespace with others has the filter from who cloned it: there is no way around that clone.
fn that_denies_the_last_clone_is_told() {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActErrno};
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&["/bin/sleep", "1000"]);
    let init = sandbox.start(&container).unwrap();
    container.filter = Some(rules(
        ScmpActAllow,
        &["clone", "clone3", "fork", "vfork"],
        ScmpActErrno,
    ));
    let mut process = usual_spec(&["/bin/echo", "hello"])["process"].clone();
    let refused = sandbox.exec(&container, &init, &process).err().unwrap();
    assert_eq!((refused.step, refused.errno), (Step::CloneInit, 1));
    assert!(
        refused.path.as_ref().unwrap().contains("no_new_privs"),
        "{refused}"
    );
    process["noNewPrivileges"] = json!(true);
    let outcome = sandbox.exec(&container, &init, &process).unwrap().finish();
    assert_eq!(outcome.text(), "hello");
    init.kill();
}

fn may_kill_what_it_denies() {
    let sandbox = Sandbox::new();
    let (allow, kill) = (
        LinuxSeccompAction::ScmpActAllow,
        LinuxSeccompAction::ScmpActKillProcess,
    );
    let container = with(
        &sandbox,
        &["/bin/mkdir", "/tmp/x"],
        rules(allow, &["mkdir", "mkdirat"], kill),
        // No core of it: a limit of one byte is too low for a file, and the kernel's word for a program that collects cores.
        |process| process["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}]),
    );
    assert_eq!(sandbox.run(container).signal, Some(libc_sigsys()));
    // A filter that denies the execve itself ends the launch with that answer.
    let container = with(
        &sandbox,
        &["/bin/true"],
        rules(allow, &["execve"], LinuxSeccompAction::ScmpActErrno),
        |_| {},
    );
    let refused = sandbox.refused(&container);
    assert_eq!((refused.step, refused.errno), (Step::Exec, 1));
}

fn libc_sigsys() -> i32 {
    rustix::process::Signal::SYS.as_raw()
}

fn confines_the_pod_init() {
    let sandbox = Sandbox::with(PodPidMode::Pod, PidMode::Pod);
    let pid = sandbox.pod.init.as_ref().unwrap().pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapBnd:\t0000000000000000"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    // It still does its duty: it lives, and reaps by ignoring.
    assert!(sandbox.sh("(true &) ; exec true").code == Some(0));
    assert!(!has_ended(&sandbox.pod.init.as_ref().unwrap().pidfd));
}

/// A profile that cannot be applied must stop the launch: never does it run unconfined.
fn an_unknown_security_module_is_an_error() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&["/bin/true"]);
    container.spec["process"]["apparmorProfile"] = json!("crisp-test-profile-that-nobody-loaded");
    assert_eq!(sandbox.refused(&container).step, Step::AppArmor);
    let mut container = sandbox.container(&["/bin/true"]);
    container.spec["process"]["selinuxLabel"] = json!("no_u:no_r:no_t:s0");
    assert_eq!(sandbox.refused(&container).step, Step::Selinux);
}

/// What a module answers to a name that it does not know must not depend on the user namespace: there the container's own
/// procfs, which has masked paths, would be no way to ask.
fn security_modules_are_told_in_a_user_namespace_too() {
    let ask = |sandbox: &Sandbox, key: &str| {
        let mut container = sandbox.container(&["/bin/true"]);
        container.spec["process"][key] = json!("no_u:no_r:no_t:s0");
        let refused = sandbox.refused(&container);
        let mut process = container.spec["process"].clone();
        let container = sandbox.container(&["/bin/sleep", "1000"]);
        let init = sandbox.start(&container).unwrap();
        process["args"] = json!(["/bin/true"]);
        let refused_exec = sandbox.exec(&container, &init, &process).err().unwrap();
        init.kill();
        assert_eq!(refused, refused_exec);
        refused
    };
    let plain = Sandbox::new();
    let expected = ["apparmorProfile", "selinuxLabel"].map(|key| ask(&plain, key));
    for (pod_pid, pid) in [
        (PodPidMode::Container, PidMode::Container),
        (PodPidMode::Pod, PidMode::Pod),
    ] {
        let users = Sandbox::with_users(pod_pid, pid);
        let answers = ["apparmorProfile", "selinuxLabel"].map(|key| ask(&users, key));
        assert_eq!(answers, expected, "{pid:?}");
    }
}
