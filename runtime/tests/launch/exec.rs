//! Processes started in a running container.

use std::fs;
use std::os::unix::fs::symlink;

use runtime::launch::Step;
use serde_json::{Value, json};

use crate::Test;
use crate::sandbox::{Container, Running, Sandbox, list};

pub(crate) const TESTS: &[Test] = &[
    ("exec::enters_everything", enters_everything),
    ("exec::has_its_own_identity", has_its_own_identity),
    ("exec::failures_are_reported", failures_are_reported),
    (
        "exec::the_working_directory_is_inside",
        the_working_directory_is_inside,
    ),
    (
        "exec::a_tracer_finds_nothing_of_the_host",
        a_tracer_finds_nothing_of_the_host,
    ),
    (
        "exec::a_replaced_null_is_not_opened",
        a_replaced_null_is_not_opened,
    ),
];

fn process(args: &[&str]) -> Value {
    crate::sandbox::usual_spec(args)["process"].clone()
}

fn sleeper(sandbox: &Sandbox) -> (Container, Running) {
    let container = sandbox.container(&["/bin/sleep", "1000"]);
    let running = sandbox.start(&container).unwrap();
    (container, running)
}

fn enters_everything() {
    let sandbox = Sandbox::new();
    let (container, init) = sleeper(&sandbox);
    let script = "for n in mnt pid net ipc uts cgroup; do \
                  [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo differs $n; done; \
                  cat /proc/self/cgroup; n=0; while [ $n -lt 300 ]; do [ -L /proc/$$/fd/$n ] && echo fd $n; n=$((n+1)); done; echo";
    let outcome = sandbox
        .exec(&container, &init, &process(&["/bin/sh", "-c", script]))
        .unwrap()
        .finish();
    let text = outcome.text();
    assert!(!text.contains("differs"), "{text}");
    let cgroups: Vec<&str> = text.lines().filter(|line| line.contains(":/")).collect();
    assert!(
        cgroups.iter().all(|line| line.ends_with(":/")) && !cgroups.is_empty(),
        "{cgroups:?}"
    );
    assert!(text.contains("\nfd 0\nfd 1\nfd 2"), "only stdio: {text}");
    let outcome = sandbox
        .exec(&container, &init, &process(&["/bin/cat", "/proc/self/status"]))
        .unwrap()
        .finish();
    let text = outcome.text();
    for (name, value) in [
        ("SigIgn", "0000000000000000"),
        ("SigBlk", "0000000000000000"),
        ("Umask", "0022"),
        ("PPid", "0"),
    ] {
        assert!(text.contains(&format!("{name}:\t{value}")), "{name}: {text}");
    }
    init.kill();
}

