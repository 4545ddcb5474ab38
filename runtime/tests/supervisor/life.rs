//! A supervisor without containers: how it starts, whom it hears, how it ends.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use runtime::cgroup::{Cgroup, Hierarchies};
use runtime::client::{ClientError, Frame, Kind, connect};
use runtime::launch::{
    IpcMode, NetworkMode, PodNamespaceRequest, PodPidMode, PodPlan, make_network_namespace,
};
use runtime::protocol::{ContainerId, Given, RefusalCode, Reply, Request, StartContainer};
use rustix::process::Signal;

use crate::container::Container;
use crate::pod::{Pod, await_readable, await_that, binary};

fn container() -> ContainerId {
    ContainerId::new("c1").unwrap()
}

fn null() -> std::os::fd::OwnedFd {
    fs::File::open("/dev/null").unwrap().into()
}

#[test]
fn it_runs_from_sealed_memory_in_a_session_of_its_own_with_nothing_of_ours() {
    let (pod, _client) = Pod::spawn(None);
    let proc = Path::new("/proc").join(pod.pid.to_string());
    let exe = fs::read_link(proc.join("exe")).unwrap();
    assert_eq!(exe.to_str(), Some("/memfd:crisp-pod (deleted)"));
    let written = fs::File::options().write(true).open(proc.join("exe"));
    assert!(written.is_err(), "its executable can be opened for writing");
    assert_eq!(fs::read(proc.join("environ")).unwrap(), b"");
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    assert_eq!(fs::read_to_string(proc.join("comm")).unwrap(), "crisp-pod\n");
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    assert_eq!(fields[4], pod.pid.to_string(), "leads a session");
    // Not dumpable: also what is the process's own belongs to root and only root.
    let status = fs::read_to_string(proc.join("status")).unwrap();
    assert!(status.contains("\nThreads:\t1\n"));
    for fd in fs::read_dir(proc.join("fdinfo")).unwrap() {
        let path = fd.unwrap().path();
        let number: i32 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let info = fs::read_to_string(&path).unwrap();
        let flags = info
            .lines()
            .find_map(|line| line.strip_prefix("flags:\t"))
            .unwrap();
        let cloexec = u32::from_str_radix(flags, 8).unwrap() & 0o2_000_000 != 0;
        assert!(number < 3 || cloexec, "descriptor {number} would survive execve");
    }
}

