//! The daemon killed, stopped and started again: nothing that runs is disturbed, nothing forgotten.

use std::path::Path;
use std::time::{Duration, Instant};

use k8s_cri::v1::{ContainerState, PodSandboxState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{Shutdown, UCred, shutdown};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use test_e2e::eventually::{eventually, stretched, until};
use test_e2e::harness::Server;
use test_e2e::leaks::Trace;
use test_e2e::specs::Container;

fn alive(pid: u32) -> bool {
    let status =
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.starts_with("State:") && !line.contains('Z'))
}

#[tokio::test]
async fn what_runs_is_found_again() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let spec = server.pod("found").label("app", "a").annotation("note", "n");
    let pod = server.run(&spec).await.unwrap();
    let running = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    let created = pod
        .create(&Container::new("later", &image).shell("echo started later"))
        .await
        .unwrap();
    let (address, pid) = (pod.ip().await, server.client.container_pid(&running).await);
    let before = server.client.pod_status(&pod.id).await.unwrap();
    let container_before = server.client.container_status(&running).await.unwrap();

    for clean in [false, true] {
        if clean {
            server.stop().await;
        } else {
            server.kill9().await;
        }
        assert!(alive(pid), "the container goes on without the daemon");
        server.restart().await;
        let after = server.client.pod_status(&pod.id).await.unwrap();
        assert_eq!(after, before, "nothing is forgotten");
        assert_eq!(after.state(), PodSandboxState::SandboxReady);
        assert_eq!(
            server.client.container_status(&running).await.unwrap(),
            container_before
        );
        assert_eq!(
            server.client.container_pid(&running).await,
            pid,
            "the same process"
        );
        assert_eq!(
            server
                .client
                .exec(&running, &["/bin/echo", "hi"], 5)
                .await
                .unwrap()
                .stdout,
            b"hi\n"
        );
        assert!(server.client.image(&image).await.unwrap().is_some());
    }
    assert_eq!(after_restart_address(&server, &pod.id).await, address);
    server
        .client
        .start(&created)
        .await
        .expect("what was created can be started by the next daemon");
    assert_eq!(server.client.exited(&created).await.exit_code, 0);
    pod.logged("later.log", "started later").await;
    server.client.stop(&running, 0).await.unwrap();
    assert_eq!(server.client.exited(&running).await.exit_code, 137);
    server.close().await;
}

async fn after_restart_address(server: &Server, pod: &str) -> String {
    server.client.pod_status(pod).await.unwrap().network.unwrap().ip
}

#[tokio::test]
async fn a_stop_that_was_answered_holds_whenever_the_daemon_is_killed() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    for round in 0..10 {
        let pod = server.run_pod(&format!("stopped-{round}")).await;
        pod.start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
            .await;
        server.client.stop_pod(&pod.id).await.unwrap();
        server.kill9().await;
        server.restart().await;
        let after = server.client.pod_status(&pod.id).await.unwrap();
        assert_eq!(after.state(), PodSandboxState::SandboxNotready);
        let [container] = &server.client.containers().await.unwrap()[..] else {
            panic!("its container is still known")
        };
        assert_eq!(container.state(), ContainerState::ContainerExited);
        server.client.remove_pod(&pod.id).await.unwrap();
    }
    server.close().await;
}

