//! ExecSync: what probes rely on.

use std::time::{Duration, Instant};

use test_e2e::eventually::{stretched, until};
use test_e2e::harness::Server;
use test_e2e::pods::RunningPod;
use test_e2e::specs::Container;
use tonic::Code;

/// ExecSync answers with that much of both streams together: kubelet takes messages of at most 16 MiB.
const CAP: usize = (16 << 20) - 4096;

async fn sleeper(server: &Server, image: &str) -> (RunningPod, String) {
    let pod = server.run_pod("exec").await;
    let id = pod
        .start(&Container::new("main", image).command(&["/bin/sleep", "100000"]))
        .await;
    (pod, id)
}

#[tokio::test]
async fn output_and_exit_code_come_back() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let (_, id) = sleeper(&server, &image).await;
    let exec = |line: &'static str| {
        let (client, id) = (&server.client, &id);
        async move { client.exec(id, &["/bin/sh", "-c", line], 0).await }
    };
    let done = exec("echo out; echo err >&2; exit 7").await.unwrap();
    assert_eq!(
        (done.stdout.as_slice(), done.stderr.as_slice(), done.exit_code),
        (&b"out\n"[..], &b"err\n"[..], 7)
    );
    let done = exec("printf '\\000\\377'; true").await.unwrap();
    assert_eq!(
        (done.stdout.as_slice(), done.exit_code),
        (&[0, 255][..], 0),
        "bytes, not text"
    );
    let done = exec("kill -9 $$").await.unwrap();
    assert_eq!(done.exit_code, 137);
    let done = exec("cat; pwd; echo $PATH; id -u; cat /proc/self/cgroup | grep -vc ':/$'")
        .await
        .unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    assert_eq!(
        text.lines().next(),
        Some("/"),
        "no stdin, and the container's working directory: {text}"
    );
    assert!(
        text.ends_with("0\n0\n"),
        "root, in the container's own cgroup: {text}"
    );
    server.close().await;
}

#[tokio::test]
async fn a_missing_command_is_an_error_that_names_it() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let (_, id) = sleeper(&server, &image).await;
    let refused = server.client.exec(&id, &["/no/such"], 0).await.unwrap_err();
    assert!(refused.message().contains("/no/such"), "{refused:?}");
    let refused = server.client.exec(&id, &[], 0).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().contains("cmd"),
        "the field is named: {refused:?}"
    );
    server.close().await;
}

#[tokio::test]
async fn a_timeout_kills_and_is_told_as_such() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let (_, id) = sleeper(&server, &image).await;
    let begun = Instant::now();
    let refused = server
        .client
        .exec(&id, &["/bin/sh", "-c", "sleep 4321; echo never"], 1)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded);
    assert!(
        begun.elapsed() >= Duration::from_secs(1) && begun.elapsed() < stretched(Duration::from_secs(15))
    );
    until("the timed-out command is gone", || {
        !server
            .processes()
            .iter()
            .any(|(_, what)| what.contains("sleep 4321"))
    })
    .await;
    assert_eq!(
        server
            .client
            .exec(&id, &["/bin/true"], 5)
            .await
            .unwrap()
            .exit_code,
        0,
        "the container goes on"
    );
    server.close().await;
}

#[tokio::test]
async fn endless_output_is_capped_and_drained() {
    let server = Server::start().await;
    let image = server.probe().await;
    let pod = server.run_pod("flood").await;
    let id = pod.start(&Container::new("main", &image).args(&["sleep"])).await;
    let done = server
        .client
        .exec(&id, &["/probe", "print", "25000000"], 60)
        .await
        .unwrap();
    assert_eq!(
        (done.stdout.len(), done.exit_code),
        (CAP, 0),
        "the command runs to its end"
    );
    assert!(done.stdout[..100].ends_with(b"xx\n"));
    server.close().await;
}

#[tokio::test]
async fn a_child_holding_the_pipe_does_not_hold_the_answer() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let (_, id) = sleeper(&server, &image).await;
    let begun = Instant::now();
    let done = server
        .client
        .exec(&id, &["/bin/sh", "-c", "echo now; sleep 5432 &"], 0)
        .await
        .unwrap();
    assert_eq!((done.stdout.as_slice(), done.exit_code), (&b"now\n"[..], 0));
    assert!(
        begun.elapsed() < stretched(Duration::from_secs(20)),
        "the drain has an end: {:?}",
        begun.elapsed()
    );
    until("what the command left behind is gone", || {
        !server
            .processes()
            .iter()
            .any(|(_, what)| what.contains("sleep 5432"))
    })
    .await;
    server.close().await;
}

#[tokio::test]
async fn it_needs_a_running_container() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("states").await;
    let id = pod
        .create(&Container::new("main", &image).command(&["/bin/true"]))
        .await
        .unwrap();
    let refused = server.client.exec(&id, &["/bin/true"], 0).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    server.client.start(&id).await.unwrap();
    server.client.exited(&id).await;
    let refused = server.client.exec(&id, &["/bin/true"], 0).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let unknown = server
        .client
        .exec(&"0".repeat(64), &["/bin/true"], 0)
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    server.close().await;
}

#[tokio::test]
async fn it_is_the_containers_user_and_environment() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("same").await;
    let spec = Container::new("main", &image)
        .command(&["/bin/sleep", "100000"])
        .user(1000, None)
        .env("MINE", "yes")
        .working_dir("/tmp")
        .capabilities(&[], &["ALL"])
        .secure(|security| security.no_new_privs = true);
    let id = pod.start(&spec).await;
    let look = "id -u; id -G; echo $MINE $HOME; pwd; grep -E 'CapBnd|NoNewPrivs' /proc/self/status";
    let done = server
        .client
        .exec(&id, &["/bin/sh", "-c", look], 0)
        .await
        .unwrap();
    let expected = "1000\n1000 2000\nyes /home/app\n/tmp\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\n";
    assert_eq!(String::from_utf8_lossy(&done.stdout), expected);
    server.close().await;
}

#[tokio::test]
async fn many_at_once() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let (_, id) = sleeper(&server, &image).await;
    let commands: Vec<String> = (0..60)
        .map(|number| format!("echo {number}; exit {number}"))
        .collect();
    let all = futures::future::join_all(commands.iter().map(|line| {
        let (client, id) = (server.client.clone(), id.clone());
        async move { Box::pin(client.exec(&id, &["/bin/sh", "-c", line], 60)).await }
    }))
    .await;
    for (number, done) in all.into_iter().enumerate() {
        let done = done.unwrap();
        assert_eq!(done.exit_code, i32::try_from(number).unwrap());
        assert_eq!(done.stdout, format!("{number}\n").into_bytes());
    }
    server.close().await;
}

#[tokio::test]
async fn a_stop_ends_it() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let (pod, id) = sleeper(&server, &image).await;
    let running = server
        .client
        .exec(&id, &["/bin/sh", "-c", "echo $$ > /dev/shm/up; sleep 6543"], 0);
    let stop = async {
        until("the command runs", || {
            server
                .processes()
                .iter()
                .any(|(_, what)| what.contains("sleep 6543"))
        })
        .await;
        server.client.stop(&id, 0).await.unwrap();
    };
    let (done, ()) = tokio::time::timeout(stretched(Duration::from_secs(30)), async {
        tokio::join!(running, stop)
    })
    .await
    .expect("the call returns when its container stops");
    assert!(
        done.map_or(true, |done| done.exit_code == 137),
        "killed with its container"
    );
    server.client.remove_pod(&pod.id).await.unwrap();
    server.close().await;
}
