//! The conversation, with a bus and a systemd of the test's own at the other end of a unix socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use rustix::fs::inotify;
use serde_json::json;

use super::wire::{Head, Kind, Message, PREFIX, Reader};
use super::*;
use crate::cgroup::Hierarchies;

/// What the other side does with a call: the messages that it answers with.
type Script = Box<dyn Fn(&Message) -> Vec<Message> + Send>;

/// A listener that speaks D-Bus, one connection after another.
struct Fake {
    directory: tempfile::TempDir,
    calls: Receiver<Message>,
    _thread: JoinHandle<()>,
}

impl Fake {
    fn new(socket: &str, script: Script) -> Fake {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(socket)).unwrap();
        let (tell, calls) = channel();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                authenticate(&mut stream);
                while let Some(call) = receive(&mut stream) {
                    let answers = script(&call);
                    if tell.send(call).is_err() {
                        return;
                    }
                    for answer in answers {
                        // Who has hung up wants no answer.
                        let _ = stream.get_mut().write_all(&answer.encode());
                    }
                }
            }
        });
        Fake {
            directory,
            calls,
            _thread: thread,
        }
    }

    fn systemd(&self) -> Systemd {
        let path = |name| self.directory.path().join(name);
        Systemd {
            places: Places {
                bus: path("bus"),
                private: path("private"),
            },
        }
    }

    /// The calls so far, by their members.
    fn members(&self) -> Vec<String> {
        self.calls.try_iter().map(|call| call.head.member).collect()
    }
}

fn authenticate(stream: &mut BufReader<UnixStream>) {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let uid: String = line
        .strip_prefix("\0AUTH EXTERNAL ")
        .expect("the authentication begins with a NUL")
        .trim_end()
        .as_bytes()
        .chunks(2)
        .map(|hex| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap() as char)
        .collect();
    assert_eq!(uid, rustix::process::geteuid().as_raw().to_string());
    stream.get_mut().write_all(b"OK 1234deadbeef\r\n").unwrap();
    line.clear();
    stream.read_line(&mut line).unwrap();
    assert_eq!(line, "BEGIN\r\n");
}

fn receive(stream: &mut impl Read) -> Option<Message> {
    let mut prefix = [0; PREFIX];
    stream.read_exact(&mut prefix).ok()?;
    let mut bytes = prefix.to_vec();
    bytes.resize(Message::size(&prefix).unwrap(), 0);
    stream.read_exact(&mut bytes[PREFIX..]).unwrap();
    Message::decode(&bytes).unwrap()
}

fn answer(call: &Message, signature: &str, body: Vec<u8>) -> Message {
    let head = Head {
        reply_to: Some(call.serial),
        signature: signature.into(),
        ..Head::default()
    };
    Message {
        kind: Kind::Return,
        serial: 1,
        head,
        body,
    }
}

fn refuse(call: &Message, name: &str, text: &str) -> Message {
    let mut body = Writer::default();
    body.text(text);
    let mut message = answer(call, "s", body.finish());
    message.kind = Kind::Error;
    message.head.error = name.into();
    message
}

fn job_removed(job: &str, result: &str) -> Message {
    let mut body = Writer::default();
    body.number(7);
    body.text(job);
    body.text("crisp-1.scope");
    body.text(result);
    let head = Head {
        path: "/org/freedesktop/systemd1".into(),
        interface: bus::MANAGER.into(),
        member: "JobRemoved".into(),
        signature: "uoss".into(),
        ..Head::default()
    };
    Message {
        kind: Kind::Signal,
        serial: 2,
        head,
        body: body.finish(),
    }
}

fn job(call: &Message, path: &str) -> Message {
    let mut body = Writer::default();
    body.text(path);
    answer(call, "o", body.finish())
}

/// As systemd behaves that has nothing against us.
fn friendly(call: &Message) -> Vec<Message> {
    match call.head.member.as_str() {
        // Somebody else's job ends first, and ours before its own answer could be read.
        "StartTransientUnit" => vec![
            job_removed("/job/1", "failed"),
            job_removed("/job/2", "done"),
            job(call, "/job/2"),
        ],
        "StopUnit" => vec![job(call, "/job/3"), job_removed("/job/3", "done")],
        "Get" => {
            let mut body = Writer::default();
            body.variant(&Value::Text("252.38-1".into()));
            vec![answer(call, "v", body.finish())]
        }
        _ => vec![answer(call, "", Vec::new())],
    }
}

/// A directory that stands for the host's cgroups, and a scope in it.
fn scope() -> (tempfile::TempDir, Cgroup, Scope) {
    let temp = tempfile::tempdir().unwrap();
    let table = format!("1 1 0:1 / {} rw - cgroup2 cgroup2 rw\n", temp.path().display());
    let hierarchies: Arc<Hierarchies> = Hierarchies::from_mount_table(table.as_bytes());
    let directory = temp.path().join("a.slice/a-b.slice/crisp-1.scope");
    std::fs::create_dir_all(&directory).unwrap();
    for file in [
        "memory.max",
        "memory.swap.max",
        "cpu.weight",
        "memory.current",
        "memory.stat",
    ] {
        std::fs::write(directory.join(file), "1024").unwrap();
    }
    let cgroup = Cgroup::new(&hierarchies, "/a.slice/a-b.slice", "crisp-1.scope").unwrap();
    let scope = Scope::of(&cgroup).unwrap();
    (temp, cgroup, scope)
}

