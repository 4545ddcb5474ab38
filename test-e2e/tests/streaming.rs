//! Streaming sessions with a raw client: who is let in, how sessions end, and that nothing stays behind.

use std::time::{Duration, Instant};

use serde_json::Value;
use test_e2e::eventually::{stretched, until, within};
use test_e2e::harness::Server;
use test_e2e::layout::Settings;
use test_e2e::pods::RunningPod;
use test_e2e::specs::Container;
use test_e2e::streaming::{Raw, Shape, parts, websocket_headers};
use tonic::Code;

const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const ERROR: u8 = 3;

async fn sleeper(server: &Server) -> (RunningPod, String) {
    let image = server.busybox().await;
    let pod = server.run_pod("streaming").await;
    let id = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    (pod, id)
}

fn runs(server: &Server, command: &str) -> bool {
    server.processes().iter().any(|(_, what)| what.contains(command))
}

fn exit_code(status: &[u8]) -> i64 {
    let status: Value = serde_json::from_slice(status).expect("a status");
    match status["status"].as_str() {
        Some("Success") => 0,
        _ => status["details"]["causes"][0]["message"]
            .as_str()
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("no exit code in {status}")),
    }
}

#[tokio::test]
async fn only_those_with_a_fresh_token_are_let_in() {
    let server = Settings {
        config: "[streaming]\nmax_sessions = 2\n".to_owned(),
        ..Settings::default()
    }
    .start()
    .await;
    let (_, id) = sleeper(&server).await;
    let url = || async {
        let command = ["/bin/cat"];
        server
            .client
            .exec_url(&id, &command, Shape::ALL)
            .await
            .expect("a URL")
    };
    let (address, path) = parts(&url().await);
    assert!(address.ip().is_loopback(), "{address}");
    let knock = |path: String, headers: Vec<(&'static str, String)>| {
        let host = &server.host;
        async move {
            let mut raw = Raw::connect(host, address).await.expect("it listens");
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            raw.request(&path, &headers).await.expect("an answer").0
        }
    };
    let with = |changes: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
        let own = address.to_string();
        let mut headers: Vec<(&'static str, String)> = vec![
            ("Host", own),
            ("Connection", "Upgrade".into()),
            ("Upgrade", "websocket".into()),
            ("Sec-WebSocket-Version", "13".into()),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==".into()),
            ("Sec-WebSocket-Protocol", V4.into()),
        ];
        for (name, value) in changes {
            headers.retain(|(known, _)| known != name);
            headers.push((name, (*value).to_owned()));
        }
        headers
    };
    // None of these costs the token.
    let evil = [("Origin", "https://evil.example")];
    assert_eq!(knock(path.clone(), with(&evil)).await, 403, "a page elsewhere");
    let rebound = [("Host", "rebound.example")];
    assert_eq!(knock(path.clone(), with(&rebound)).await, 403, "a rebound name");
    assert_eq!(knock(path.clone(), with(&[("Upgrade", "h2c")])).await, 400);
    let unknown = format!("/exec/{}", "0".repeat(32));
    assert_eq!(knock(unknown, with(&[])).await, 404, "a guess");
    // A token is worth one try, of its own operation.
    let other = parts(&url().await).1.replace("/exec/", "/attach/");
    assert_eq!(knock(other.clone(), with(&[])).await, 404, "another operation");
    assert_eq!(
        knock(other.replace("/attach/", "/exec/"), with(&[])).await,
        404,
        "and it is spent"
    );
    let strange = [("Sec-WebSocket-Protocol", "v9.channel.k8s.io")];
    assert_eq!(
        knock(parts(&url().await).1, with(&strange)).await,
        403,
        "no protocol in common"
    );

    let first = Raw::websocket(&server.host, &format!("http://{address}{path}"), V4).await;
    assert_eq!(knock(path, with(&[])).await, 404, "a second use");
    let second = Raw::websocket(&server.host, &url().await, V4).await;
    let waiting = url().await;
    assert_eq!(
        knock(parts(&waiting).1, with(&[])).await,
        429,
        "the third at once"
    );
    drop(first);
    within(Duration::from_secs(30), "room again", || async {
        let mut raw = Raw::connect(&server.host, address).await.ok()?;
        let own = address.to_string();
        let asked = raw
            .request(&parts(&waiting).1, &websocket_headers(&own, V4))
            .await
            .ok()?;
        (asked.0 == 101).then_some(())
    })
    .await;
    drop(second);
    server.close().await;
}

