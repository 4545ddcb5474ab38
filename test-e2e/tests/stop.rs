//! Stops that somebody or something stands in the way of.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use k8s_cri::v1::{ContainerState, CreateContainerRequest, PodSandboxState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use test_e2e::disk::Disk;
use test_e2e::eventually::{stretched, until};
use test_e2e::harness::Server;
use test_e2e::images::busybox_builder;
use test_e2e::layout::Settings;
use test_e2e::newer::{self, Newer};
use test_e2e::specs::Container;

/// Freezes a container's cgroup, as `docker pause` or a checkpoint would.
async fn freeze(server: &Server, id: &str) {
    let info = server.client.container_info(id).await;
    let cgroup = info["cgroup"]
        .as_str()
        .expect("a cgroup")
        .trim_start_matches('/')
        .to_owned();
    let v1 = PathBuf::from("/sys/fs/cgroup/freezer")
        .join(&cgroup)
        .join("freezer.state");
    let v2 = PathBuf::from("/sys/fs/cgroup")
        .join(&cgroup)
        .join("cgroup.freeze");
    if v1.exists() {
        fs::write(v1, "FROZEN").unwrap();
    } else {
        fs::write(v2, "1").unwrap();
    }
}

#[tokio::test]
async fn a_frozen_container_is_thawed_and_ends_in_its_own_way() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("frozen").await;
    let polite =
        Container::new("main", &image).shell("trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done");
    let id = pod.start(&polite).await;
    pod.logged("main.log", "up").await;
    freeze(&server, &id).await;
    server.client.stop(&id, 600).await.unwrap();
    assert_eq!(server.client.container_status(&id).await.unwrap().exit_code, 7);
    server.close().await;
}

#[tokio::test]
async fn a_frozen_container_is_killed_all_the_same() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("frozen").await;
    let id = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    freeze(&server, &id).await;
    server.client.stop(&id, 0).await.unwrap();
    assert_eq!(server.client.container_status(&id).await.unwrap().exit_code, 137);
    server.close().await;
}

#[tokio::test]
async fn the_requests_signal_goes_before_the_images_and_that_before_sigterm() {
    let server = Server::start().await;
    let plain = server.busybox().await;
    let image = busybox_builder().config("StopSignal", json!("SIGUSR1")).build();
    let with_signal = server.pull("with-signal", &image).await;
    let pod = server.run_pod("signals").await;
    let says = "trap 'exit 15' TERM; trap 'exit 10' USR1; trap 'exit 12' USR2; echo up; while :; do sleep 0.05; done";
    // As the CRI numbers it.
    let usr2 = [Newer::StopSignal(30)];
    let cases = [
        ("neither", &plain, &[][..], 15),
        ("image", &with_signal, &[], 10),
        ("both", &with_signal, &usr2, 12),
        ("request", &plain, &usr2, 12),
    ];
    for (name, image, asked, heard) in cases {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(Container::new(name, image).shell(says).0),
            sandbox_config: Some(pod.config.clone()),
        };
        let id = newer::create(&server.socket(), &request, asked).await.unwrap();
        server.client.start(&id).await.unwrap();
        pod.logged(&format!("{name}.log"), "up").await;
        server.client.stop(&id, 600).await.unwrap();
        let status = server.client.container_status(&id).await.unwrap();
        assert_eq!(status.exit_code, heard, "{name}");
    }
    server.close().await;
}

#[tokio::test]
async fn a_container_asleep_in_the_kernel_holds_no_stop_beyond_its_deadline() {
    let server = Settings {
        prepare: Some(Disk::preparation()),
        ..Settings::default()
    };
    let server = server.start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("asleep").await;
    let mut disk = Disk::of(&server.host, server.directory()).await;
    let writer = Container::new("main", &image)
        .shell("echo up; while :; do echo x > /data/file; done")
        .mount(&disk.directory, "/data");
    let id = pod.start(&writer).await;
    pod.logged("main.log", "up").await;
    let info = server.client.container_info(&id).await;
    let stat = format!("/proc/{}/stat", info["pid"]);
    disk.freeze();
    until("it sleeps uninterruptibly", || {
        // proc(5): behind the name in its brackets.
        let stat = fs::read_to_string(&stat).expect("it runs");
        stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" D"))
    })
    .await;
    let asked = Instant::now();
    let refused = server.client.stop(&id, 1).await.expect_err("nothing can end it");
    assert!(
        asked.elapsed() < stretched(Duration::from_secs(20)),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused:?}");
    let state = server.client.container_status(&id).await.unwrap().state();
    assert_eq!(
        state,
        ContainerState::ContainerRunning,
        "it is not told to have ended"
    );
    let other = Container::new("other", &image).shell("exit 4");
    assert_eq!(pod.finish(&other).await.0, 4, "its siblings come and go");

    disk.thaw();
    server.client.stop(&id, 1).await.expect("now it can");
    assert_eq!(server.client.container_status(&id).await.unwrap().exit_code, 137);
    server.close().await;
}

