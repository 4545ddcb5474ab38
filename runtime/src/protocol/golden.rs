//! The bytes that version 1 fixed for ever: a supervisor of an older build must read what a newer daemon sends.
//!
//! A change that breaks one of these breaks pods that run now. Add keys and kinds; change none.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use super::*;

fn container() -> ContainerId {
    ContainerId::new("c1").unwrap()
}

fn exec() -> ExecId {
    ExecId::new("e1").unwrap()
}

fn process() -> Process {
    Process {
        pid: 4711,
        start_time: 123_456,
        started_at: UnixNanos(1_763_662_200_000_000_001),
    }
}

fn status() -> ExitStatus {
    ExitStatus {
        code: 137,
        signal: Some(9),
        oom_killed: true,
        finished_at: UnixNanos(7),
    }
}

fn fd() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn bytes(frame: &Frame) -> String {
    frame
        .header()
        .iter()
        .chain(&frame.body)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What the header and the body say apart from descriptors, which have no bytes.
fn frame(hex: &str, fds: usize) -> Frame {
    let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
    let message = (0..hex.len()).step_by(2).map(byte).collect();
    Frame::parse(message, (0..fds).map(|_| fd()).collect()).unwrap()
}

fn requests() -> Vec<(Request, usize, &'static str)> {
    let mut start = StartContainer::new(container());
    start.tty = true;
    start.stdin = true;
    start.oom_file = Some("/sys/fs/cgroup/x/memory.events".into());
    start.cgroup = Some("/sys/fs/cgroup/x".into());
    start.pid_target = Some(ContainerId::new("c0").unwrap());
    let mut alone = StartContainer::new(container());
    alone.alone = true;
    let mut run = Exec::new(container(), exec());
    run.stdout = true;
    let all = Signal {
        target: Target::init(container()),
        signal: 15,
        scope: SignalScope::All,
    };
    let size = WindowSize {
        rows: 24,
        columns: 80,
    };
    vec![
        (
            Request::Hello(Hello {
                features: Features(1),
                events: true,
            }),
            0,
            "0100010005000000a2000101f5",
        ),
        (
            Request::CreatePod {
                plan: fd(),
                network: None,
            },
            1,
            "0100020005000000a0",
        ),
        (
            Request::CreatePod {
                plan: fd(),
                network: Some(fd()),
            },
            2,
            "0100020005000000a118aaf5",
        ),
        (
            Request::StartContainer {
                start,
                given: Given {
                    log: Some(fd()),
                    ..Given::new(fd())
                },
            },
            2,
            "0100030005000000a900626331\
             01f502f503f404781e2f7379732f66732f6367726f75702f782f6d656d6f72792e6576656e7473\
             05702f7379732f66732f6367726f75702f7806f507f408626330",
        ),
        (
            Request::StartContainer {
                start: alone,
                given: Given {
                    root: Some(fd()),
                    empty: Some(fd()),
                    ..Given::new(fd())
                },
            },
            3,
            "0100030005000000a90062633101f402f403f406f407f41896f51897f51898f5",
        ),
        (
            Request::Exec {
                exec: run,
                plan: fd(),
                cgroup: Some(fd()),
            },
            2,
            "0100040005000000a70062633101626531\
             02f403f404f505f406f5",
        ),
        (Request::Signal(all), 0, "0100050005000000a300a100626331010f0202"),
        (
            Request::ReopenLog {
                container: container(),
                log: fd(),
            },
            1,
            "0100060005000000a100626331",
        ),
        (Request::List, 0, "0100070005000000a0"),
        (
            Request::Forget {
                container: container(),
            },
            0,
            "0100080005000000a100626331",
        ),
        (
            Request::Resize {
                target: Target::exec(container(), exec()),
                size,
            },
            0,
            "0100090005000000a200a200626331016265310\
             1a20018180118\
             50",
        ),
        (
            Request::CloseStdin {
                container: container(),
            },
            0,
            "01000a0005000000a100626331",
        ),
        (
            Request::Attach(Attach {
                container: container(),
                stdin: true,
                stdout: true,
                stderr: false,
                bell: true,
            }),
            0,
            "01000b0005000000a5006263311846f51847f51848f41878f5",
        ),
        (Request::Reexec { binary: fd() }, 1, "01000c0005000000a0"),
        (Request::Shutdown, 0, "01000d0005000000a0"),
        (
            Request::HangUp(Target::exec(container(), exec())),
            0,
            "01003c0005000000a20062633101626531",
        ),
        (Request::Namespaces, 0, "01003d0005000000a0"),
        (Request::Stock { plan: fd() }, 1, "01003e0005000000a0"),
    ]
}

fn replies() -> Vec<(Reply, usize, &'static str)> {
    let welcome = Welcome {
        features: Features(1),
        pod: PodId::new("p1").unwrap(),
        build: "0.1.0".into(),
        process: process(),
    };
    let created = PodCreated {
        network: Some(fd()),
        ipc: None,
        uts: Some(fd()),
        init_pid: Some(9),
    };
    let pipes = ExecStdio::Pipes {
        stdin: None,
        stdout: Some(fd()),
        stderr: None,
    };
    let failure = Failure {
        step: "exec".into(),
        path: Some("/bin/nope".into()),
        errno: 2,
    };
    vec![
        (Reply::Done, 0, "0100004005000000a0"),
        (
            Reply::Welcome(welcome),
            0,
            "0100014005000000a40001016270310265302e312e3003a300191267011a0001e240021b1879c96d36c8b001",
        ),
        (
            Reply::PodCreated(created),
            2,
            "0100024005000000a400f501f402f50309",
        ),
        (
            Reply::Started(Started {
                process: process(),
                exit: Some(status()),
            }),
            0,
            "0100034005000000a200a300191267011a0001e240021b1879c96d36c8b00101a4001889010902f50307",
        ),
        (
            Reply::ExecStarted {
                process: process(),
                stdio: pipes,
            },
            1,
            "0100044005000000a500a300191267011a0001e240021b1879c96d36c8b00101f402f403f504f4",
        ),
        (
            Reply::ExecStarted {
                process: process(),
                stdio: ExecStdio::Terminal(fd()),
            },
            1,
            "0100044005000000a500a300191267011a0001e240021b1879c96d36c8b00101f502f403f404f4",
        ),
        (
            Reply::Attached(AttachStdio {
                stdin: Some(fd()),
                stdout: Some(fd()),
                stderr: None,
                bell: Some(fd()),
                terminal: true,
            }),
            3,
            "0100464005000000a51846f51847f51848f41849f51878f5",
        ),
        (Reply::Listing(fd()), 1, "0100054005000000a0"),
        (
            Reply::Failed(failure),
            0,
            "0100064005000000a300646578656301692f62696e2f6e6f70650202",
        ),
        (
            Reply::Refused(Refusal {
                code: RefusalCode::System,
                errno: Some(13),
            }),
            0,
            "0100074005000000a2000b010d",
        ),
    ]
}

fn events() -> Vec<(Event, &'static str)> {
    let exited = Exited {
        target: Target::init(container()),
        process: process(),
        status: status(),
    };
    vec![
        (
            Event::Exited(exited),
            "0100018000000000a300a10062633101a300191267011a0001e240021b1879c96d36c8b00102a4001889010902f50307",
        ),
        (
            Event::LogFault(LogFault {
                container: container(),
                errno: 28,
            }),
            "0100028000000000a20062633101181c",
        ),
    ]
}

#[test]
fn requests_keep_their_bytes() {
    for (request, fds, golden) in requests() {
        let shown = format!("{request:?}");
        let sent = request.into_frame(5);
        assert_eq!((bytes(&sent).as_str(), sent.fds.len()), (golden, fds), "{shown}");
        let read = Request::from_frame(frame(golden, fds)).unwrap();
        assert_eq!(bytes(&read.into_frame(5)), golden, "{shown}");
    }
}

#[test]
fn replies_keep_their_bytes() {
    for (reply, fds, golden) in replies() {
        let shown = format!("{reply:?}");
        let sent = reply.into_frame(5);
        assert_eq!((bytes(&sent).as_str(), sent.fds.len()), (golden, fds), "{shown}");
        let read = Reply::from_frame(frame(golden, fds)).unwrap();
        assert_eq!(bytes(&read.into_frame(5)), golden, "{shown}");
    }
}

#[test]
fn events_keep_their_bytes() {
    for (event, golden) in events() {
        let sent = event.clone().into_frame();
        assert_eq!(bytes(&sent), golden, "{event:?}");
        assert_eq!(Event::from_frame(&frame(golden, 0)).unwrap(), event);
    }
}

#[test]
fn clients_attach_to_supervisors_of_either_age() {
    let asked = frame("01000b0005000000a4006263311846f51847f51848f4", 0);
    let Request::Attach(asked) = Request::from_frame(asked).unwrap() else {
        panic!("another request");
    };
    assert!(asked.stdin && !asked.bell, "an older daemon");
    let given = frame("0100464005000000a41846f51847f51848f41849f5", 2);
    let Reply::Attached(given) = Reply::from_frame(given).unwrap() else {
        panic!("another reply");
    };
    assert!(
        given.stdin.is_some() && given.bell.is_none(),
        "an older supervisor"
    );
}

#[test]
fn a_key_of_a_later_version_is_ignored() {
    // Hello with the unknown key 9.
    let hello = Request::from_frame(frame("0100010005000000a3000101f50963646566", 0)).unwrap();
    let known = Hello {
        features: Features(1),
        events: true,
    };
    assert!(matches!(hello, Request::Hello(hello) if hello == known));
}

#[test]
fn kinds_codes_and_versions_of_later_builds_are_told_apart_from_garbage() {
    let unknown = Request::from_frame(frame("0100ff0005000000a0", 0)).unwrap_err();
    assert!(matches!(unknown, ProtocolError::UnknownKind(Kind(0xff))));
    let refused = Reply::from_frame(frame("0100074005000000a10019fffe", 0)).unwrap();
    let Reply::Refused(refusal) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(refusal.code, RefusalCode::Other(0xfffe));
    let later = Frame::parse(vec![2, 0, 1, 0, 0, 0, 0, 0, 0xa0], vec![]).unwrap_err();
    assert!(matches!(later, ProtocolError::Version(2)));
    assert!(matches!(
        Frame::parse(vec![1, 0, 1], vec![]).unwrap_err(),
        ProtocolError::Short(3)
    ));
    let body = Request::from_frame(frame("0100010005000000ff", 0)).unwrap_err();
    assert!(matches!(body, ProtocolError::Body { .. }));
}

#[test]
fn descriptors_are_counted() {
    let golden = "0100060005000000a100626331";
    for fds in [0, 2] {
        let wrong = Request::from_frame(frame(golden, fds)).unwrap_err();
        assert!(
            matches!(wrong, ProtocolError::Descriptors { want: 1, .. }),
            "{wrong}"
        );
    }
}

#[test]
fn an_id_on_the_wire_is_checked() {
    // Forget{"../"}
    let wrong = Request::from_frame(frame("0100080005000000a100632e2e2f", 0)).unwrap_err();
    assert!(matches!(wrong, ProtocolError::Body { .. }));
}

#[test]
fn a_frame_and_its_descriptors_cross_the_socket() {
    let (a, b) = Socket::pair().unwrap();
    assert!(b.try_recv_frame().unwrap().is_none());
    let body = vec![0x58; MAX_BODY];
    let fds = (0..MAX_FDS).map(|_| fd()).collect();
    a.send_frame(&Frame {
        kind: Kind(3),
        request_id: 9,
        body: body.clone(),
        fds,
    })
    .unwrap();
    let got = b.recv_frame().unwrap();
    assert_eq!((got.kind, got.request_id, got.fds.len()), (Kind(3), 9, MAX_FDS));
    assert_eq!(got.body, body);
    drop(a);
    assert_eq!(b.recv_frame().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn what_is_too_large_is_neither_sent_nor_read() {
    let (a, b) = Socket::pair().unwrap();
    let large = Frame {
        kind: Kind(1),
        request_id: 0,
        body: vec![0; MAX_BODY + 1],
        fds: vec![],
    };
    assert_eq!(
        a.send_frame(&large).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
    rustix::net::send(&a, &vec![0; MAX_BODY + 9], rustix::net::SendFlags::empty()).unwrap();
    assert_eq!(b.recv_frame().unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_listing_crosses_as_a_memfd() {
    let listing = Listing {
        pod: PodId::new("p1").unwrap(),
        created: true,
        init_pid: None,
        containers: vec![
            ContainerEntry {
                container: container(),
                state: ContainerState::Starting,
                log_lost: 0,
            },
            ContainerEntry {
                container: ContainerId::new("c2").unwrap(),
                state: ContainerState::Exited(process(), status()),
                log_lost: 3,
            },
        ],
        execs: vec![ExecEntry {
            target: Target::exec(container(), exec()),
            process: process(),
        }],
    };
    assert_eq!(Listing::read(listing.seal().unwrap()).unwrap(), listing);
    assert!(listing.container(&container()).is_some());
    assert!(listing.exec(&container(), &exec()).is_some());
    assert_eq!(
        Listing::read(fd()).unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
}

#[test]
fn a_failure_reads_as_kubelet_shows_it() {
    let failure = Failure {
        step: "exec".into(),
        path: Some("/bin/nope".into()),
        errno: 2,
    };
    assert_eq!(failure.to_string(), "exec /bin/nope: No such file or directory");
}

proptest::proptest! {
    #[test]
    fn no_message_brings_the_reader_down(bytes: Vec<u8>, kind in 0u16..20, bit in 0u16..3) {
        let kind = Kind(kind | [0, Kind::REPLY, Kind::EVENT][usize::from(bit)]);
        let frame = || Frame { kind, request_id: 1, body: bytes.clone(), fds: vec![fd()] };
        let _ = Request::from_frame(frame());
        let _ = Reply::from_frame(frame());
        let _ = Event::from_frame(&frame());
        let _ = Frame::parse(bytes.clone(), vec![]);
    }
}