#[tokio::test]
async fn output_comes_whole_and_the_exit_code_behind_it() {
    let server = Server::start().await;
    let (_, id) = sleeper(&server).await;
    let line = "head -c 3000000 /dev/zero | /bin/busybox tr '\\0' x; echo err >&2; exit 7";
    let url = server
        .client
        .exec_url(&id, &["/bin/sh", "-c", line], Shape::OUTPUT)
        .await
        .unwrap();
    let mut raw = Raw::websocket(&server.host, &url, V4).await;
    let (mut out, mut err) = (0, Vec::new());
    let status = loop {
        match raw.message().await.expect("a status before the goodbye") {
            (STDOUT, bytes) => out += bytes.len(),
            (ERROR, status) => break status,
            (_, bytes) => err.extend(bytes),
        }
    };
    assert_eq!((out, err.as_slice()), (3_000_000, &b"err\n"[..]));
    assert_eq!(exit_code(&status), 7);
    assert_eq!(raw.message().await, None, "nothing behind the status");
    server.close().await;
}

#[tokio::test]
async fn either_side_can_close_its_half() {
    let server = Server::start().await;
    let (_, id) = sleeper(&server).await;
    // The client's half: the command reads to the end, and only then answers.
    let url = server
        .client
        .exec_url(&id, &["/bin/sh", "-c", "wc -c; echo more"], Shape::ALL)
        .await
        .unwrap();
    let mut raw = Raw::websocket(&server.host, &url, V5).await;
    for _ in 0..10 {
        raw.send(STDIN, &[b'x'; 10_000]).await.unwrap();
    }
    raw.send(255, &[STDIN]).await.unwrap();
    let [out, _, status] = raw.all().await;
    assert_eq!(
        (String::from_utf8_lossy(&out), exit_code(&status)),
        ("100000\nmore\n".into(), 0)
    );
    // The command's half: it reads no more, and what the client still sends harms nobody.
    let url = server
        .client
        .exec_url(
            &id,
            &["/bin/sh", "-c", "exec <&-; echo deaf; sleep 0.2; exit 3"],
            Shape::ALL,
        )
        .await
        .unwrap();
    let mut raw = Raw::websocket(&server.host, &url, V5).await;
    for _ in 0..200 {
        if raw.send(STDIN, &[b'x'; 60_000]).await.is_err() {
            break;
        }
    }
    let [out, _, status] = raw.all().await;
    assert_eq!((out.as_slice(), exit_code(&status)), (&b"deaf\n"[..], 3));
    server.close().await;
}

#[tokio::test]
async fn a_background_child_with_the_output_in_hand_does_not_hold_the_session() {
    let server = Settings {
        config: "[limits]\nexec_drain = \"1s\"\n".to_owned(),
        ..Settings::default()
    }
    .start()
    .await;
    let (_, id) = sleeper(&server).await;
    for left in ["sleep 7654", "yes"] {
        let line = format!("{left} & echo now");
        let url = server
            .client
            .exec_url(&id, &["/bin/sh", "-c", &line], Shape::OUTPUT)
            .await
            .unwrap();
        let begun = Instant::now();
        let [out, _, status] = Raw::websocket(&server.host, &url, V4).await.all().await;
        let out = String::from_utf8_lossy(&out);
        assert!(out.contains("now\n"), "{left}: {}", &out[..out.len().min(100)]);
        assert_eq!(exit_code(&status), 0);
        assert!(
            begun.elapsed() < stretched(Duration::from_secs(20)),
            "{left}: {:?}",
            begun.elapsed()
        );
    }
    server.close().await;
}