fn has_its_own_identity() {
    let sandbox = Sandbox::new();
    let (container, init) = sleeper(&sandbox);
    let mut user = process(&[
        "/bin/sh",
        "-c",
        "id -u; id -g; id -G; pwd; grep -e Cap -e NoNew /proc/self/status; echo to > /dev/stdout",
    ]);
    user["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [1002]});
    user["cwd"] = json!("/tmp");
    user["noNewPrivileges"] = json!(true);
    let outcome = sandbox.exec(&container, &init, &user).unwrap().finish();
    let text = outcome.text();
    assert!(text.starts_with("1000\n1001\n1001 1002\n/tmp\n"), "{text}");
    assert!(
        text.contains("CapEff:\t0000000000000000") && text.contains("NoNewPrivs:\t1"),
        "{text}"
    );
    assert!(
        text.contains(&format!("CapBnd:\t{:016x}", 1 | 1 << 5 | 1 << 13)),
        "{text}"
    );
    assert!(text.ends_with("\nto"), "a user can reopen its own pipe: {text}");
    init.kill();
}

fn failures_are_reported() {
    let sandbox = Sandbox::new();
    let (container, init) = sleeper(&sandbox);
    let failure = sandbox
        .exec(&container, &init, &process(&["nothing"]))
        .err()
        .unwrap();
    assert_eq!(failure.to_string(), "exec nothing: No such file or directory");
    let mut elsewhere = process(&["true"]);
    elsewhere["cwd"] = json!("/no/such/place");
    let failure = sandbox.exec(&container, &init, &elsewhere).err().unwrap();
    assert_eq!(
        (failure.step, failure.path.as_deref()),
        (Step::WorkingDir, Some("/no/such/place"))
    );
    init.kill();
    let (container, init) = sleeper(&sandbox);
    rustix::process::pidfd_send_signal(&init.pidfd, rustix::process::Signal::KILL).unwrap();
    let mut ready = [rustix::event::PollFd::new(
        &init.pidfd,
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut ready, None).unwrap();
    let failure = sandbox
        .exec(&container, &init, &process(&["true"]))
        .err()
        .unwrap();
    assert_eq!(
        (failure.step, failure.errno),
        (Step::Namespaces, rustix::io::Errno::SRCH.raw_os_error())
    );
    init.finish();
}

fn the_working_directory_is_inside() {
    let sandbox = Sandbox::new();
    let (container, init) = sleeper(&sandbox);
    let hold: Vec<fs::File> = (0..10)
        .map(|_| fs::File::open(sandbox.canary()).unwrap())
        .collect();
    symlink("/proc/self/fd/7", sandbox.layer().join("tmp/behind")).unwrap();
    for cwd in (0..30)
        .map(|number| format!("/proc/self/fd/{number}"))
        .chain(["/tmp/behind".into()])
    {
        let mut inside = process(&["/bin/cat", "file"]);
        inside["cwd"] = json!(cwd);
        let failure = sandbox.exec(&container, &init, &inside).err();
        assert_eq!(
            failure.map(|failure| failure.step),
            Some(Step::WorkingDir),
            "{cwd}"
        );
    }
    drop(hold);
    init.kill();
}

/// A container with SYS_PTRACE reads everything that `/proc` shows of every process that joins it, as fast as it can,
/// and never sees a path of the host.
fn a_tracer_finds_nothing_of_the_host() {
    let sandbox = Sandbox::new();
    let canary = sandbox.canary();
    let script = "exec 3>&1; echo ready; \
                  while [ ! -e /stop ]; do for p in /proc/[0-9]*; do case $p in /proc/1) continue;; esac; \
                  c=; read -r c < $p/cmdline; case $c in */sleep4711) echo the joiner; esac; \
                  for l in $p/root $p/cwd $p/fd/*; do readlink $l; done; cat $p/root/file $p/cwd/file $p/mountinfo; ls $p/root/; \
                  case $c in */sleep4711) echo met >&3; esac; done; done 2>/dev/null | grep -v -e '^pipe:' -e '^socket:' -e '^/dev/null$' > /seen; echo done";
    let mut container = sandbox.container(&["/bin/sh", "-c", script]);
    for set in ["bounding", "permitted", "effective"] {
        list(&mut container.spec, &format!("/process/capabilities/{set}")).push(json!("CAP_SYS_PTRACE"));
    }
    let runtime::launch::Rootfs::Overlay { upper, .. } = container.rootfs.clone() else {
        unreachable!()
    };
    std::env::set_current_dir(&canary).unwrap();
    let hold = fs::File::open(&canary).unwrap();
    let mut init = sandbox.start(&container).unwrap();
    assert_eq!(init.line(), "ready");
    let busy = |index: usize| {
        process(&[
            "/bin/sh",
            "-c",
            if index.is_multiple_of(10) {
                "sleep 0.01"
            } else {
                ":"
            },
        ])
    };
    for index in 0..1000 {
        sandbox.exec(&container, &init, &busy(index)).unwrap().finish();
    }
    // One stays until the tracer has looked at it.
    let joiner = process(&["/bin/sleep", "4711"]);
    let joiner = sandbox.exec(&container, &init, &joiner).unwrap();
    assert_eq!(init.line(), "met");
    joiner.kill();
    sandbox
        .exec(&container, &init, &process(&["/bin/touch", "/stop"]))
        .unwrap()
        .finish();
    let rest = init.finish().stdout;
    assert!(rest.ends_with("done\n"), "{rest}");
    std::env::set_current_dir("/").unwrap();
    drop(hold);
    let seen = fs::read_to_string(upper.join("seen")).unwrap();
    assert!(
        seen.contains("the joiner\n/\n"),
        "the tracer read the links of who joined: {seen}"
    );
    let temp = sandbox.temp.path().to_str().unwrap();
    let host: Vec<&str> = seen
        .lines()
        .filter(|line| !line.contains(" - overlay "))
        .filter(|line| {
            line.contains("untouched")
                || line.contains(temp)
                || line.contains("/home")
                || line.contains("ext4")
        })
        .collect();
    assert!(host.is_empty(), "{host:?}");
    assert!(
        !seen.contains("boot\n") && !seen.contains("usr\n"),
        "a root of the host was listed"
    );
}

fn a_replaced_null_is_not_opened() {
    let sandbox = Sandbox::new();
    let script = "rm /dev/null; ln -s /etc /dev/null; echo ready; sleep 1000";
    let container = sandbox.container(&["/bin/sh", "-c", script]);
    let mut init = sandbox.start(&container).unwrap();
    assert_eq!(init.line(), "ready");
    let failure = sandbox
        .exec(&container, &init, &process(&["true"]))
        .err()
        .unwrap();
    assert_eq!(
        (failure.step, failure.path.as_deref()),
        (Step::Stdio, Some("/dev/null"))
    );
    container.cgroup.kill().unwrap();
    init.finish();
}
