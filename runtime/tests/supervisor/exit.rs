//! From a start to an exit, and who hears of it.

use std::os::fd::AsFd;

use runtime::exit::boot_id;
use runtime::launch::{PidMode, PodPidMode};
use runtime::protocol::{ContainerState, RefusalCode, Reply, Request, SignalScope, Started};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::json;

use crate::container::{Container, pod, pod_with, records, started};
use crate::pod::await_readable;

#[test]
fn an_exit_leaves_its_code_its_output_and_its_record() {
    let (pod, mut client) = pod();
    let container = Container::shell("echo to out; echo to err >&2; printf tail; exit 7");
    let process = container.start(&mut client);
    let exited = container.exited(&mut client);
    assert_eq!(exited.process, process);
    assert_eq!(
        (exited.status.code, exited.status.signal, exited.status.oom_killed),
        (7, None, false)
    );
    assert!(exited.status.finished_at >= process.started_at);
    let log = container.read_log("log");
    let mut lines = records(&log);
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F to err", "stdout F to out", "stdout P tail"]);
    let record = pod.exits().read(&container.id).unwrap().unwrap();
    assert_eq!((record.process, record.status), (process, exited.status));
    assert_eq!(record.boot_id, boot_id().unwrap());
    let listing = client.list();
    let entry = listing.container(&container.id).unwrap();
    assert_eq!(entry.state, ContainerState::Exited(process, exited.status));
    // Asked again it says what came of it.
    let Reply::Started(again) = client.ask(container.request()) else {
        panic!("started again")
    };
    assert_eq!(
        again,
        Started {
            process,
            exit: Some(exited.status)
        }
    );
    assert!(matches!(
        client.ask(Request::Forget {
            container: container.id.clone()
        }),
        Reply::Done
    ));
    assert!(client.list().containers.is_empty());
    assert_eq!(pod.exits().read(&container.id).unwrap(), None);
}

#[test]
fn a_step_that_fails_is_named_and_the_same_name_can_be_started_again() {
    let (pod, mut client) = pod();
    let mut container = Container::new(&["/bin/nope"]);
    let Reply::Failed(failure) = client.ask(container.request()) else {
        panic!("it started")
    };
    assert_eq!(failure.to_string(), "exec /bin/nope: No such file or directory");
    assert!(client.list().containers.is_empty());
    assert_eq!(pod.exits().read(&container.id).unwrap(), None);
    container = container.with_process("args", json!(["true"]));
    container.start(&mut client);
    assert_eq!(container.exited(&mut client).status.code, 0);
}

#[test]
fn a_start_asked_for_twice_happens_once() {
    let (pod, mut client) = pod();
    let mut other = pod.connect();
    let container = Container::shell("echo once; sleep 1000");
    let (first, second) = (client.send(container.request()), client.send(container.request()));
    let third = other.ask(container.request());
    let process = started(client.reply_to(first));
    assert_eq!(started(client.reply_to(second)), process);
    assert_eq!(started(third), process);
    container.await_log("log");
    assert!(matches!(
        client.ask(container.signal(libc::SIGKILL, SignalScope::All)),
        Reply::Done
    ));
    container.exited(&mut client);
    container.exited(&mut other);
    assert_eq!(records(&container.read_log("log")), ["stdout F once"]);
}

#[test]
fn an_exit_that_nobody_hears_is_known_to_the_next_who_asks() {
    let (pod, mut client) = pod();
    let container = Container::shell("until [ -e /go ]; do sleep 0.01; done; echo last; exit 9");
    let process = container.start(&mut client);
    drop(client);
    let pidfd = pidfd_open(Pid::from_raw(process.pid).unwrap(), PidfdFlags::empty()).unwrap();
    std::fs::write(container.root().join("go"), "").unwrap();
    await_readable(pidfd.as_fd(), "init's end");
    let mut next = pod.connect();
    let status = match next.list().container(&container.id).unwrap().state.clone() {
        ContainerState::Exited(_, status) => status,
        _ => container.exited(&mut next).status,
    };
    assert_eq!(status.code, 9);
    assert_eq!(pod.exits().read(&container.id).unwrap().unwrap().status, status);
    assert_eq!(records(&container.read_log("log")), ["stdout F last"]);
}

#[test]
fn stdin_stays_open_until_it_is_closed() {
    let (pod, mut client) = pod();
    let container = Container::shell("cat; echo end");
    started(client.ask(container.request_with(|start| start.stdin = true)));
    // The daemon goes; the container's stdin does not.
    drop(client);
    let mut client = pod.connect();
    let close = || Request::CloseStdin {
        container: container.id.clone(),
    };
    assert!(matches!(
        client.list().container(&container.id).unwrap().state,
        ContainerState::Running(_)
    ));
    assert!(matches!(client.ask(close()), Reply::Done));
    assert_eq!(container.exited(&mut client).status.code, 0);
    assert_eq!(records(&container.read_log("log")), ["stdout F end"]);
    assert_eq!(client.refusal(close()), RefusalCode::NotRunning);
}