#[tokio::test]
async fn an_exec_ends_with_its_connection() {
    let server = Server::start().await;
    let (_, id) = sleeper(&server).await;
    let start = |line: &'static str| {
        let (server, id) = (&server, &id);
        async move {
            let command = ["/bin/sh", "-c", line];
            let url = server.client.exec_url(id, &command, Shape::ALL).await.unwrap();
            let mut raw = Raw::websocket(&server.host, &url, V4).await;
            assert_eq!(raw.message().await, Some((STDOUT, b"up\n".to_vec())));
            raw
        }
    };
    let gentle = start("setsid sleep 1212 & echo up; sleep 1111; :").await;
    let stubborn = start("trap '' HUP; echo up; while :; do sleep 2222; done").await;
    let blocked = start("echo up; exec sleep 4444").await;
    until("the child with a session of its own runs", || {
        runs(&server, "sleep 1212")
    })
    .await;
    assert!(runs(&server, "sleep 1111") && runs(&server, "sleep 2222"));
    drop(gentle);
    until("SIGHUP ends what does not mind it", || {
        !runs(&server, "sleep 1111")
    })
    .await;
    until("so does a child that has a session of its own", || {
        !runs(&server, "sleep 1212")
    })
    .await;
    assert!(runs(&server, "sleep 2222"), "the other sessions go on");
    drop(stubborn);
    let bound = Duration::from_secs(25);
    let gone = || async { (!runs(&server, "sleep 2222")).then_some(()) };
    within(bound, "SIGKILL ends what minds", gone).await;
    // A command that does not read, and a client that has filled all that lies between them: nothing is read from the
    // connection any more, and its end is noticed all the same.
    let mut blocked = blocked;
    let fill = async { while blocked.send(STDIN, &[b'x'; 60_000]).await.is_ok() {} };
    assert!(
        tokio::time::timeout(Duration::from_secs(3), fill).await.is_err(),
        "back-pressure"
    );
    drop(blocked);
    let gone = || async { (!runs(&server, "sleep 4444")).then_some(()) };
    within(bound, "a stalled session ends with its connection", gone).await;
    server.close().await;
}

#[tokio::test]
async fn no_exec_outlives_the_daemon() {
    let mut server = Server::start().await;
    let (_, id) = sleeper(&server).await;
    let line = "trap '' HUP; echo up; while :; do sleep 3333; done";
    let command = ["/bin/sh", "-c", line];
    let url = server.client.exec_url(&id, &command, Shape::ALL).await.unwrap();
    let mut raw = Raw::websocket(&server.host, &url, V4).await;
    assert_eq!(raw.message().await, Some((STDOUT, b"up\n".to_vec())));
    server.kill9().await;
    let gone = || async { (!runs(&server, "sleep 3333")).then_some(()) };
    within(Duration::from_secs(25), "the exec ends", gone).await;
    assert!(runs(&server, "sleep 100000"), "its container goes on");
    server.restart().await;
    server.close().await;
}

#[tokio::test]
async fn an_idle_session_is_closed() {
    let server = Settings {
        config: "[streaming]\nidle_timeout = \"1s\"\n".to_owned(),
        ..Settings::default()
    }
    .start()
    .await;
    let (_, id) = sleeper(&server).await;
    let command = ["/bin/sh", "-c", "echo up; sleep 5555"];
    let url = server
        .client
        .exec_url(&id, &command, Shape::OUTPUT)
        .await
        .unwrap();
    let mut raw = Raw::websocket(&server.host, &url, V4).await;
    assert_eq!(raw.message().await, Some((STDOUT, b"up\n".to_vec())));
    until("the idle command is gone", || !runs(&server, "sleep 5555")).await;
    server.close().await;
}

#[tokio::test]
async fn a_container_that_does_not_run_is_refused_with_its_state() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("stopped").await;
    let spec = Container::new("main", &image).command(&["/bin/true"]);
    let id = pod.create(&spec).await.unwrap();
    for _ in 0..2 {
        let refused = server
            .client
            .exec_url(&id, &["true"], Shape::OUTPUT)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        let refused = server.client.attach_url(&id, Shape::OUTPUT).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        // The first round is before its start, the second behind its end.
        if server.client.start(&id).await.is_ok() {
            server.client.exited(&id).await;
        }
    }
    let unknown = "0".repeat(64);
    let refused = server
        .client
        .exec_url(&unknown, &["true"], Shape::OUTPUT)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let refused = server
        .client
        .port_forward_url(&pod.id, &[65_536])
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    server.close().await;
}