#[tokio::test]
async fn what_ended_meanwhile_has_its_true_code() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("meanwhile").await;
    let mut ids = Vec::new();
    for code in [0, 1, 7, 143] {
        let line = format!("echo up; while ! test -e /dev/shm/go; do usleep 1000; done; exit {code}");
        let name = format!("exit-{code}");
        ids.push((pod.start(&Container::new(&name, &image).shell(&line)).await, code));
        pod.logged(&format!("{name}.log"), "up").await;
    }
    let killed = pod
        .start(&Container::new("killed", &image).command(&["/bin/sleep", "100000"]))
        .await;
    let (go, pid) = (
        server.client.container_pid(&killed).await,
        server.client.container_pid(&killed).await,
    );
    server.kill9().await;

    std::fs::write(format!("/proc/{go}/root/dev/shm/go"), "").expect("the pod's shm, from the host");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid.cast_signed()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let exits = server.state_dir().join("exits");
    until("all have ended while nobody looked, and it is on record", || {
        let all = ids.iter().map(|(id, _)| id).chain([&killed]);
        all.into_iter().all(|id| exits.join(id).exists())
    })
    .await;
    let ended = std::time::SystemTime::now();

    server.restart().await;
    for (id, code) in ids.iter().chain([&(killed, 137)]) {
        let status = server.client.container_status(id).await.unwrap();
        assert_eq!(
            (status.state(), status.exit_code),
            (ContainerState::ContainerExited, *code)
        );
        assert_eq!(status.reason, if *code == 0 { "Completed" } else { "Error" });
        let finished = Duration::from_nanos(status.finished_at.unsigned_abs());
        assert!(
            std::time::UNIX_EPOCH + finished <= ended,
            "the time of the exit, not of the restart"
        );
        assert!(status.finished_at >= status.started_at);
    }
    server.close().await;
}

#[tokio::test]
async fn twenty_restarts_disturb_nobody() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let mut pids = Vec::new();
    for number in 0..6 {
        let pod = server.run_pod(&format!("pod-{number}")).await;
        let id = pod
            .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
            .await;
        pids.push((id.clone(), server.client.container_pid(&id).await));
    }
    for round in 0..20 {
        server.kill9().await;
        server.restart().await;
        assert_eq!(
            server.client.pods().await.unwrap().len(),
            pids.len(),
            "round {round}"
        );
    }
    for (id, pid) in &pids {
        assert_eq!(server.client.container_pid(id).await, *pid);
    }
    server.close().await;
}

#[tokio::test]
async fn a_kill_in_the_middle_leaves_nothing_half_made() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    for round in 0..8u64 {
        let spec = server.pod(&format!("half-{round}"));
        let client = server.client.clone();
        let running = {
            let (spec, image) = (spec.clone(), image.clone());
            tokio::spawn(async move {
                let id = client.run_pod(&spec.0).await?;
                let container = Container::new("main", &image).command(&["/bin/sleep", "100000"]);
                let container = Box::pin(client.create(&id, &spec.0, &container.0)).await?;
                client.start(&container).await
            })
        };
        // Each round kills a little later in the course of things.
        tokio::time::sleep(Duration::from_millis(4 * round)).await;
        server.kill9().await;
        let _ = running.await;
        server.restart().await;
        let pod = server
            .run(&spec)
            .await
            .expect("the same request is answered after the restart");
        let (code, _) = pod
            .finish(&Container::new("check", &image).command(&["/bin/true"]))
            .await;
        assert_eq!(code, 0);
        server.client.remove_pod(&pod.id).await.unwrap();
        for pod in server.client.pods().await.unwrap() {
            server.client.stop_pod(&pod.id).await.unwrap();
            server.client.remove_pod(&pod.id).await.unwrap();
        }
    }
    server.close().await;
}

#[tokio::test]
async fn what_was_made_of_a_container_before_its_record_goes() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("unrecorded").await;
    let id = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    server.kill9().await;
    // As a daemon leaves it that is killed right before it records a container.
    let unrecorded = "f".repeat(64);
    let layers = server.data_dir().join("rw");
    std::fs::create_dir_all(layers.join(&unrecorded).join("fs")).unwrap();
    std::fs::copy(
        layers.join(&id).join("image"),
        layers.join(&unrecorded).join("image"),
    )
    .unwrap();
    let mut cgroups = 0;
    for trace in server.traces() {
        if let Trace::Cgroup(path) = trace
            && path.ends_with(&id)
        {
            std::fs::create_dir(path.with_file_name(&unrecorded)).unwrap();
            cgroups += 1;
        }
    }
    assert!(cgroups > 0, "a container has a cgroup");
    server.restart().await;
    let left: Vec<_> = server
        .traces()
        .into_iter()
        .map(|trace| trace.to_string())
        .collect();
    assert!(!left.iter().any(|trace| trace.contains(&unrecorded)), "{left:#?}");
    assert!(
        left.iter()
            .any(|trace| trace.starts_with("cgroup ") && trace.ends_with(&id))
    );
    server.close().await;
}

