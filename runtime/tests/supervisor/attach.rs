//! Clients that attach to running containers.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use runtime::protocol::{ATTACH_BUFFER, Attach, AttachStdio, RefusalCode, Reply, Request, SignalScope};

use crate::container::{Container, await_file, pod, records};
use crate::pod::{Client, await_readable, await_that};

const ALL: [bool; 3] = [true; 3];

fn request(container: &Container, [stdin, stdout, stderr]: [bool; 3]) -> Request {
    Request::Attach(Attach {
        container: container.id.clone(),
        stdin,
        stdout,
        stderr,
        bell: true,
    })
}

fn attach(client: &mut Client, container: &Container, streams: [bool; 3]) -> AttachStdio {
    match client.ask(request(container, streams)) {
        Reply::Attached(stdio) => stdio,
        other => panic!("{other:?}"),
    }
}

/// Reads until what came ends so.
fn read_until(fd: &OwnedFd, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        await_readable(fd.as_fd(), end);
        let mut byte = [0];
        assert_eq!(
            rustix::io::read(fd, &mut byte),
            Ok(1),
            "ended after {}",
            String::from_utf8_lossy(&text)
        );
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

fn read_to_end(fd: OwnedFd) -> Vec<u8> {
    rustix::io::ioctl_fionbio(&fd, false).unwrap();
    let mut bytes = Vec::new();
    File::from(fd).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Whether a client was told that it is cut off.
fn rings(bell: &Option<OwnedFd>) -> bool {
    let rung = rustix::io::read(bell.as_ref().unwrap(), &mut [0; 8]);
    assert!(matches!(rung, Ok(8) | Err(rustix::io::Errno::AGAIN)), "{rung:?}");
    rung.is_ok()
}

fn write(fd: &OwnedFd, text: &str) {
    assert_eq!(rustix::io::write(fd, text.as_bytes()), Ok(text.len()));
}

/// Echoes its input, with `err` on the other stream, until that ends.
const ECHO: &str = "while read x; do echo out $x; echo err $x >&2; done; echo over; exit 4";

#[test]
fn several_clients_hear_both_streams_and_share_a_stdin_that_stays() {
    let (pod, mut client) = pod();
    let container = Container::shell(ECHO);
    client.ask(container.request_with(|start| start.stdin = true));
    let first = attach(&mut client, &container, ALL);
    assert!(!first.terminal);
    write(first.stdin.as_ref().unwrap(), "a\n");
    assert_eq!(read_until(first.stdout.as_ref().unwrap(), "\n"), "out a\n");
    assert_eq!(read_until(first.stderr.as_ref().unwrap(), "\n"), "err a\n");
    // Another connection is as good: a daemon that was restarted has no other. What was said before is in the log.
    let mut restarted = pod.connect();
    let late = attach(&mut restarted, &container, ALL);
    drop(client);
    drop(first.stdin);
    write(late.stdin.as_ref().unwrap(), "b\n");
    for stdio in [&first.stdout, &late.stdout] {
        assert_eq!(read_until(stdio.as_ref().unwrap(), "\n"), "out b\n");
    }
    assert_eq!(read_until(late.stderr.as_ref().unwrap(), "\n"), "err b\n");
    let container_id = container.id.clone();
    drop(late.stdin);
    let reply = restarted.ask(Request::CloseStdin {
        container: container_id,
    });
    assert!(matches!(reply, Reply::Done) || attach(&mut restarted, &container, ALL).stdin.is_none());
    assert_eq!(container.exited(&mut restarted).status.code, 4);
    assert_eq!(read_to_end(late.stdout.unwrap()), b"over\n");
    assert!(!rings(&late.bell), "the end is an end");
    assert_eq!(
        restarted.refusal(request(&container, ALL)),
        RefusalCode::NotRunning
    );
    let log = container.read_log("log");
    assert!(records(&log).contains(&"stdout F out a") && records(&log).contains(&"stdout F over"));
}

#[test]
fn stdin_once_ends_with_its_first_client() {
    let (_pod, mut client) = pod();
    let container = Container::shell(ECHO);
    client.ask(container.request_with(|start| {
        start.stdin = true;
        start.stdin_once = true;
    }));
    let listener = attach(&mut client, &container, [false, true, false]);
    assert!(listener.stdin.is_none() && listener.stderr.is_none());
    let first = attach(&mut client, &container, ALL);
    let second = attach(&mut client, &container, ALL);
    assert!(first.stdin.is_some() && second.stdin.is_none());
    write(first.stdin.as_ref().unwrap(), "a\n");
    drop(first);
    assert_eq!(container.exited(&mut client).status.code, 4);
    for stdio in [listener, second] {
        assert_eq!(read_to_end(stdio.stdout.unwrap()), b"out a\nover\n");
    }
}

#[test]
fn a_terminal_is_written_to_by_its_master_and_heard_as_stdout() {
    let (_pod, mut client) = pod();
    let container = Container::shell("stty -echo; echo go; read x; echo got $x").with_terminal();
    client.ask(container.request_with(|start| start.stdin = true));
    let stdio = attach(&mut client, &container, ALL);
    assert!(stdio.terminal && stdio.stderr.is_none());
    container.await_log("log");
    write(stdio.stdin.as_ref().unwrap(), "hello\n");
    container.exited(&mut client);
    let heard = String::from_utf8(read_to_end(stdio.stdout.unwrap())).unwrap();
    assert!(heard.ends_with("got hello\r\n"), "{heard}");
    assert!(records(&container.read_log("log")).contains(&"stdout F got hello\r"));
}

#[test]
fn a_client_that_does_not_read_stops_neither_workload_nor_log() {
    let (_pod, mut client) = pod();
    let container = Container::shell("until [ -e /go ]; do sleep 0.01; done; seq 1 400000; exit 3");
    container.start(&mut client);
    let stuck = attach(&mut client, &container, [false, true, true]);
    std::fs::write(container.root().join("go"), "").unwrap();
    assert_eq!(container.exited(&mut client).status.code, 3);
    let log = container.read_log("log");
    assert_eq!(records(&log).len(), 400_000);
    let heard = read_to_end(stuck.stdout.unwrap());
    assert!(heard.starts_with(b"1\n2\n3\n"));
    assert!(heard.len() <= ATTACH_BUFFER, "{}", heard.len());
    assert!(rings(&stuck.bell), "the client is told why its output ended");
}

#[test]
fn a_client_is_told_of_its_cut_also_by_a_newer_binary() {
    let (_pod, mut client) = pod();
    let container = Container::shell("until [ -e /go ]; do sleep 0.01; done; seq 1 400000");
    container.start(&mut client);
    let stuck = attach(&mut client, &container, [false, true, true]);
    client.renew();
    std::fs::write(container.root().join("go"), "").unwrap();
    container.exited(&mut client);
    assert!(rings(&stuck.bell));
}

#[test]
fn clients_that_come_and_go_leave_no_descriptor() {
    let (pod, mut client) = pod();
    let container = Container::shell("sleep 1000");
    container.start(&mut client);
    let descriptors = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", pod.pid)).unwrap();
        fds.count()
    };
    let before = descriptors();
    for _ in 0..500 {
        drop(attach(&mut client, &container, ALL));
    }
    await_that("the clients' descriptors to be closed", || {
        descriptors() <= before
    });
    client.ask(container.signal(libc::SIGKILL, SignalScope::All));
    container.exited(&mut client);
}

#[test]
fn clients_stay_attached_across_a_newer_binary() {
    let (_pod, mut client) = pod();
    let container = Container::shell(ECHO);
    client.ask(container.request_with(|start| {
        start.stdin = true;
        start.stdin_once = true;
    }));
    let listener = attach(&mut client, &container, [false, true, false]);
    for _ in 0..2 {
        client.renew();
    }
    let first = attach(&mut client, &container, ALL);
    write(first.stdin.as_ref().unwrap(), "a\n");
    assert_eq!(read_until(listener.stdout.as_ref().unwrap(), "\n"), "out a\n");
    await_file(&container.root().parent().unwrap().join("log"), |log| {
        log.contains("err a")
    });
    // The right to end the input came along, too.
    drop(first);
    assert_eq!(container.exited(&mut client).status.code, 4);
}
