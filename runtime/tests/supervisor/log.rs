//! Log files of running containers.

use runtime::protocol::{Event, RefusalCode, Reply, Request, SignalScope, WindowSize};

use crate::container::{Container, await_file, pod, records};
use crate::pod::{await_that, binary};

#[test]
fn a_log_goes_on_in_the_next_file_without_losing_a_line() {
    let (_pod, mut client) = pod();
    let container =
        Container::shell("i=0; until [ -e /go ]; do i=$((i+1)); echo line $i; done; echo lines $i");
    container.start(&mut client);
    let folder = container.root().parent().unwrap().to_owned();
    for next in 1..6 {
        let name = format!("log.{next}");
        let log = container.log(&name).into();
        let reopen = Request::ReopenLog {
            container: container.id.clone(),
            log,
        };
        assert!(matches!(client.ask(reopen), Reply::Done));
        await_file(&folder.join(&name), |text| !text.is_empty());
    }
    std::fs::write(container.root().join("go"), "").unwrap();
    container.exited(&mut client);
    let names = ["log", "log.1", "log.2", "log.3", "log.4", "log.5"];
    let logs: Vec<String> = names.iter().map(|name| container.read_log(name)).collect();
    let all: Vec<&str> = logs.iter().flat_map(|log| records(log)).collect();
    let (last, lines) = all.split_last().unwrap();
    for (number, line) in (1..).zip(lines) {
        assert_eq!(*line, format!("stdout F line {number}"));
    }
    assert_eq!(*last, format!("stdout F lines {}", lines.len()));
    let reopen = Request::ReopenLog {
        container: container.id.clone(),
        log: container.log("late").into(),
    };
    assert_eq!(client.refusal(reopen), RefusalCode::NotRunning);
}

#[test]
fn a_terminal_is_logged_as_stdout() {
    let (_pod, mut client) = pod();
    let container =
        Container::shell("until [ -e /go ]; do sleep 0.01; done; stty size; echo err >&2").with_terminal();
    container.start(&mut client);
    let size = WindowSize {
        rows: 11,
        columns: 22,
    };
    assert!(matches!(
        client.ask(Request::Resize {
            target: container.target(),
            size
        }),
        Reply::Done
    ));
    std::fs::write(container.root().join("go"), "").unwrap();
    assert_eq!(container.exited(&mut client).status.code, 0);
    assert_eq!(
        records(&container.read_log("log")),
        ["stdout F 11 22\r", "stdout F err\r"]
    );
}

/// Starts a container with another log than its own.
fn start_logging_to(client: &mut crate::pod::Client, container: &Container, log: std::os::fd::OwnedFd) {
    let Request::StartContainer { start, mut given } = container.request() else {
        panic!()
    };
    given.log = Some(log);
    let request = Request::StartContainer { start, given };
    crate::container::started(client.ask(request));
}

#[test]
fn a_full_disk_holds_a_container_until_there_is_room_elsewhere() {
    let (_pod, mut client) = pod();
    let container = Container::shell("seq 1 200000; exit 5");
    let full = std::fs::File::options().append(true).open("/dev/full").unwrap();
    start_logging_to(&mut client, &container, full.into());
    let Event::LogFault(fault) = client.event() else {
        panic!("no fault")
    };
    assert_eq!((&fault.container, fault.errno), (&container.id, libc::ENOSPC));
    let reopen = Request::ReopenLog {
        container: container.id.clone(),
        log: container.log("log").into(),
    };
    assert!(matches!(client.ask(reopen), Reply::Done));
    // Once told, and not a line lost.
    let Event::Exited(exited) = client.event() else {
        panic!("a second fault")
    };
    assert_eq!(exited.status.code, 5);
    let log = container.read_log("log");
    let lines = records(&log);
    assert_eq!(lines.len(), 200_000);
    assert_eq!((lines[0], lines[199_999]), ("stdout F 1", "stdout F 200000"));
    assert_eq!(client.list().container(&container.id).unwrap().log_lost, 0);
}

#[test]
fn what_waits_for_room_goes_on_waiting_in_a_newer_binary() {
    let (_pod, mut client) = pod();
    // More than a widened pipe takes: else it might end, and a container that has ended gets no other log.
    let container = Container::shell("seq 1 300000; exit 5");
    let full = std::fs::File::options().append(true).open("/dev/full").unwrap();
    start_logging_to(&mut client, &container, full.into());
    assert!(matches!(client.event(), Event::LogFault(_)));
    client.renew();
    let reopen = Request::ReopenLog {
        container: container.id.clone(),
        log: container.log("log").into(),
    };
    assert!(matches!(client.ask(reopen), Reply::Done));
    assert_eq!(container.exited(&mut client).status.code, 5);
    let log = container.read_log("log");
    for (number, line) in (1..).zip(records(&log)) {
        assert_eq!(line, format!("stdout F {number}"));
    }
    assert_eq!(records(&log).len(), 300_000);
}

#[test]
fn a_sleeping_disk_holds_up_nothing_but_its_containers_output() {
    let (_pod, mut client) = pod();
    // Written to it sleeps, until somebody reads: as a file on a frozen file system.
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    let container = Container::shell("seq 1 20000; sleep 1000");
    start_logging_to(&mut client, &container, writer.into());
    let sibling = Container::shell("seq 1 1000; exit 3");
    sibling.start(&mut client);
    assert_eq!(sibling.exited(&mut client).status.code, 3);
    assert_eq!(records(&sibling.read_log("log")).len(), 1000);
    let exec = container.exec("e1", &["true"], |_| {});
    assert!(matches!(client.ask(exec), Reply::ExecStarted { .. }));
    // A newer image would have to wait for the sleeper, who may not sleep yet: until then it takes over.
    await_that("the disk to fall asleep", || {
        let binary = binary().to_fd().unwrap();
        match client.ask(Request::Reexec { binary }) {
            Reply::Done => false,
            Reply::Refused(refusal) => {
                assert_eq!(refusal.code, RefusalCode::Busy);
                true
            }
            other => panic!("{other:?}"),
        }
    });
    client.ask(container.signal(libc::SIGKILL, SignalScope::All));
    assert_eq!(container.exited(&mut client).status.signal, Some(9));
    // It wakes up, and writes what the container had written.
    let mut log = std::io::BufReader::new(reader);
    let mut first = String::new();
    std::io::BufRead::read_line(&mut log, &mut first).unwrap();
    assert_eq!(records(&first), ["stdout F 1"]);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut log, &mut rest).unwrap();
    let lines = records(&rest);
    assert!(lines.len() > 1000);
    for (number, line) in (2..).zip(&lines[..lines.len() - 1]) {
        assert_eq!(*line, format!("stdout F {number}"));
    }
}

#[test]
fn a_flood_in_one_container_does_not_silence_its_sibling() {
    let (_pod, mut client) = pod();
    let flood = Container::shell(
        "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done",
    );
    flood.start(&mut client);
    let quiet = Container::shell("for i in 1 2 3 4 5; do echo quiet $i; sleep 0.01; done");
    quiet.start(&mut client);
    assert_eq!(quiet.exited(&mut client).status.code, 0);
    assert_eq!(records(&quiet.read_log("log")).len(), 5);
    client.ask(flood.signal(libc::SIGKILL, SignalScope::All));
    flood.exited(&mut client);
    records(&flood.read_log("log"));
}
