//! Processes that join a container, and what binds them to who asked.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use runtime::protocol::{
    Event, ExecId, ExecStdio, Process, RefusalCode, Reply, Request, Signal, SignalScope, Target, WindowSize,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::container::{Container, await_file, exited, pod};
use crate::pod::{await_readable, await_that};

fn exec_started(reply: Reply) -> (Process, ExecStdio) {
    match reply {
        Reply::ExecStarted { process, stdio } => (process, stdio),
        other => panic!("{other:?}"),
    }
}

/// Reads a stream to its end.
fn read_all(fd: OwnedFd) -> String {
    rustix::io::ioctl_fionbio(&fd, false).unwrap();
    let mut text = Vec::new();
    // A pty's master ends with EIO.
    let _ = File::from(fd).read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

fn target(container: &Container, id: &str) -> Target {
    Target::exec(container.id.clone(), ExecId::new(id).unwrap())
}

#[test]
fn bytes_go_through_pipes_and_the_exit_to_who_asked() {
    let (pod, mut client) = pod();
    let container = Container::shell("sleep 1000");
    container.start(&mut client);
    let mut other = pod.connect();
    let request = container.exec("e1", &["sh", "-c", "cat; echo err >&2; exit 6"], |exec| {
        exec.stdin = true;
        exec.stdout = true;
        exec.stderr = true;
    });
    let (process, stdio) = exec_started(client.ask(request));
    assert_eq!(
        other
            .list()
            .exec(&container.id, &ExecId::new("e1").unwrap())
            .unwrap()
            .process,
        process
    );
    let ExecStdio::Pipes {
        stdin: Some(stdin),
        stdout: Some(stdout),
        stderr: Some(stderr),
    } = stdio
    else {
        panic!("{stdio:?}")
    };
    let mut stdin = File::from(stdin);
    stdin.write_all(b"hello").unwrap();
    drop(stdin);
    assert_eq!(read_all(stdout), "hello");
    assert_eq!(read_all(stderr), "err\n");
    let end = exited(&mut client, &target(&container, "e1"));
    assert_eq!((end.process, end.status.code), (process, 6));
    // The other client hears nothing of it: the next thing that it hears is its own listing.
    assert!(other.list().execs.is_empty());
    assert!(!other.has_heard_events());
}

#[test]
fn a_terminal_has_the_size_that_it_is_given() {
    let (_pod, mut client) = pod();
    let container = Container::shell("sleep 1000");
    container.start(&mut client);
    let request = container.exec("tty", &["sh", "-c", "read x; stty size"], |exec| exec.tty = true);
    let (_, stdio) = exec_started(client.ask(request));
    let ExecStdio::Terminal(master) = stdio else {
        panic!("{stdio:?}")
    };
    let size = WindowSize {
        rows: 33,
        columns: 77,
    };
    let resize = Request::Resize {
        target: target(&container, "tty"),
        size,
    };
    assert!(matches!(client.ask(resize), Reply::Done));
    rustix::io::write(&master, b"\n").unwrap();
    assert_eq!(exited(&mut client, &target(&container, "tty")).status.code, 0);
    assert!(read_all(master).contains("33 77"));
    let resize = Request::Resize {
        target: container.target(),
        size,
    };
    assert_eq!(client.refusal(resize), RefusalCode::NoStdio);
}

#[test]
fn an_exec_that_cannot_start_says_why() {
    let (_pod, mut client) = pod();
    let container = Container::shell("sleep 1000");
    let nope = |id: &str| container.exec(id, &["/bin/nope"], |_| {});
    container.cgroup.create(None).unwrap();
    assert_eq!(client.refusal(nope("e0")), RefusalCode::UnknownContainer);
    container.start(&mut client);
    let Reply::Failed(failure) = client.ask(nope("e1")) else {
        panic!("it started")
    };
    assert_eq!((failure.step.as_str(), failure.errno), ("exec", libc::ENOENT));
    let sleep = || container.exec("e2", &["sleep", "1000"], |_| {});
    exec_started(client.ask(sleep()));
    assert_eq!(client.refusal(sleep()), RefusalCode::ExecExists);
    let kill = Signal {
        target: target(&container, "e2"),
        signal: libc::SIGKILL,
        scope: SignalScope::Process,
    };
    assert!(matches!(client.ask(Request::Signal(kill.clone())), Reply::Done));
    assert_eq!(
        exited(&mut client, &target(&container, "e2")).status.signal,
        Some(9)
    );
    assert_eq!(client.refusal(Request::Signal(kill)), RefusalCode::UnknownExec);
}

#[test]
fn an_exec_is_hung_up_when_its_owner_goes_and_the_container_is_not() {
    let (pod, mut client) = pod();
    let container = Container::shell("sleep 1000");
    container.start(&mut client);
    let mut owner = pod.connect();
    let polite = [
        "sh",
        "-c",
        "trap 'echo hup >/tmp/hup; exit' HUP; echo >/tmp/up; while :; do sleep 0.01; done",
    ];
    let (process, _) = exec_started(owner.ask(container.exec("e1", &polite, |_| {})));
    let pidfd = pidfd_open(Pid::from_raw(process.pid).unwrap(), PidfdFlags::empty()).unwrap();
    await_file(&container.root().join("tmp/up"), |_| true);
    drop(owner);
    await_readable(pidfd.as_fd(), "the exec's end");
    await_file(&container.root().join("tmp/hup"), |text| text == "hup\n");
    assert_eq!(client.list().containers.len(), 1);
    // Asking until it is reaped: its end is seen by the supervisor and by us at the same time.
    await_that("the end of the exec", || client.list().execs.is_empty());
}

#[test]
fn who_ignores_the_hang_up_is_killed_ten_seconds_later() {
    let (pod, mut client) = pod();
    let container = Container::shell("sleep 1000");
    container.start(&mut client);
    let mut owner = pod.connect();
    let deaf = ["sh", "-c", "trap '' HUP; echo >/tmp/up; sleep 1000"];
    let (process, _) = exec_started(owner.ask(container.exec("e1", &deaf, |_| {})));
    let pidfd = pidfd_open(Pid::from_raw(process.pid).unwrap(), PidfdFlags::empty()).unwrap();
    await_file(&container.root().join("tmp/up"), |_| true);
    let gone = Instant::now();
    drop(owner);
    await_readable(pidfd.as_fd(), "the exec's end");
    let waited = gone.elapsed();
    assert!(waited >= Duration::from_secs(9), "{waited:?}");
}

#[test]
fn hundreds_of_execs_leave_one_exit_each_and_no_zombie() {
    let (pod, mut client) = pod();
    let container = Container::shell("sleep 1000");
    container.start(&mut client);
    let names: Vec<String> = (0..300).map(|number| format!("e{number}")).collect();
    for batch in names.chunks(20) {
        for name in batch {
            client.send(container.exec(name, &["true"], |_| {}));
        }
        let mut ended: Vec<Target> = Vec::new();
        while ended.len() < batch.len() {
            let Event::Exited(exited) = client.event() else {
                continue;
            };
            assert_eq!(exited.status.code, 0);
            assert!(!ended.contains(&exited.target), "{:?} ended twice", exited.target);
            ended.push(exited.target);
        }
    }
    assert!(client.list().execs.is_empty());
    await_that("the container to be its only child", || {
        children(pod.pid).len() == 1
    });
}

/// The children of a process, zombies among them.
fn children(parent: i32) -> Vec<String> {
    let parent = parent.to_string();
    let stat = |entry: std::io::Result<std::fs::DirEntry>| {
        // Who has gone meanwhile has none.
        let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        (fields.split(' ').nth(1) == Some(&parent)).then_some(stat)
    };
    std::fs::read_dir("/proc").unwrap().filter_map(stat).collect()
}
