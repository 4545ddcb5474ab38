//! Attach with raw clients: who hears what, whose input goes where, and what becomes of a client that does not read.

use std::time::Duration;

use serde_json::Value;
use test_e2e::harness::Server;
use test_e2e::logs;
use test_e2e::specs::Container;
use test_e2e::streaming::{Raw, Shape};

const V4: &str = "v4.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const RESIZE: u8 = 4;

/// A client of a container's stdio, and what it has heard so far.
struct Client {
    raw: Raw,
    heard: String,
}

impl Client {
    async fn attach(server: &Server, id: &str, shape: Shape) -> Self {
        let url = server.client.attach_url(id, shape).await.expect("a URL");
        Self {
            raw: Raw::websocket(&server.host, &url, V4).await,
            heard: String::new(),
        }
    }

    async fn types(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.raw
            .send(STDIN, line.as_bytes())
            .await
            .expect("the session is open");
    }

    /// Reads until its output has that in it.
    async fn hears(&mut self, text: &str) {
        while !self.heard.contains(text) {
            match self.raw.message().await {
                Some((STDOUT, bytes)) => self.heard.push_str(&String::from_utf8_lossy(&bytes)),
                other => panic!("{other:?} before {text:?}, behind {:?}", self.heard),
            }
        }
    }

    /// Reads until its output has so many bytes.
    async fn hears_bytes(&mut self, count: usize) {
        while self.heard.len() < count {
            let (_, bytes) = self.raw.message().await.expect("the session is open");
            self.heard.push_str(&String::from_utf8_lossy(&bytes));
        }
    }

    /// Waits until it is attached: it hears what comes of another's typing.
    async fn joins(&mut self, other: &mut Client) {
        while self.heard.is_empty() {
            other.types("anybody").await;
            let message = self.raw.message();
            // Not heard in time: it was not there yet, and the next line is for it.
            if let Ok(message) = tokio::time::timeout(Duration::from_millis(200), message).await {
                let (_, bytes) = message.expect("the session is open");
                self.heard.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }

    /// The rest of its output, and how the session ended.
    async fn ends(self) -> (String, Value) {
        let [out, _, status] = self.raw.all().await;
        let heard = self.heard + &String::from_utf8_lossy(&out);
        (heard, serde_json::from_slice(&status).expect("a status"))
    }
}

#[tokio::test]
async fn a_terminal_is_shared_by_all_who_attach_before_and_after_a_restart_of_the_daemon() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("terminal").await;
    let line = "/bin/busybox stty -echo; while read x; do echo heard $x; [ $x = size ] && /bin/busybox stty size; [ $x = bye ] && exit 5; done";
    let mut spec = Container::new("main", &image).shell(line);
    (spec.0.tty, spec.0.stdin) = (true, true);
    let id = pod.start(&spec).await;

    let mut first = Client::attach(&server, &id, Shape::TERMINAL).await;
    first.types("one").await;
    first.hears("heard one\r\n").await;
    let mut late = Client::attach(&server, &id, Shape::TERMINAL).await;
    late.types("two").await;
    for client in [&mut first, &mut late] {
        client.hears("heard two\r\n").await;
    }
    assert!(
        !late.heard.contains("one"),
        "what was before is in the log: {:?}",
        late.heard
    );
    // The size takes another way than what is typed: whichever comes first.
    let size = br#"{"Width":123,"Height":40}"#;
    late.raw.send(RESIZE, size).await.expect("the session is open");
    while !first.heard.contains("40 123\r\n") {
        first.heard.clear();
        first.types("size").await;
        first.hears("heard size\r\n").await;
        first.types("more").await;
        first.hears("heard more\r\n").await;
    }

    server.kill9().await;
    server.restart().await;
    let mut after = Client::attach(&server, &id, Shape::TERMINAL).await;
    after.types("three").await;
    after.hears("heard three\r\n").await;
    let mut listener = Client::attach(
        &server,
        &id,
        Shape {
            stdin: false,
            ..Shape::TERMINAL
        },
    )
    .await;
    listener.joins(&mut after).await;
    after.types("bye").await;
    assert_eq!(server.client.exited(&id).await.exit_code, 5);
    for client in [after, listener] {
        let (heard, status) = client.ends().await;
        assert!(heard.ends_with("heard bye\r\n"), "{heard:?}");
        assert_eq!(status["status"], "Success", "{status}");
    }
    server.close().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_told_so_and_nobody_else_feels_it() {
    /// What the container writes at a word, as long as there are words.
    const BURST: usize = 500_000;
    /// More than sockets and pipes hold between a container and a client.
    const BURSTS: usize = 60;
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("slow").await;
    let line = format!("while read x; do head -c {BURST} /dev/zero | /bin/busybox tr '\\0' $x; echo; done");
    let mut spec = Container::new("main", &image).shell(&line);
    (spec.0.stdin, spec.0.stdin_once) = (true, false);
    let id = pod.start(&spec).await;
    let mut slow = Client::attach(&server, &id, Shape::ALL).await;
    slow.types("s").await;
    slow.hears("s").await;
    let mut quick = Client::attach(&server, &id, Shape::ALL).await;
    quick.types("q").await;
    quick.hears("q\n").await;
    for _ in 0..BURSTS {
        quick.heard.clear();
        quick.types("x").await;
        quick.hears_bytes(BURST + 1).await;
        assert!(quick.heard.ends_with("x\n"), "each burst comes whole");
    }
    server.client.stop(&id, 0).await.unwrap();
    let (_, status) = quick.ends().await;
    assert_eq!(status["status"], "Success", "{status}");

    let (heard, status) = slow.ends().await;
    assert!(
        heard.len() < BURST * BURSTS,
        "it had time for all {} bytes",
        heard.len()
    );
    assert_eq!(status["status"], "Failure", "{status}");
    assert!(
        status["message"]
            .as_str()
            .is_some_and(|why| why.contains("cut off")),
        "{status}"
    );
    let log = logs::stream(&logs::read(&pod.log("main.log")), "stdout");
    assert_eq!(log.len(), (BURST + 1) * (BURSTS + 2), "the log has everything");
    server.close().await;
}

#[tokio::test]
async fn the_input_of_stdin_once_ends_with_its_first_client() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("once").await;
    let mut spec =
        Container::new("main", &image).shell("while read x; do echo heard $x; done; echo over; exit 3");
    (spec.0.stdin, spec.0.stdin_once) = (true, true);
    let id = pod.start(&spec).await;
    let mut first = Client::attach(&server, &id, Shape::ALL).await;
    first.types("one").await;
    first.hears("heard one\n").await;
    let mut second = Client::attach(&server, &id, Shape::ALL).await;
    // Its input goes nowhere; its output is as good as the first one's, once it is there.
    second.types("lost").await;
    second.joins(&mut first).await;
    drop(first);
    let (heard, status) = second.ends().await;
    assert!(heard.ends_with("over\n") && !heard.contains("lost"), "{heard:?}");
    assert_eq!(status["status"], "Success", "{status}");
    assert_eq!(server.client.exited(&id).await.exit_code, 3);
    server.close().await;
}