fn memory(limit: u64) -> LinuxResources {
    serde_json::from_value(json!({"memory": {"limit": limit}})).unwrap()
}

fn written(temp: &tempfile::TempDir) -> String {
    std::fs::read_to_string(temp.path().join("a.slice/a-b.slice/crisp-1.scope/memory.max")).unwrap()
}

#[test]
fn a_scope_is_started_through_the_bus_and_limited_in_both_places() {
    let fake = Fake::new("bus", Box::new(friendly));
    let (temp, cgroup, scope) = scope();
    cgroup
        .create_scope(&fake.systemd(), &scope, Some(&memory(4096)), 77)
        .unwrap();
    assert_eq!(written(&temp), "4096");
    let calls: Vec<_> = fake.calls.try_iter().collect();
    let members: Vec<_> = calls.iter().map(|call| call.head.member.as_str()).collect();
    assert_eq!(members, ["Hello", "AddMatch", "StartTransientUnit"]);
    let start = &calls[2];
    assert_eq!(start.head.signature, "ssa(sv)a(sa(sv))");
    let mut body = Reader::new(&start.body);
    assert_eq!(body.text().unwrap(), "crisp-1.scope");
    assert_eq!(body.text().unwrap(), "fail");
    let mut expected = Writer::default();
    expected.text("crisp-1.scope");
    expected.text("fail");
    expected.properties(&unit(&scope, 77, vec![("MemoryMax", Value::Number(4096))]));
    expected.array(8, |_| {});
    assert_eq!(start.body, expected.finish());
}

#[test]
fn without_a_bus_systemd_itself_is_asked() {
    let fake = Fake::new("private", Box::new(friendly));
    let (_temp, cgroup, scope) = scope();
    assert_eq!(fake.systemd().version().unwrap(), "252.38-1");
    cgroup.create_scope(&fake.systemd(), &scope, None, 77).unwrap();
    assert_eq!(fake.members(), ["Get", "StartTransientUnit"]);
}

#[test]
fn without_either_the_error_names_the_socket() {
    let systemd = Systemd {
        places: Places {
            bus: PathBuf::from("/nonexistent/bus"),
            private: PathBuf::from("/nonexistent/private"),
        },
    };
    let error = systemd.version().unwrap_err();
    assert!(error.to_string().contains("/nonexistent/private"), "{error}");
}

#[test]
fn a_refusal_is_told_in_its_own_words() {
    let fake = Fake::new(
        "bus",
        Box::new(|call| match call.head.member.as_str() {
            "StartTransientUnit" => vec![refuse(call, "org.freedesktop.DBus.Error.AccessDenied", "not you")],
            _ => friendly(call),
        }),
    );
    let (temp, cgroup, scope) = scope();
    let error = cgroup
        .create_scope(&fake.systemd(), &scope, Some(&memory(4096)), 77)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "systemd: start the container's scope: org.freedesktop.DBus.Error.AccessDenied: not you"
    );
    assert_eq!(
        written(&temp),
        "1024",
        "no limit is written where there is no scope"
    );
}

