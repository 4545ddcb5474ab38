//! Streaming with the clients that kubelet, kubectl and others are made of: client-go's, over both transports.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use test_e2e::eventually::{eventually, stretched};
use test_e2e::harness::Server;
use test_e2e::specs::Container;
use test_e2e::streaming::{Raw, Shape, go_client, run_go};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

async fn start() -> Option<(Server, PathBuf)> {
    match go_client() {
        Ok(client) => Some((Server::start().await, client)),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One exec session; `more` are the client's arguments that fit the shape.
async fn exec(
    (server, client): (&Server, &Path),
    transport: &str,
    id: &str,
    line: &str,
    shape: Shape,
    more: &[&str],
    input: Vec<u8>,
) -> Output {
    let url = server
        .client
        .exec_url(id, &["/bin/sh", "-c", line], shape)
        .await
        .expect("a URL");
    let mut arguments = vec!["exec", "-url", &url, "-transport", transport];
    arguments.extend(more);
    run_go(server, client, &arguments, input).await
}

#[tokio::test]
async fn exec_over_both_transports() {
    let Some((server, client)) = start().await else {
        return;
    };
    let image = server.busybox().await;
    let pod = server.run_pod("exec").await;
    let id = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    let with = (&server, client.as_path());
    for transport in TRANSPORTS {
        let line = "cat; echo err >&2; exit 42";
        let done = exec(
            with,
            transport,
            &id,
            line,
            Shape::ALL,
            &["-stdin"],
            b"in and out".into(),
        )
        .await;
        assert_eq!(
            (text(&done.stdout), text(&done.stderr), done.status.code()),
            ("in and out".into(), "err\n".into(), Some(42)),
            "{transport}"
        );
        let done = exec(with, transport, &id, "exit 0", Shape::OUTPUT, &[], vec![]).await;
        assert_eq!(
            (text(&done.stderr), done.status.code()),
            (String::new(), Some(0)),
            "{transport}"
        );

        let large: Vec<u8> = (0..20_000_000_u32).map(|n| (n ^ n >> 9) as u8).collect();
        let done = exec(
            with,
            transport,
            &id,
            "cat",
            Shape::ALL,
            &["-stdin"],
            large.clone(),
        )
        .await;
        assert_eq!(done.status.code(), Some(0), "{transport}: {}", text(&done.stderr));
        assert!(
            done.stdout == large,
            "{transport}: {} bytes came back",
            done.stdout.len()
        );

        let line = "until /bin/busybox stty size 2>/dev/null | grep -q '40 123'; do usleep 10000; done; /bin/busybox stty size; exit 5";
        let size = ["-tty", "-stdin", "-size", "123x40"];
        let done = exec(with, transport, &id, line, Shape::TERMINAL, &size, vec![]).await;
        assert_eq!(
            (text(&done.stdout), done.status.code()),
            ("40 123\r\n".into(), Some(5)),
            "{transport}: {}",
            text(&done.stderr)
        );
    }
    let url = server
        .client
        .exec_url(&id, &["/no/such"], Shape::OUTPUT)
        .await
        .expect("a URL");
    let done = run_go(&server, &client, &["exec", "-url", &url], vec![]).await;
    assert!(
        text(&done.stderr).contains("/no/such"),
        "the error names it: {}",
        text(&done.stderr)
    );
    server.close().await;
}

#[tokio::test]
async fn what_kubelet_hands_on_is_served_whatever_it_is_called_by() {
    let Some((server, client)) = start().await else {
        return;
    };
    let image = server.busybox().await;
    let pod = server.run_pod("kubelet").await;
    let id = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    let with = (&server, client.as_path());
    let through = ["-kubelet", "worker-3.cluster.example:10250", "-stdin"];
    for transport in TRANSPORTS {
        let done = exec(
            with,
            transport,
            &id,
            "cat; exit 4",
            Shape::ALL,
            &through,
            b"in and out".into(),
        )
        .await;
        assert_eq!(
            (text(&done.stdout), done.status.code()),
            ("in and out".into(), Some(4)),
            "{transport}: {}",
            text(&done.stderr)
        );
    }
    server.close().await;
}

/// One attach session with input.
async fn attach(with: (&Server, &Path), transport: &str, id: &str, shape: Shape, input: &[u8]) -> Output {
    let (server, client) = with;
    let url = server.client.attach_url(id, shape).await.expect("a URL");
    let mut arguments = vec!["exec", "-url", &url, "-transport", transport];
    arguments.extend(shape.stdin.then_some("-stdin"));
    arguments.extend(shape.tty.then_some("-tty"));
    run_go(server, client, &arguments, input.to_vec()).await
}

fn port(url: &str) -> u16 {
    let uri: http::Uri = url.parse().expect("the runtime's URL");
    uri.port_u16().expect("a port of the streaming server")
}

/// Waits until a client is connected to the streaming server on `port`.
async fn connected(server: &Server, port: u16) {
    let table = format!("/proc/{}/net/tcp", server.pid());
    let local = format!(":{port:04X}");
    eventually("a client is connected", || async {
        let sockets = std::fs::read_to_string(&table).expect("the daemon runs");
        // proc(5): number, local address, remote address, state; 01 is ESTABLISHED.
        let found = sockets.lines().any(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            let here = words.next().is_some_and(|address| address.ends_with(&local));
            here && words.nth(1) == Some("01")
        });
        found.then_some(())
    })
    .await;
}

#[tokio::test]
async fn attach_over_both_transports() {
    let Some((server, client)) = start().await else {
        return;
    };
    let image = server.busybox().await;
    let pod = server.run_pod("attach").await;
    for transport in TRANSPORTS {
        let mut spec = Container::new(transport, &image)
            .shell("while read line; do echo heard $line; done; echo no more; echo to err >&2");
        (spec.0.stdin, spec.0.stdin_once) = (true, true);
        let id = pod.start(&spec).await;
        let with = (&server, client.as_path());
        let port = port(&server.client.attach_url(&id, Shape::OUTPUT).await.expect("a URL"));
        let listener = attach(with, transport, &id, Shape::OUTPUT, b"");
        let feeder = async {
            // The feeder's leaving ends the input, and with it the container: the listener must be there by then.
            connected(&server, port).await;
            attach(with, transport, &id, Shape::ALL, b"one\ntwo\n").await
        };
        let (heard, fed) = tokio::join!(listener, feeder);
        for (who, done) in [("listener", heard), ("feeder", fed)] {
            let out = text(&done.stdout);
            assert!(done.status.success(), "{transport} {who}: {}", text(&done.stderr));
            if who == "feeder" {
                assert_eq!(out, "heard one\nheard two\nno more\n", "{transport}");
                assert_eq!(text(&done.stderr), "to err\n", "{transport}");
            }
        }
        assert_eq!(server.client.exited(&id).await.exit_code, 0);
    }
    server.close().await;
}

/// A client that forwards, until its stdin is closed.
struct Forwarder {
    child: Child,
    ports: Vec<u16>,
}

impl Forwarder {
    async fn start(server: &Server, client: &Path, pod: &str, transport: &str, ports: &[u16]) -> Self {
        let url = server.client.port_forward_url(pod, &[]).await.expect("a URL");
        let named: Vec<String> = ports.iter().map(|port| format!("0:{port}")).collect();
        let mut command = Command::new(client);
        command
            .args([
                "forward",
                "-url",
                &url,
                "-transport",
                transport,
                "-ports",
                &named.join(","),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = server
            .host
            .enter(move || command.spawn())
            .await
            .expect("the client starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let count = ports.len();
        let read = move || {
            lines
                .take(count)
                .map(|line| line.expect("a line").parse().expect("a port"))
        };
        let ports = tokio::task::spawn_blocking(move || read().collect())
            .await
            .expect("its ports");
        Self { child, ports }
    }

    /// Sends, closes its half, and reads what comes back.
    async fn ask(&self, server: &Server, port: usize, question: &[u8]) -> Vec<u8> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[port]));
        let mut raw = Raw::connect(&server.host, address)
            .await
            .expect("the client listens");
        let (mut from, mut to) = raw.socket.split();
        let mut answer = Vec::new();
        let send = async {
            to.write_all(question).await?;
            to.shutdown().await
        };
        // A connection that is refused in the pod is broken off, whichever half notices first.
        let _ = tokio::join!(send, from.read_to_end(&mut answer));
        answer
    }

    async fn stop(mut self) -> String {
        drop(self.child.stdin.take());
        let ended = tokio::task::spawn_blocking(move || self.child.wait_with_output()).await;
        text(&ended.expect("no panic").expect("its output").stderr)
    }
}

#[tokio::test]
async fn port_forward_over_both_transports() {
    let Some((server, client)) = start().await else {
        return;
    };
    let image = server.probe().await;
    for transport in TRANSPORTS {
        let pod = server.run_pod(&format!("forward-{transport}")).await;
        let spec = Container::new("main", &image).args(&["answer", "127.0.0.1:8080", "[::1]:8081"]);
        pod.start(&spec).await;
        pod.logged("main.log", "listening").await;
        let forwarder = Forwarder::start(&server, &client, &pod.id, transport, &[8080, 8081, 8082]).await;
        let questions: Vec<String> = (0..40).map(|number| format!("number {number}")).collect();
        let all = questions
            .iter()
            .map(|question| forwarder.ask(&server, 0, question.as_bytes()));
        for (answer, question) in futures::future::join_all(all).await.iter().zip(&questions) {
            assert_eq!(text(answer), format!("got {question}"), "{transport}");
        }
        assert_eq!(
            text(&forwarder.ask(&server, 1, b"sixth").await),
            "got sixth",
            "{transport}: IPv6"
        );
        let large = vec![7; 5_000_000];
        let answer = forwarder.ask(&server, 0, &large).await;
        assert!(
            answer[4..] == large,
            "{transport}: {} bytes came back",
            answer.len()
        );
        assert!(forwarder.ask(&server, 2, b"nobody").await.is_empty());
        let said = forwarder.stop().await;
        assert!(
            said.contains("8082"),
            "{transport}: a port that nobody serves is told: {said}"
        );
    }
    server.close().await;
}

#[tokio::test]
async fn a_forwarding_ends_with_its_pod() {
    let Some((server, client)) = start().await else {
        return;
    };
    let image = server.probe().await;
    let pod = server.run_pod("doomed").await;
    pod.start(&Container::new("main", &image).args(&["answer", "127.0.0.1:8080"]))
        .await;
    pod.logged("main.log", "listening").await;
    let forwarder = Forwarder::start(&server, &client, &pod.id, "spdy", &[8080]).await;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, forwarder.ports[0]));
    let mut open = Raw::connect(&server.host, address)
        .await
        .expect("the client listens");
    open.socket
        .write_all(b"never answered")
        .await
        .expect("it takes bytes");
    server.client.stop_pod(&pod.id).await.expect("the pod stops");
    let mut rest = Vec::new();
    // The end of the stream, or a reset: what matters is that it comes.
    let ended = open.socket.read_to_end(&mut rest);
    let _ = tokio::time::timeout(stretched(Duration::from_secs(30)), ended)
        .await
        .expect("the connection ends");
    assert!(rest.is_empty());
    let refused = server.client.port_forward_url(&pod.id, &[]).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    forwarder.stop().await;
    server.close().await;
}

#[tokio::test]
async fn a_pod_in_the_nodes_network_is_forwarded_to_the_node() {
    let Some((server, client)) = start().await else {
        return;
    };
    let image = server.probe().await;
    let pod = server
        .run(&server.pod("hostly").host_network())
        .await
        .expect("it runs");
    pod.start(&Container::new("main", &image).args(&["answer", "127.0.0.1:18080"]))
        .await;
    pod.logged("main.log", "listening").await;
    let forwarder = Forwarder::start(&server, &client, &pod.id, "websocket", &[18080]).await;
    assert_eq!(text(&forwarder.ask(&server, 0, b"node").await), "got node");
    forwarder.stop().await;
    server.close().await;
}
