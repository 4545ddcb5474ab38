//! Pods that share a PID namespace.

use std::fs;
use std::os::fd::AsFd;

use runtime::launch::{PidMode, PodPidMode};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use serde_json::json;

use crate::Test;
use crate::sandbox::{Container, Sandbox, has_ended, list};

pub(crate) const TESTS: &[Test] = &[
    ("pod::containers_share_processes", containers_share_processes),
    ("pod::its_pid_1_is_harmless", its_pid_1_is_harmless),
    (
        "pod::a_tracer_finds_nothing_of_the_host",
        a_tracer_finds_nothing_of_the_host,
    ),
    ("pod::a_container_joins_another", a_container_joins_another),
    ("pod::orphans_are_reaped", orphans_are_reaped),
];

fn shared() -> Sandbox {
    Sandbox::with(PodPidMode::Pod, PidMode::Pod)
}

fn tracer(container: &mut Container) {
    for set in ["bounding", "permitted", "effective"] {
        list(&mut container.spec, &format!("/process/capabilities/{set}")).push(json!("CAP_SYS_PTRACE"));
    }
}

fn containers_share_processes() {
    let sandbox = shared();
    let first = sandbox.container(&["/bin/sleep", "4711"]);
    let running = sandbox.start(&first).unwrap();
    let outcome = sandbox.sh("cat /proc/[0-9]*/cmdline; echo; echo $$; cat /proc/self/cgroup; readlink /proc/self/exe; mount | grep -c ' /proc '");
    assert!(outcome.text().contains("/bin/sleep\u{0}4711"), "{outcome:?}");
    let own = outcome.text().lines().nth(1).unwrap();
    assert_ne!(own, "1", "pid 1 is the pod's");
    assert!(
        outcome
            .text()
            .lines()
            .filter(|line| line.contains(":/"))
            .all(|line| line.ends_with(":/"))
    );
    running.kill();
}

fn its_pid_1_is_harmless() {
    let sandbox = shared();
    let mut container = sandbox.container(&[
        "/bin/sh",
        "-c",
        "cat /proc/1/status; ls -a /proc/1/root/; ls /proc/1/root/proc/1/fd /proc/1/fd; readlink /proc/1/cwd; readlink /proc/1/root; \
         (echo x > /proc/1/root/x); kill -TERM 1; kill -KILL 1; cat /proc/1/environ",
    ]);
    tracer(&mut container);
    let outcome = sandbox.run(container);
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk"] {
        assert!(
            outcome.stdout.contains(&format!("{field}:\t0000000000000000")),
            "{field}: {outcome:?}"
        );
    }
    assert!(outcome.stdout.contains("NoNewPrivs:\t1"));
    assert!(
        outcome
            .stdout
            .contains("\n.\n..\nproc\n/proc/1/fd:\n\n/proc/1/root/proc/1/fd:\n/\n/\n"),
        "{outcome:?}"
    );
    assert!(outcome.stderr.contains("Read-only file system"), "{outcome:?}");
    let init = sandbox.pod.init.as_ref().unwrap();
    assert!(!has_ended(&init.pidfd), "a container cannot end the pod");
}

/// A container with SYS_PTRACE watches other containers start beside it.
fn a_tracer_finds_nothing_of_the_host() {
    let sandbox = shared();
    let canary = sandbox.canary();
    let script = "exec 3>&1; echo ready; \
                  while [ ! -e /stop ]; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) continue;; esac; \
                  c=; read -r c < $p/cmdline; case $c in */sleep4711) echo the other; esac; \
                  for l in $p/root $p/cwd $p/fd/*; do readlink $l; done; cat $p/root/file $p/cwd/file; ls $p/root/; \
                  case $c in */sleep4711) echo met >&3; esac; done; done 2>/dev/null | grep -v -e '^pipe:' -e '^socket:' -e '^/dev/null$' > /seen; echo done";
    let mut container = sandbox.container(&["/bin/sh", "-c", script]);
    tracer(&mut container);
    let runtime::launch::Rootfs::Overlay { upper, .. } = container.rootfs.clone() else {
        unreachable!()
    };
    std::env::set_current_dir(&canary).unwrap();
    let hold = fs::File::open(&canary).unwrap();
    let mut watching = sandbox.start(&container).unwrap();
    assert_eq!(watching.line(), "ready");
    for _ in 0..100 {
        sandbox.sh("sleep 0.005");
    }
    // One stays until the tracer has looked at it.
    let other = sandbox.container(&["/bin/sleep", "4711"]);
    let running = sandbox.start(&other).unwrap();
    assert_eq!(watching.line(), "met");
    running.kill();
    let stop = crate::sandbox::usual_spec(&["/bin/touch", "/stop"])["process"].clone();
    sandbox.exec(&container, &watching, &stop).unwrap().finish();
    let rest = watching.finish().stdout;
    assert!(rest.ends_with("done\n"), "{rest}");
    std::env::set_current_dir("/").unwrap();
    drop(hold);
    let seen = fs::read_to_string(upper.join("seen")).unwrap();
    assert!(
        seen.contains("the other\n/\n"),
        "the tracer read the links of who started: {seen}"
    );
    let temp = sandbox.temp.path().to_str().unwrap();
    assert!(!seen.contains("untouched") && !seen.contains(temp), "{seen}");
    assert!(
        !seen.contains("boot\n") && !seen.contains("usr\n"),
        "a root of the host was listed"
    );
}

fn a_container_joins_another() {
    let mut sandbox = Sandbox::new();
    let first = sandbox.container(&["/bin/sleep", "4711"]);
    let running = sandbox.start(&first).unwrap();
    sandbox.sharing.pid = PidMode::Target;
    let mut second = sandbox.container(&["/bin/sh", "-c", "cat /proc/1/cmdline; ls -d /proc/[0-9]*"]);
    second.target = Some(running.pidfd.try_clone().unwrap());
    let outcome = sandbox.run(second);
    assert!(
        outcome
            .text()
            .starts_with("/bin/sleep\u{0}4711\u{0}/proc/1\n/proc/"),
        "{outcome:?}"
    );
    let orphan = sandbox.container(&["true"]);
    assert_eq!(
        sandbox.refused(&orphan).to_string(),
        "enter namespaces target pid: No such process"
    );
    running.kill();
}

fn orphans_are_reaped() {
    let sandbox = shared();
    let container = sandbox.container(&[
        "/bin/sh",
        "-c",
        // Who started it is gone once its number is here. A zombie would stay.
        "for i in 1 2 3; do p=$(sleep 1000 >/dev/null & echo $!); kill $p; while [ -d /proc/$p ]; do :; done; done",
    ]);
    assert_eq!(sandbox.run(container).text(), "");
    // The namespace ends with its pid 1, and everything in it.
    let container = sandbox.container(&["/bin/sleep", "1000"]);
    let running = sandbox.start(&container).unwrap();
    let init = sandbox.pod.init.as_ref().unwrap();
    pidfd_send_signal(&init.pidfd, Signal::KILL).unwrap();
    assert_eq!(running.finish().signal, Some(9));
    waitid(WaitId::PidFd(init.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
}