#[test]
fn its_socket_is_roots_alone_and_leads_to_it() {
    let (pod, _client) = Pod::spawn(None);
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(pod.socket()).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let mut second = pod.connect();
    assert!(second.list().containers.is_empty());
    let wrong = connect(&pod.socket(), Some(pod.pid + 1)).unwrap_err();
    assert!(
        matches!(wrong, ClientError::Peer { uid: 0, pid, .. } if pid == pod.pid),
        "{wrong}"
    );
    let absent = connect(&pod.folder.path().join("no"), None).unwrap_err();
    assert!(
        matches!(&absent, ClientError::Connect { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    );
}

#[test]
fn it_takes_stock_before_the_pod_and_lets_go_of_it_with_the_first_container() {
    let (pod, mut client) = Pod::spawn(None);
    // The file systems that it holds.
    let held = || -> BTreeSet<u64> {
        let open = Path::new("/proc").join(pod.pid.to_string()).join("fd");
        let fds = fs::read_dir(open).unwrap();
        fds.filter_map(|fd| Some(fs::metadata(fd.ok()?.path()).ok()?.dev()))
            .collect()
    };
    let before = held();
    let Reply::Failed(failure) = client.ask(Request::Stock { plan: null() }) else {
        panic!("a plan that is none")
    };
    assert_eq!(failure.step, "decode plan");
    assert_eq!(held(), before);
    let usual = Container::new(&["true"]);
    for _ in 0..2 {
        let stocked = client.ask(Request::Stock { plan: usual.stock() });
        assert!(matches!(stocked, Reply::Done), "{stocked:?}");
    }
    let stock: BTreeSet<u64> = held().difference(&before).copied().collect();
    // A /dev, its terminals, and what covers masked directories: once, though asked for twice.
    assert_eq!(stock.len(), 3);
    let network = Some(network_namespace());
    let asked = Request::CreatePod {
        plan: plan(NetworkMode::Pod),
        network,
    };
    assert!(matches!(client.ask(asked), Reply::PodCreated(_)));
    let late = client.refusal(Request::Stock { plan: usual.stock() });
    assert_eq!(late, RefusalCode::Busy);
    assert!(held().is_superset(&stock));
    usual.start(&mut client);
    await_that("it holds nothing of the stock", || held().is_disjoint(&stock));
    usual.exited(&mut client);
}

#[test]
fn hello_comes_first() {
    let (pod, _client) = Pod::spawn(None);
    let rude = connect(&pod.socket(), None).unwrap().connection;
    rude.send_frame(&Request::List.into_frame(1)).unwrap();
    await_readable(rude.as_fd(), "a refusal");
    let Reply::Refused(refusal) = Reply::from_frame(rude.recv_frame().unwrap()).unwrap() else {
        panic!()
    };
    assert_eq!(refusal.code, RefusalCode::HelloFirst);
}

#[test]
fn an_unknown_request_is_unsupported_and_a_malformed_one_closes_its_connection_only() {
    let (pod, mut client) = Pod::spawn(None);
    client
        .socket
        .send_frame(&Frame {
            kind: Kind(99),
            request_id: 77,
            body: vec![0xa0],
            fds: vec![],
        })
        .unwrap();
    let Reply::Refused(refusal) = client.reply_to(77) else {
        panic!("not refused")
    };
    assert_eq!(refusal.code, RefusalCode::Unsupported);
    for garbage in [
        &b"\x01\0\x05\0\0\0\0\0\xff\xff"[..],
        b"x",
        b"\x02\0\x01\0\0\0\0\0\xa0",
    ] {
        let other = pod.connect();
        rustix::net::send(&other.socket, garbage, rustix::net::SendFlags::empty()).unwrap();
        loop {
            await_readable(other.socket.as_fd(), "the end of the connection");
            match other.socket.recv_frame() {
                Ok(frame) => assert!(frame.kind.is_reply()),
                Err(error) => break assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof),
            }
        }
    }
    assert!(client.list().containers.is_empty());
}

#[test]
fn nothing_is_started_before_the_pod_exists_and_unknown_names_are_told_apart() {
    let (_pod, mut client) = Pod::spawn(None);
    let start = StartContainer::new(container());
    let given = Given::new(null());
    let start = Request::StartContainer { start, given };
    assert_eq!(client.refusal(start), RefusalCode::NoPod);
    assert_eq!(
        client.refusal(Request::CloseStdin {
            container: container()
        }),
        RefusalCode::UnknownContainer
    );
    let reopen = Request::ReopenLog {
        container: container(),
        log: null(),
    };
    assert_eq!(client.refusal(reopen), RefusalCode::UnknownContainer);
    assert!(matches!(
        client.ask(Request::Forget {
            container: container()
        }),
        Reply::Done
    ));
}

#[test]
fn a_plan_that_is_none_is_refused_by_name() {
    let (_pod, mut client) = Pod::spawn(None);
    let asked = Request::CreatePod {
        plan: null(),
        network: None,
    };
    let Reply::Failed(failure) = client.ask(asked) else {
        panic!("no failure")
    };
    assert_eq!(failure.step, "decode plan");
    assert!(!client.list().created);
}

fn plan(network: NetworkMode) -> OwnedFd {
    let request = PodNamespaceRequest {
        hostname: None,
        network,
        ipc: IpcMode::Host,
        pid: PodPidMode::Container,
        user: None,
        sysctls: vec![],
    };
    PodPlan::new(request).unwrap().seal().unwrap()
}

fn network_namespace() -> OwnedFd {
    let (sender, made) = std::sync::mpsc::channel();
    make_network_namespace(move |made| sender.send(made).unwrap()).unwrap();
    made.recv().unwrap().unwrap()
}

#[test]
fn a_network_namespace_that_is_given_is_the_pods() {
    let (pod, mut client) = Pod::spawn(None);
    let given = network_namespace();
    let inode = |stat: rustix::fs::Stat| stat.st_ino;
    let expected = inode(rustix::fs::fstat(&given).unwrap());
    let Reply::PodCreated(created) = client.ask(Request::CreatePod {
        plan: plan(NetworkMode::Pod),
        network: Some(given),
    }) else {
        panic!("no pod")
    };
    assert_eq!(
        inode(rustix::fs::fstat(created.network.unwrap()).unwrap()),
        expected
    );
    let own = Path::new("/proc").join(pod.pid.to_string()).join("ns/net");
    assert_eq!(
        inode(rustix::fs::stat(&own).unwrap()),
        expected,
        "what it starts is born there"
    );
}

#[test]
fn one_that_is_given_to_a_pod_of_the_hosts_network_is_refused() {
    let (pod, mut client) = Pod::spawn(None);
    let Reply::Failed(failure) = client.ask(Request::CreatePod {
        plan: plan(NetworkMode::Host),
        network: Some(network_namespace()),
    }) else {
        panic!("no failure")
    };
    assert_eq!(
        (failure.step.as_str(), failure.path.as_deref()),
        ("enter namespaces", Some("net"))
    );
    assert!(pod.wait().exited(), "it is no use to anyone");
}

#[test]
fn signals_do_not_end_it_and_shutdown_does() {
    let (pod, mut client) = Pod::spawn(None);
    for signal in [
        Signal::TERM,
        Signal::INT,
        Signal::HUP,
        Signal::USR1,
        Signal::PIPE,
        Signal::ALARM,
    ] {
        pod.signal(signal);
    }
    assert!(client.list().containers.is_empty());
    assert!(matches!(client.ask(Request::Shutdown), Reply::Done));
    assert_eq!(pod.wait().exit_status(), Some(0));
}

#[test]
fn it_enters_its_cgroup_before_anything_else() {
    let hierarchies = Hierarchies::detect().unwrap();
    let above = Cgroup::service(&hierarchies, &format!("crisp-test-{}", std::process::id())).unwrap();
    let _passing = Passing(&above);
    let path = above.path().join("sup");
    let cgroup = Cgroup::service(&hierarchies, path.to_str().unwrap()).unwrap();
    cgroup.create(None).unwrap();
    let (pod, _client) = Pod::spawn(Some(&cgroup));
    assert_eq!(cgroup.pids().unwrap(), [pod.pid]);
    drop(pod);
    cgroup.remove().unwrap();
    above.remove().unwrap();
}

/// A cgroup that goes with its test, however that ends.
struct Passing<'a>(&'a Cgroup);

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.remove();
    }
}

#[test]
fn a_newer_binary_takes_over_with_its_connections() {
    let (pod, mut client) = Pod::spawn(None);
    let mut other = pod.connect();
    let reply = client.ask(Request::Reexec {
        binary: binary().to_fd().unwrap(),
    });
    assert!(matches!(reply, Reply::Done), "{reply:?}");
    assert!(client.list().containers.is_empty());
    assert!(other.list().containers.is_empty());
    pod.connect();
    // Still deaf to signals, still not ours to write to.
    pod.signal(Signal::TERM);
    assert!(client.list().containers.is_empty());
}

#[test]
fn a_binary_that_is_none_leaves_the_old_one_in_place() {
    let (pod, mut client) = Pod::spawn(None);
    let Reply::Refused(refusal) = client.ask(Request::Reexec { binary: null() }) else {
        panic!("accepted")
    };
    assert_eq!(
        (refusal.code, refusal.errno),
        (RefusalCode::System, Some(libc::EACCES))
    );
    assert!(pod.connect().list().containers.is_empty());
}