/// The supervisor of a pod.
fn supervisor(server: &Server, pod: &str) -> Pid {
    Pid::from_raw(server.supervisor(pod).expect("a supervisor"))
}

#[tokio::test]
async fn a_slow_supervisor_loses_nothing() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("slow").await;
    let sleep = |name: &str| Container::new(name, &image).command(&["/bin/sleep", "100000"]);
    let (lives, ends) = (pod.start(&sleep("lives")).await, pod.start(&sleep("ends")).await);
    let (pid, ending) = (
        server.client.container_pid(&lives).await,
        server.client.container_pid(&ends).await,
    );
    let supervisor = supervisor(&server, &pod.id);
    // As on a node that has no processor to spare.
    kill(supervisor, Signal::SIGSTOP).unwrap();
    server.kill9().await;
    server.restart().await;
    for id in [&lives, &ends] {
        let status = server.client.container_status(id).await.unwrap();
        assert_eq!(status.state(), ContainerState::ContainerRunning, "as recorded");
    }
    let status = server.client.pod_status(&pod.id).await.unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    assert!(alive(pid), "nobody has ended it");
    let told = server.cli(&["status"]).await;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("Unknown"), "{told}");
    // What needs an answer is refused at once.
    let refused = server.client.exec(&lives, &["/bin/true"], 5).await.unwrap_err();
    assert!(refused.message().contains("has not answered"), "{refused}");
    let refused = pod.create(&sleep("more")).await.unwrap_err();
    assert!(refused.message().contains("has not answered"), "{refused}");

    kill(Pid::from_raw(i32::try_from(ending).unwrap()), Signal::SIGKILL).unwrap();
    kill(supervisor, Signal::SIGCONT).unwrap();
    assert_eq!(server.client.exited(&ends).await.exit_code, 137);
    let status = server.client.container_status(&lives).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    let said = server.client.exec(&lives, &["/bin/echo", "hi"], 5).await.unwrap();
    assert_eq!(said.stdout, b"hi\n");
    let more = pod.start(&Container::new("more", &image).shell("exit 3")).await;
    assert_eq!(server.client.exited(&more).await.exit_code, 3);
    assert_eq!(server.client.container_pid(&lives).await, pid);
    server.close().await;
}

#[tokio::test]
async fn a_slow_supervisor_that_is_killed_is_noticed() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("slow").await;
    let id = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    let pid = server.client.container_pid(&id).await;
    let supervisor = supervisor(&server, &pod.id);
    kill(supervisor, Signal::SIGSTOP).unwrap();
    server.kill9().await;
    server.restart().await;
    kill(supervisor, Signal::SIGKILL).unwrap();
    let status = server.client.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    until("its containers are killed: never two owners", || !alive(pid)).await;
    let status = server.client.pod_status(&pod.id).await.unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxNotready);
    server.close().await;
}

/// Ends the connections that the daemon has to a supervisor; how many those were.
fn disconnect(server: &Server, supervisor: Pid) -> usize {
    let process = |pid| rustix::process::Pid::from_raw(pid).unwrap();
    let daemon = process(i32::try_from(server.pid()).unwrap());
    let held = pidfd_open(daemon, PidfdFlags::empty()).unwrap();
    let listed = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let numbers = listed
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut ended = 0;
    for number in numbers {
        let Ok(fd) = pidfd_getfd(&held, number, PidfdGetfdFlags::empty()) else {
            continue;
        };
        let leads_there = |peer: UCred| peer.pid == process(supervisor.as_raw());
        if socket_peercred(&fd).is_ok_and(leads_there) {
            shutdown(&fd, Shutdown::Both).unwrap();
            ended += 1;
        }
    }
    ended
}

