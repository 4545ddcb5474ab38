//! Streaming sessions by the thousand: all served, and nothing left of them in the daemon or the supervisor.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use serde_json::Value;
use test_e2e::eventually::{stretched, within};
use test_e2e::harness::Server;
use test_e2e::layout::Settings;
use test_e2e::specs::Container;
use test_e2e::streaming::{Raw, Shape, parts};
use tokio::io::AsyncWriteExt;

const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
/// A port of the server's own network namespace.
const METRICS: u16 = 9477;
/// Clients that come and go at the same time.
const AT_ONCE: usize = 16;
/// How long what is left may take to go: an exec that was broken off has ten seconds.
const SETTLING: Duration = Duration::from_secs(60);

/// What a session might leave behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Footprint {
    processes: usize,
    tasks: usize,
    sessions: usize,
    /// Descriptors and threads of the daemon, then of the supervisor.
    daemon: [usize; 2],
    supervisor: [usize; 2],
}

impl Footprint {
    async fn of(server: &Server) -> Self {
        let processes = server.processes();
        let supervisor = processes.iter().find(|(_, what)| what.contains("crisp-pod"));
        let supervisor = supervisor.expect("a pod's supervisor").0;
        let metrics = metrics(server).await;
        let value = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|value| value.trim().parse().ok());
            value.unwrap_or_else(|| panic!("no {name} in\n{metrics}"))
        };
        Self {
            processes: processes.len(),
            tasks: value("crisp_tasks"),
            sessions: value("crisp_streaming_sessions"),
            daemon: entries(server.pid()),
            supervisor: entries(u32::try_from(supervisor).expect("a pid")),
        }
    }

    fn is_within(&self, other: &Self) -> bool {
        let numbers = |all: &Self| {
            let [daemon, supervisor] = [all.daemon, all.supervisor];
            [
                all.processes,
                all.tasks,
                all.sessions,
                daemon[0],
                daemon[1],
                supervisor[0],
                supervisor[1],
            ]
        };
        numbers(self)
            .iter()
            .zip(numbers(other))
            .all(|(mine, others)| *mine <= others)
    }
}

fn entries(pid: u32) -> [usize; 2] {
    ["fd", "task"].map(|kind| {
        let open = std::fs::read_dir(format!("/proc/{pid}/{kind}"));
        open.expect("the process runs").count()
    })
}

async fn metrics(server: &Server) -> String {
    let get = || -> std::io::Result<String> {
        let mut socket = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS)))?;
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    server.host.enter(get).await.expect("metrics")
}

/// A server with a container that sleeps, and its footprint once it has had sessions of each kind: what exists by then
/// may stay, such as a pool's threads and a poll's descriptors.
async fn start() -> (Server, String, Footprint) {
    let server = Settings {
        config: format!("[metrics]\naddress = \"127.0.0.1:{METRICS}\"\n"),
        ..Settings::default()
    }
    .start()
    .await;
    let image = server.busybox().await;
    let pod = server.run_pod("scale").await;
    let mut spec = Container::new("main", &image).command(&["/bin/sleep", "100000"]);
    spec.0.stdin = true;
    let id = pod.start(&spec).await;
    let url = exec_url(&server, &id, "/bin/true").await;
    Raw::websocket(&server.host, &url, V4).await.all().await;
    drop(attach(&server, &id).await);
    let settled = |server| async move {
        let now = Footprint::of(server).await;
        (now.sessions == 0).then_some(now)
    };
    let before = within(SETTLING, "the first sessions have ended", || settled(&server)).await;
    (server, id, before)
}

async fn exec_url(server: &Server, id: &str, command: &str) -> String {
    let url = server.client.exec_url(id, &[command], Shape::ALL).await;
    url.expect("a URL")
}

async fn attach(server: &Server, id: &str) -> Raw {
    let url = server.client.attach_url(id, Shape::ALL).await;
    Raw::websocket(&server.host, &url.expect("a URL"), V4).await
}

async fn nothing_is_left(server: &Server, before: Footprint) {
    let deadline = Instant::now() + stretched(SETTLING);
    loop {
        let now = Footprint::of(server).await;
        if now.is_within(&before) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "left:\n{now:?}\nmore than before:\n{before:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_thousand_execs_at_once() {
    const SESSIONS: usize = 1000;
    let (server, id, before) = start().await;
    let open = |_| async {
        let url = exec_url(&server, &id, "/bin/cat").await;
        Raw::websocket(&server.host, &url, V5).await
    };
    let mut sessions: Vec<Raw> = stream::iter(0..SESSIONS)
        .map(open)
        .buffered(AT_ONCE)
        .collect()
        .await;
    for (number, session) in sessions.iter_mut().enumerate() {
        let text = format!("number {number}");
        session.send(STDIN, text.as_bytes()).await.unwrap();
    }
    for (number, session) in sessions.iter_mut().enumerate() {
        let wanted = format!("number {number}").into_bytes();
        assert_eq!(session.message().await, Some((STDOUT, wanted)));
    }
    let at_most = Footprint::of(&server).await;
    assert!(at_most.sessions == SESSIONS && at_most.processes >= before.processes + SESSIONS);
    for (number, mut session) in sessions.into_iter().enumerate() {
        // Half of them end well, the others break off.
        if number % 2 == 0 {
            session.send(255, &[STDIN]).await.unwrap();
            let [_, _, status] = session.all().await;
            let status: Value = serde_json::from_slice(&status).expect("a status");
            assert_eq!(status["status"], "Success", "{status}");
        }
    }
    nothing_is_left(&server, before).await;
    server.close().await;
}

#[tokio::test]
async fn ten_thousand_come_and_go() {
    const CLIENTS: usize = 10_000;
    let (server, id, before) = start().await;
    let (address, _) = parts(&exec_url(&server, &id, "/bin/true").await);
    // Clients that leave at every stage: before the request, within it, refused, in the session, in a command.
    let comes_and_goes = |number: usize| {
        let (server, id) = (&server, &id);
        async move {
            match number % 8 {
                0 => drop(Raw::connect(&server.host, address).await.unwrap()),
                1 => {
                    let mut raw = Raw::connect(&server.host, address).await.unwrap();
                    drop(raw.socket.write_all(b"GET /exec/").await);
                }
                2 => {
                    let mut raw = Raw::connect(&server.host, address).await.unwrap();
                    let headers = [("Host", "127.0.0.1")];
                    assert_eq!(raw.request("/exec/0", &headers).await.unwrap().0, 400);
                }
                3 => {
                    let url = exec_url(server, id, "/bin/cat").await;
                    drop(Raw::websocket(&server.host, &url, V4).await);
                }
                _ => drop(attach(server, id).await),
            }
        }
    };
    stream::iter(0..CLIENTS)
        .map(comes_and_goes)
        .buffer_unordered(AT_ONCE)
        .collect::<()>()
        .await;
    nothing_is_left(&server, before).await;
    server.close().await;
}