#[tokio::test]
async fn execs_go_on_during_the_grace() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("grace").await;
    let stubborn = Container::new("main", &image)
        .shell("trap 'echo asked' TERM; echo up; until [ -e /done ]; do sleep 0.05; done; exit 9");
    let id = pod.start(&stubborn).await;
    pod.logged("main.log", "up").await;
    let stop = server.client.stop(&id, 600);
    let exec = async {
        pod.logged("main.log", "asked").await;
        server
            .client
            .exec(&id, &["/bin/sh", "-c", "sleep 0.2; echo hooked; touch /done"], 60)
            .await
    };
    let (stopped, hook) = tokio::join!(stop, exec);
    assert_eq!(hook.unwrap().stdout, b"hooked\n");
    stopped.unwrap();
    assert_eq!(server.client.container_status(&id).await.unwrap().exit_code, 9);
    server.close().await;
}

#[tokio::test]
async fn a_start_that_hangs_in_a_volume_does_not_hold_the_stop() {
    let server = Settings {
        prepare: Some(Disk::preparation()),
        ..Settings::default()
    };
    let server = server.start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("hang").await;
    let mut disk = Disk::of(&server.host, server.directory()).await;
    // Its source has to be made, on a disk that takes nothing.
    let volume = disk.directory.join("volume");
    let hanging = Container::new("main", &image)
        .shell("sleep 100000")
        .mount(&volume, "/data");
    let id = pod.create(&hanging).await.unwrap();
    disk.freeze();
    let client = server.client.clone();
    let (starting, name) = (server.client.clone(), id.clone());
    let start = tokio::spawn(async move { starting.start(&name).await });
    test_e2e::eventually::eventually("the start is under way", || async {
        let status = server.cli(&["status"]).await;
        String::from_utf8_lossy(&status.stdout)
            .contains("StartContainer")
            .then_some(())
    })
    .await;
    client
        .stop(&id, 1)
        .await
        .expect("what has not begun can be ended, whatever its start waits for");
    // Others are not concerned.
    let other = Container::new("other", &image).shell("exit 4");
    assert_eq!(pod.finish(&other).await.0, 4);
    disk.thaw();
    start
        .await
        .unwrap()
        .expect_err("a start that comes back finds that it was stopped");
    let state = client.container_status(&id).await.unwrap().state();
    assert_eq!(state, ContainerState::ContainerExited);
    server.close().await;
}

#[tokio::test]
async fn a_supervisor_that_has_no_time_holds_no_kill() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("busy").await;
    let supervisor = Pid::from_raw(server.supervisor(&pod.id).expect("a supervisor"));
    for grace in [0, 1] {
        let main = Container::new(&format!("main-{grace}"), &image).command(&["/bin/sleep", "100000"]);
        let id = pod.start(&main).await;
        let process = server.client.container_pid(&id).await;
        kill(supervisor, Signal::SIGSTOP).unwrap();
        let (client, stopped) = (server.client.clone(), id.clone());
        let stop = tokio::spawn(async move { client.stop(&stopped, grace).await });
        // Nobody has reaped it yet.
        let state = format!("/proc/{process}/status");
        until("it is dead", || {
            fs::read_to_string(&state).unwrap().contains("State:\tZ")
        })
        .await;
        kill(supervisor, Signal::SIGCONT).unwrap();
        stop.await.unwrap().unwrap();
        assert_eq!(
            server.client.exited(&id).await.exit_code,
            137,
            "grace of {grace} s"
        );
    }
    server.close().await;
}

#[tokio::test]
async fn a_pod_is_stopped_without_its_supervisor_when_that_hangs() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let (busy, idle) = (server.run_pod("busy").await, server.run_pod("idle").await);
    let main = Container::new("main", &image).command(&["/bin/sleep", "100000"]);
    let id = busy.start(&main).await;
    for pod in [&busy, &idle] {
        let supervisor = server.supervisor(&pod.id).expect("a supervisor");
        kill(Pid::from_raw(supervisor), Signal::SIGSTOP).unwrap();
    }
    let client = &server.client;
    let (one, other) = tokio::join!(client.stop_pod(&busy.id), client.stop_pod(&idle.id));
    one.expect("what ran in it is killed, and nobody is left to be asked");
    other.expect("nothing ran in it");
    let status = client.container_status(&id).await.unwrap();
    assert_eq!(
        (status.state(), status.exit_code),
        (ContainerState::ContainerExited, 255),
        "nobody saw how it ended"
    );
    for pod in [&busy, &idle] {
        let status = client.pod_status(&pod.id).await.unwrap();
        assert_eq!(status.state(), PodSandboxState::SandboxNotready);
        until("its supervisor is gone", || server.supervisor(&pod.id).is_none()).await;
        client.remove_pod(&pod.id).await.unwrap();
    }
    server.close().await;
}
