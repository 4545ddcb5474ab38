//! A newer binary takes over while containers run.

use runtime::launch::{PidMode, PodPidMode};
use runtime::protocol::{ContainerState, ExecId, RefusalCode, Reply, Request, SignalScope, Target};

use crate::container::{
    Container, USERS, await_file, exited, pod, pod_with, pod_with_users, records, started,
};

#[test]
fn containers_execs_logs_and_exits_go_on() {
    let (pod, mut client) = pod();
    let ticking = Container::shell(
        "i=0; until [ -e /go ]; do i=$((i+1)); echo tick $i; done; printf \"ticks $i\"; exit 5",
    );
    let ended = Container::shell("exit 2");
    let reading = Container::shell("cat; exit 8");
    let process = ticking.start(&mut client);
    ended.start(&mut client);
    let before = ended.exited(&mut client);
    client.ask(reading.request_with(|start| start.stdin = true));
    let folder = ticking.root().parent().unwrap().to_owned();
    let sleeping = ticking.exec(
        "e1",
        &["sh", "-c", "until [ -e /tmp/go ]; do sleep 0.01; done; exit 3"],
        |_| {},
    );
    assert!(matches!(client.ask(sleeping), Reply::ExecStarted { .. }));
    let mut other = pod.connect();
    for _ in 0..3 {
        client.renew();
        let listing = other.list();
        let state = |container: &Container| listing.container(&container.id).unwrap().state.clone();
        assert_eq!(state(&ticking), ContainerState::Running(process));
        assert_eq!(
            state(&ended),
            ContainerState::Exited(before.process, before.status)
        );
        assert!(listing.created);
        assert_eq!(listing.execs.len(), 1);
        let length = ticking.read_log("log").len();
        await_file(&folder.join("log"), |log| log.len() > length + 10_000);
    }
    std::fs::write(ticking.root().join("tmp/go"), "").unwrap();
    let exec = Target::exec(ticking.id.clone(), ExecId::new("e1").unwrap());
    assert_eq!(exited(&mut client, &exec).status.code, 3);
    std::fs::write(ticking.root().join("go"), "").unwrap();
    assert_eq!(ticking.exited(&mut client).status.code, 5);
    let log = ticking.read_log("log");
    let lines = records(&log);
    let (last, ticks) = lines.split_last().unwrap();
    for (number, tick) in (1..).zip(ticks) {
        assert_eq!(*tick, format!("stdout F tick {number}"));
    }
    assert_eq!(*last, format!("stdout P ticks {}", ticks.len()));
    assert_eq!(pod.exits().read(&ticking.id).unwrap().unwrap().status.code, 5);
    // The stdin pipe came along, and so did the right to close it.
    assert!(matches!(
        client.ask(Request::CloseStdin {
            container: reading.id.clone()
        }),
        Reply::Done
    ));
    assert_eq!(reading.exited(&mut other).status.code, 8);
    // A new container in the namespaces that the old image made.
    let fresh = Container::shell("exit 1");
    fresh.start(&mut client);
    assert_eq!(exited(&mut client, &fresh.target()).status.code, 1);
}

#[test]
fn a_binary_that_is_none_interrupts_nothing() {
    let (_pod, mut client) = pod();
    let container = Container::shell("i=0; while :; do i=$((i+1)); echo tick $i; done");
    container.start(&mut client);
    let log = container.root().parent().unwrap().join("log");
    for _ in 0..3 {
        let reply = client.reexec(|| std::fs::File::open("/etc/hostname").unwrap().into());
        assert!(
            matches!(&reply, Reply::Refused(refusal) if refusal.code == RefusalCode::System),
            "{reply:?}"
        );
        let length = container.read_log("log").len();
        await_file(&log, |log| log.len() > length);
    }
    client.ask(container.signal(libc::SIGKILL, SignalScope::All));
    assert_eq!(container.exited(&mut client).status.signal, Some(9));
    let log = container.read_log("log");
    for (number, line) in (1..).zip(records(&log)) {
        assert!(
            line == format!("stdout F tick {number}") || line.starts_with("stdout P"),
            "{line}"
        );
    }
}

#[test]
fn the_pods_own_pid_1_stays() {
    let (_pod, mut client) = pod_with(PodPidMode::Pod);
    let init = client.list().init_pid;
    let first = Container::shell("sleep 1000").with_pid(PidMode::Pod);
    first.start(&mut client);
    client.renew();
    assert!(init.is_some() && client.list().init_pid == init);
    // Joins the namespace by the descriptor that came along: it sees the first container.
    let second =
        Container::shell("for p in /proc/[0-9]*; do echo $(cat $p/cmdline); done").with_pid(PidMode::Pod);
    second.start(&mut client);
    assert_eq!(second.exited(&mut client).status.code, 0);
    let log = second.read_log("log");
    assert!(records(&log).iter().any(|line| line.contains("sleep")), "{log}");
}

/// The pod's user namespace is a descriptor: what is executed or started after the re-exec is in it.
#[test]
fn the_pods_users_stay() {
    let look = format!("read inside outside length < /proc/self/uid_map; [ $outside = {USERS} ] && exit 7");
    for (pod_pid, pid) in [
        (PodPidMode::Container, PidMode::Container),
        (PodPidMode::Pod, PidMode::Pod),
    ] {
        let (_pod, mut client) = pod_with_users(pod_pid);
        let first = Container::shell("sleep 1000").with_users().with_pid(pid);
        first.start(&mut client);
        client.renew();
        let exec = first.exec("look", &["sh", "-c", &look], |_| {});
        assert!(matches!(client.ask(exec), Reply::ExecStarted { .. }));
        let exec = Target::exec(first.id.clone(), ExecId::new("look").unwrap());
        assert_eq!(exited(&mut client, &exec).status.code, 7, "{pid:?}");
        let second = Container::shell(&look).with_users().with_pid(pid);
        second.start(&mut client);
        assert_eq!(second.exited(&mut client).status.code, 7, "{pid:?}");
        client.ask(first.signal(libc::SIGKILL, SignalScope::All));
        assert_eq!(first.exited(&mut client).status.signal, Some(9), "{pid:?}");
    }
}

#[test]
fn a_container_joins_the_pid_namespace_of_another() {
    let (_pod, mut client) = pod();
    let first = Container::shell("sleep 1000");
    let second = Container::shell("echo $(cat /proc/1/cmdline)").with_pid(PidMode::Target);
    let request = || second.request_with(|start| start.pid_target = Some(first.id.clone()));
    assert_eq!(client.refusal(request()), RefusalCode::UnknownContainer);
    first.start(&mut client);
    started(client.ask(request()));
    assert_eq!(second.exited(&mut client).status.code, 0);
    assert!(second.read_log("log").contains("sleep"));
}
