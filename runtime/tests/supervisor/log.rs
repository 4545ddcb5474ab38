//! Log files of running containers.

use runtime::protocol::{RefusalCode, Reply, Request, SignalScope, WindowSize};

use crate::container::{Container, await_file, pod, records};

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

#[test]
fn a_full_disk_stops_no_container() {
    let (_pod, mut client) = pod();
    let container = Container::shell("seq 1 200000; exit 5");
    let full = std::fs::File::options().append(true).open("/dev/full").unwrap();
    let Request::StartContainer {
        start, plan, cgroup, ..
    } = container.request()
    else {
        panic!()
    };
    let request = Request::StartContainer {
        start,
        plan,
        cgroup,
        log: Some(full.into()),
    };
    crate::container::started(client.ask(request));
    let mut faults = 0;
    loop {
        match client.event() {
            runtime::protocol::Event::LogFault(fault) => {
                assert_eq!((&fault.container, fault.errno), (&container.id, libc::ENOSPC));
                faults += 1;
            }
            runtime::protocol::Event::Exited(exited) => break assert_eq!(exited.status.code, 5),
        }
    }
    assert_eq!(faults, 1);
    assert!(client.list().container(&container.id).unwrap().log_lost > 1_000_000);
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