#[tokio::test]
async fn the_end_of_a_connection_is_not_the_end_of_a_supervisor() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("cut").await;
    let sleep = |name: &str| Container::new(name, &image).command(&["/bin/sleep", "100000"]);
    let (lives, ends) = (pod.start(&sleep("lives")).await, pod.start(&sleep("ends")).await);
    let (pid, ending) = (
        server.client.container_pid(&lives).await,
        server.client.container_pid(&ends).await,
    );
    // The next daemon's connection is one by path, which tells whose it is.
    server.kill9().await;
    server.restart().await;
    let supervisor = supervisor(&server, &pod.id);
    for round in 1..=3 {
        // Nobody hears of what happens meanwhile.
        kill(supervisor, Signal::SIGSTOP).unwrap();
        if round == 2 {
            kill(Pid::from_raw(i32::try_from(ending).unwrap()), Signal::SIGKILL).unwrap();
        }
        assert_eq!(disconnect(&server, supervisor), 1);
        kill(supervisor, Signal::SIGCONT).unwrap();
        let said = eventually("it is found again", async || {
            let said = server.client.exec(&lives, &["/bin/echo", "hi"], 5).await;
            said.ok()
        });
        assert_eq!(said.await.stdout, b"hi\n");
    }
    assert_eq!(server.client.exited(&ends).await.exit_code, 137);
    assert_eq!(server.client.container_pid(&lives).await, pid, "the same process");
    let more = pod.start(&Container::new("more", &image).shell("exit 3")).await;
    assert_eq!(server.client.exited(&more).await.exit_code, 3);
    server.client.stop_pod(&pod.id).await.unwrap();
    assert_eq!(server.client.exited(&lives).await.exit_code, 137);
    server.close().await;
}

#[tokio::test]
async fn a_killed_supervisor_is_noticed() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("orphan").await;
    let id = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    let pid = server.client.container_pid(&id).await;
    kill(supervisor(&server, &pod.id), Signal::SIGKILL).unwrap();
    let status = server.client.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    assert!(!status.message.is_empty(), "it says what was lost");
    until("its containers are killed: never two owners", || !alive(pid)).await;
    assert_eq!(
        server.client.pod_status(&pod.id).await.unwrap().state(),
        PodSandboxState::SandboxNotready
    );
    server.close().await;
}

#[tokio::test]
async fn a_stop_of_the_daemon_is_quick() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("quick").await;
    let id = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    // A call under way does not hold the exit up.
    let client = server.client.clone();
    let exec = tokio::spawn(async move { client.exec(&id, &["/bin/sleep", "1000"], 0).await });
    until("the call is under way", || {
        server
            .processes()
            .iter()
            .any(|(_, what)| what.contains("sleep 1000"))
    })
    .await;
    let begun = Instant::now();
    server.stop().await;
    assert!(begun.elapsed() < stretched(Duration::from_secs(10)));
    assert!(exec.await.unwrap().is_err());
    until("an exec belongs to its call: nothing unowned is left", || {
        !server
            .processes()
            .iter()
            .any(|(_, what)| what.ends_with("sleep 1000"))
    })
    .await;
    server.close().await;
}

/// The records of images are damaged while the daemon is down: containers that run keep their root, and images can be
/// pulled again.
#[tokio::test]
async fn what_runs_outlives_the_records_of_images() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("damaged").await;
    let running = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    let waiting = pod
        .create(&Container::new("later", &image).shell("echo later"))
        .await
        .unwrap();
    server.kill9().await;
    let records = server.data_dir().join("db");
    for file in ["images.db-wal", "images.db-shm"] {
        let _ = std::fs::remove_file(records.join(file));
    }
    std::fs::write(records.join("images.db"), "neither SQLite nor ours").unwrap();
    server.restart().await;

    assert!(server.client.all_images().await.unwrap().is_empty());
    let answer = server
        .client
        .exec(&running, &["/bin/cat", "/etc/passwd"], 20)
        .await
        .unwrap();
    assert_eq!((answer.exit_code, answer.stdout.is_empty()), (0, false));
    let refused = server.client.start(&waiting).await.unwrap_err();
    assert!(refused.message().contains("not found in the store"), "{refused}");
    let image = server.busybox().await;
    let again = Container::new("again", &image).shell("echo again");
    assert_eq!(pod.finish(&again).await, (0, "again\n".to_owned()));
    let answer = server.client.exec(&running, &["/bin/true"], 20).await.unwrap();
    assert_eq!(answer.exit_code, 0);
    server.close().await;
}