#[test]
fn a_job_that_fails_is_a_failure() {
    let fake = Fake::new(
        "bus",
        Box::new(|call| match call.head.member.as_str() {
            "StartTransientUnit" => vec![job(call, "/job/9"), job_removed("/job/9", "timeout")],
            _ => friendly(call),
        }),
    );
    let (_temp, cgroup, scope) = scope();
    let outcome = cgroup.create_scope(&fake.systemd(), &scope, None, 77);
    let Err(CgroupError::Systemd { source, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(matches!(source, BusError::Job(result) if result == "timeout"));
}

#[test]
fn what_an_unfinished_start_left_is_ended_first() {
    let exists = std::sync::atomic::AtomicBool::new(true);
    let fake = Fake::new(
        "bus",
        Box::new(move |call| match call.head.member.as_str() {
            "StartTransientUnit" if exists.swap(false, std::sync::atomic::Ordering::Relaxed) => {
                vec![refuse(call, "org.freedesktop.systemd1.UnitExists", "there")]
            }
            _ => friendly(call),
        }),
    );
    let (_temp, cgroup, scope) = scope();
    cgroup.create_scope(&fake.systemd(), &scope, None, 77).unwrap();
    let members = fake.members();
    assert_eq!(
        members[2..],
        ["StartTransientUnit", "StopUnit", "StartTransientUnit"]
    );
}

/// What the kernel says of the scope's directory.
fn populate(temp: &tempfile::TempDir, populated: bool) {
    let directory = temp.path().join("a.slice/a-b.slice/crisp-1.scope");
    let events = format!("populated {}\nfrozen 0\n", u8::from(populated));
    std::fs::write(directory.join("cgroup.events"), events).unwrap();
}

/// A systemd that removes the directory of the scope that it stops.
fn removing(temp: &tempfile::TempDir) -> Script {
    let directory = temp.path().join("a.slice/a-b.slice/crisp-1.scope");
    Box::new(move |call| {
        if call.head.member == "StopUnit" {
            std::fs::remove_dir_all(&directory).unwrap();
        }
        friendly(call)
    })
}

#[test]
fn a_scope_is_stopped_before_its_directory_is_removed() {
    let (temp, cgroup, scope) = scope();
    populate(&temp, false);
    let fake = Fake::new("bus", removing(&temp));
    cgroup.remove_scope(&fake.systemd(), &scope).unwrap();
    assert_eq!(fake.members(), ["Hello", "AddMatch", "StopUnit"]);
    assert!(!cgroup.exists());
    // Again: there is nothing to ask for.
    cgroup.remove_scope(&fake.systemd(), &scope).unwrap();
    assert_eq!(fake.members(), Vec::<String>::new());
}

#[test]
fn a_scope_that_systemd_has_forgotten_is_removed_all_the_same() {
    let (temp, cgroup, scope) = scope();
    populate(&temp, false);
    let directory = cgroup.directories().next().unwrap();
    let forgetful = Fake::new(
        "bus",
        Box::new(move |call| match call.head.member.as_str() {
            "StopUnit" => {
                // What only the kernel could remove with the directory.
                for entry in std::fs::read_dir(&directory).unwrap() {
                    std::fs::remove_file(entry.unwrap().path()).unwrap();
                }
                vec![refuse(call, "org.freedesktop.systemd1.NoSuchUnit", "not loaded")]
            }
            _ => friendly(call),
        }),
    );
    cgroup.remove_scope(&forgetful.systemd(), &scope).unwrap();
    assert!(!cgroup.exists());
}

#[test]
fn a_scope_is_not_stopped_before_its_last_process_is_gone() {
    let (temp, cgroup, scope) = scope();
    populate(&temp, true);
    let events = cgroup.directories().next().unwrap().join("cgroup.events");
    let looks = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&looks, &events, inotify::WatchFlags::CLOSE_NOWRITE).unwrap();
    let fake = Fake::new("bus", removing(&temp));
    let (systemd, calls) = (fake.systemd(), &fake.calls);
    let removal = std::thread::spawn(move || cgroup.remove_scope(&systemd, &scope));
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut looks = inotify::Reader::new(&looks, &mut buffer);
    // When it looks again it has done with the first answer.
    for _ in 0..2 {
        looks.next().unwrap();
    }
    assert!(calls.try_recv().is_err(), "it asked while somebody was there");
    populate(&temp, false);
    removal.join().unwrap().unwrap();
    assert_eq!(fake.members(), ["Hello", "AddMatch", "StopUnit"]);
}

#[test]
fn a_scope_in_which_somebody_stays_is_left_as_it_is() {
    let (temp, cgroup, scope) = scope();
    populate(&temp, true);
    let fake = Fake::new("bus", Box::new(friendly));
    let error = cgroup.remove_scope(&fake.systemd(), &scope).unwrap_err();
    assert!(matches!(error, CgroupError::Remove { .. }), "{error}");
    assert_eq!(fake.members(), Vec::<String>::new());
    assert!(cgroup.exists());
}

#[test]
fn an_update_that_systemd_refuses_changes_nothing() {
    let fake = Fake::new(
        "bus",
        Box::new(|call| match call.head.member.as_str() {
            "SetUnitProperties" => vec![refuse(call, "org.freedesktop.systemd1.NoSuchUnit", "gone")],
            _ => friendly(call),
        }),
    );
    let (temp, cgroup, scope) = scope();
    let error = cgroup
        .update_scope(&fake.systemd(), &scope, &memory(8192))
        .unwrap_err();
    assert!(error.to_string().contains("NoSuchUnit"), "{error}");
    assert_eq!(written(&temp), "1024");
    let fake = Fake::new("bus", Box::new(friendly));
    cgroup
        .update_scope(&fake.systemd(), &scope, &memory(8192))
        .unwrap();
    assert_eq!(written(&temp), "8192");
    assert_eq!(fake.members(), ["Hello", "SetUnitProperties"]);
}

#[test]
fn a_peer_that_hangs_up_or_talks_nonsense_is_an_error() {
    for nonsense in [
        &b""[..],
        b"l\x02\x00\x01\xff\xff\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00",
        b"HTTP/1.1 400 Bad Request",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let peer = std::thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            authenticate(&mut stream);
            let _ = receive(&mut stream);
            stream.get_mut().write_all(nonsense).unwrap();
        });
        let systemd = Systemd {
            places: Places {
                bus: path,
                private: "/nonexistent".into(),
            },
        };
        let outcome = systemd.version();
        assert!(
            matches!(
                outcome,
                Err(CgroupError::Systemd {
                    source: BusError::Io(_) | BusError::Malformed(_),
                    ..
                })
            ),
            "{outcome:?}"
        );
        peer.join().unwrap();
    }
}