#[test]
fn without_stdin_there_is_an_end_of_file() {
    let (_pod, mut client) = pod();
    let container = Container::new(&["cat"]);
    container.start(&mut client);
    assert_eq!(container.exited(&mut client).status.code, 0);
}

#[test]
fn signals_reach_the_process_its_group_or_all() {
    let (_pod, mut client) = pod();
    let term = Container::shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done");
    term.start(&mut client);
    crate::container::await_file(&term.root().parent().unwrap().join("log"), |log| {
        log.contains("ready")
    });
    assert!(matches!(
        client.ask(term.signal(libc::SIGTERM, SignalScope::Process)),
        Reply::Done
    ));
    assert_eq!(term.exited(&mut client).status.code, 3);
    assert_eq!(
        client.refusal(term.signal(libc::SIGTERM, SignalScope::Process)),
        RefusalCode::NotRunning
    );
    for (signal, scope) in [
        (libc::SIGKILL, SignalScope::Process),
        (libc::SIGKILL, SignalScope::All),
        (34, SignalScope::Group),
    ] {
        // A pid 1 does not die of the default of a signal; its child in the same group does.
        let victim = Container::shell("sleep 1000 & echo up; wait; exit 1");
        victim.start(&mut client);
        crate::container::await_file(&victim.root().parent().unwrap().join("log"), |log| {
            log.contains("up")
        });
        assert!(matches!(client.ask(victim.signal(signal, scope)), Reply::Done));
        let status = victim.exited(&mut client).status;
        if signal == libc::SIGKILL {
            assert_eq!(
                (status.code, status.signal, status.oom_killed),
                (137, Some(9), false)
            );
        }
    }
    let victim = Container::shell("sleep 1000");
    victim.start(&mut client);
    assert!(matches!(
        client.ask(victim.signal(4711, SignalScope::Process)),
        Reply::Refused(_)
    ));
}

#[test]
fn a_container_that_the_kernel_kills_for_its_memory_is_told_from_one_that_is_killed() {
    let (_pod, mut client) = pod();
    let greedy = "x=0123456789abcdef; while :; do x=$x$x; done";
    let container = Container::shell(greedy).with_memory(16 << 20);
    if container.cgroup.oom_counter().is_none() {
        println!("SKIPPED: the host has no memory controller");
        return;
    }
    container.start(&mut client);
    let status = container.exited(&mut client).status;
    assert_eq!(
        (status.code, status.signal, status.oom_killed),
        (137, Some(9), true)
    );
}

#[test]
fn two_mebibytes_of_environment_pass() {
    let (_pod, mut client) = pod();
    let variable = |index: usize| format!("V{index:02}={}", "x".repeat(100_000 - 4));
    let env: Vec<String> = std::iter::once("PATH=/bin".to_owned())
        .chain((0..21).map(variable))
        .collect();
    let container = Container::shell("env | wc -c")
        .with_process("env", json!(env))
        .with_process(
            "rlimits",
            json!([{ "type": "RLIMIT_STACK", "soft": 64 << 20, "hard": 64 << 20 }]),
        );
    container.start(&mut client);
    assert_eq!(container.exited(&mut client).status.code, 0);
    let log = container.read_log("log");
    let bytes: usize = records(&log)[0]
        .strip_prefix("stdout F ")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(bytes > 2 << 20, "{bytes}");
}

#[test]
fn an_exit_does_not_wait_for_what_outlives_it() {
    let (_pod, mut client) = pod_with(PodPidMode::Pod);
    // The end of a PID namespace of its own would be that of the sleeper, who holds the pipes.
    let container = Container::shell("sleep 1000 & echo started; exit 4").with_pid(PidMode::Pod);
    container.start(&mut client);
    assert_eq!(container.exited(&mut client).status.code, 4);
    assert_eq!(container.cgroup.pids().unwrap().len(), 1, "the sleeper is left");
    assert_eq!(records(&container.read_log("log")), ["stdout F started"]);
}

#[test]
fn a_supervisor_with_a_running_container_does_not_leave() {
    let (pod, mut client) = pod();
    let container = Container::shell("sleep 1000");
    container.start(&mut client);
    assert_eq!(client.refusal(Request::Shutdown), RefusalCode::Busy);
    assert_eq!(
        client.refusal(Request::Forget {
            container: container.id.clone()
        }),
        RefusalCode::Busy
    );
    client.ask(container.signal(libc::SIGKILL, SignalScope::Process));
    container.exited(&mut client);
    assert!(matches!(client.ask(Request::Shutdown), Reply::Done));
    assert_eq!(pod.wait().exit_status(), Some(0));
}
