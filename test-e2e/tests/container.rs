//! Containers: states, times, exit codes, what runs, as whom, with what mounted and how much of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use k8s_cri::v1::{self as cri, ContainerState, ContainerStatus};
use serde_json::{Value, json};
use test_e2e::eventually::stretched;
use test_e2e::harness::Server;
use test_e2e::images;
use test_e2e::layers::Layer;
use test_e2e::specs::{Container, labels};

#[tokio::test]
async fn a_container_lives_and_dies() {
    let server = Server::start().await;
    let (client, image) = (&server.client, server.busybox().await);
    let pod = server.run_pod("life").await;
    let spec =
        Container::new("main", &image).shell("trap 'exit 7' TERM; echo up; while :; do usleep 10000; done");
    let spec = spec.label("role", "main");
    let id = pod.create(&spec).await.unwrap();
    let created = client.container_status(&id).await.unwrap();
    assert_eq!(created.state(), ContainerState::ContainerCreated);
    assert!(created.created_at > 0);
    assert_eq!((created.started_at, created.finished_at), (0, 0));

    client.start(&id).await.unwrap();
    pod.logged("main.log", "up").await;
    let running = client.container_status(&id).await.unwrap();
    assert_eq!(running.state(), ContainerState::ContainerRunning);
    assert!(running.started_at >= running.created_at);
    assert_eq!((running.finished_at, running.exit_code), (0, 0));
    assert_eq!(running.labels, labels(&[("role", "main")]));
    assert_eq!(running.log_path, pod.log("main.log").display().to_string());
    let id_of_image = images::busybox().id();
    assert_eq!(
        (running.image_id.as_str(), running.image.unwrap().image.as_str()),
        (id_of_image, image.as_str())
    );
    let listed = client.containers().await.unwrap();
    assert_eq!(
        (listed[0].id.as_str(), listed[0].image_id.as_str()),
        (id.as_str(), id_of_image)
    );
    assert_eq!(listed[0].pod_sandbox_id, pod.id);

    client.stop(&id, 30).await.unwrap();
    let exited = client.container_status(&id).await.unwrap();
    assert_eq!(exited.state(), ContainerState::ContainerExited);
    assert_eq!(
        (exited.exit_code, exited.reason.as_str()),
        (7, "Error"),
        "the signal was handled"
    );
    assert!(exited.finished_at >= exited.started_at && exited.started_at == running.started_at);
    client.stop(&id, 30).await.expect("stopping twice is success");
    client.remove(&id).await.unwrap();
    client.remove(&id).await.expect("removing twice is success");
    server.close().await;
}

#[tokio::test]
async fn exits_have_their_code_and_reason() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("exits").await;
    for (line, code, reason) in [
        ("exit 0", 0, "Completed"),
        ("exit 3", 3, "Error"),
        ("exit 255", 255, "Error"),
        ("kill -9 $$; sleep 9", 137, "Error"),
    ] {
        // Pid 1 cannot be killed from within its namespace; a child's death is passed on by the shell.
        let line = if code == 137 {
            "sh -c 'kill -9 $$'; exit $?"
        } else {
            line
        };
        let id = pod
            .start(&Container::new(&format!("exit-{code}"), &image).shell(line))
            .await;
        let status = server.client.exited(&id).await;
        assert_eq!(
            (status.exit_code, status.reason.as_str(), status.message.as_str()),
            (code, reason, ""),
            "{line}"
        );
    }
    server.close().await;
}

#[tokio::test]
async fn stop_kills_after_the_grace() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("stubborn").await;
    let spec = Container::new("main", &image).shell("trap '' TERM; echo up; while :; do sleep 1; done");
    let id = pod.start(&spec).await;
    pod.logged("main.log", "up").await;
    server.client.stop(&id, 1).await.unwrap();
    let status = server.client.container_status(&id).await.unwrap();
    assert_eq!(
        (status.state(), status.exit_code),
        (ContainerState::ContainerExited, 137)
    );
    assert_eq!(
        status.reason, "Error",
        "killed by us, not by the kernel's memory killer"
    );
    server.close().await;
}

#[tokio::test]
async fn a_shorter_second_stop_wins() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("impatient").await;
    let spec = Container::new("main", &image).shell("trap '' TERM; echo up; while :; do sleep 1; done");
    let id = pod.start(&spec).await;
    pod.logged("main.log", "up").await;
    let patient = server.client.stop(&id, 600);
    let impatient = server.client.stop(&id, 0);
    let both = async { tokio::join!(patient, impatient) };
    let (first, second) = tokio::time::timeout(stretched(Duration::from_secs(20)), both)
        .await
        .expect("both return");
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(server.client.container_status(&id).await.unwrap().exit_code, 137);
    server.close().await;
}

#[tokio::test]
async fn image_and_request_decide_what_runs() {
    let server = Server::start().await;
    let image = images::busybox_builder()
        .config("Entrypoint", json!(["/bin/echo", "entry"]))
        .config("Cmd", json!(["cmd"]))
        .config("Env", json!(["FROM_IMAGE=1", "PATH=/bin:/image"]))
        .config("WorkingDir", json!("/made/by/image"))
        .build();
    let image = server.pull("what-runs", &image).await;
    let pod = server.run_pod("what-runs").await;
    let run = |name: &str| Container::new(name, &image);
    assert_eq!(pod.finish(&run("plain")).await, (0, "entry cmd\n".to_owned()));
    assert_eq!(
        pod.finish(&run("args").args(&["mine"])).await,
        (0, "entry mine\n".to_owned())
    );
    assert_eq!(
        pod.finish(&run("command").command(&["/bin/echo", "only"])).await,
        (0, "only\n".to_owned())
    );
    let both = run("both").command(&["/bin/echo"]).args(&["a", "b c"]);
    assert_eq!(pod.finish(&both).await, (0, "a b c\n".to_owned()));
    let look = run("environment")
        .shell("pwd; echo $PATH $FROM_IMAGE $HOSTNAME $HOME $MINE")
        .env("MINE", "m n");
    assert_eq!(
        pod.finish(&look).await,
        (
            0,
            "/made/by/image\n/bin:/image 1 what-runs /root m n\n".to_owned()
        )
    );
    let elsewhere = run("elsewhere")
        .shell("pwd; echo $FROM_IMAGE")
        .working_dir("/tmp")
        .env("FROM_IMAGE", "2");
    assert_eq!(pod.finish(&elsewhere).await, (0, "/tmp\n2\n".to_owned()));
    server.close().await;
}

#[tokio::test]
async fn a_failed_start_says_why() {
    let server = Server::start().await;
    let image = images::busybox_builder()
        .layer(
            Layer::new()
                .file("not-executable", 0o644, "#!/bin/sh\n")
                .file("no-interpreter", 0o755, "#!/no/such/interpreter\n")
                .file("no-format", 0o755, "\u{7f}ELF but not really"),
        )
        .build();
    let image = server.pull("broken", &image).await;
    let pod = server.run_pod("broken").await;
    for path in ["/missing", "/not-executable", "/no-interpreter", "/no-format"] {
        let id = pod
            .create(&Container::new(path.trim_start_matches('/'), &image).command(&[path]))
            .await
            .unwrap();
        let refused = server.client.start(&id).await.unwrap_err();
        assert!(refused.message().contains(path), "{refused:?}");
        let status = server.client.container_status(&id).await.unwrap();
        assert_eq!(status.state(), ContainerState::ContainerExited);
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
        assert!(status.message.contains(path), "{}", status.message);
    }
    server.close().await;
}

#[tokio::test]
async fn volumes_are_mounted() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("volumes").await;
    let volumes = server.directory().join("volumes");
    let (data, fixed, missing) = (
        volumes.join("data"),
        volumes.join("fixed"),
        volumes.join("missing/deep"),
    );
    fs::create_dir_all(&data).unwrap();
    fs::create_dir_all(&fixed).unwrap();
    fs::write(fixed.join("file"), "from the host\n").unwrap();
    std::os::unix::fs::symlink(&fixed, volumes.join("link")).unwrap();
    // The deeper one is named first: mounts are ordered by depth.
    let spec = Container::new("main", &image)
        .shell(
            "cat /data/deep/file /link/file && echo to the host > /data/file && ! touch /data/deep/x 2>/dev/null && \
             touch /made/x && cat /one-file",
        )
        .mount_read_only(&fixed, "/data/deep")
        .mount(&data, "/data")
        .mount_read_only(&volumes.join("link"), "/link")
        .mount(&missing, "/made")
        .mount_read_only(&fixed.join("file"), "/one-file");
    let output = "from the host\n".repeat(3);
    assert_eq!(pod.finish(&spec).await, (0, output));
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "to the host\n");
    assert!(
        missing.join("x").exists(),
        "a missing source is made as a directory"
    );
    let containers = server.client.containers().await.unwrap();
    let status = server.client.container_status(&containers[0].id).await.unwrap();
    assert_eq!(status.mounts.len(), 5, "{:?}", status.mounts);
    server.close().await;
}

#[tokio::test]
async fn users_and_groups_are_exact() {
    let server = Server::start().await;
    let busybox = server.busybox().await;
    let image = images::busybox_builder().config("User", json!("app")).build();
    let with_user = server.pull("with-user", &image).await;
    let pod = server.run_pod("users").await;
    let id = |name: &str, image: &str| Container::new(name, image).shell("id -u; id -g; id -G; echo $HOME");
    let cases = [
        (id("root", &busybox), "0\n0\n0\n/root\n"),
        (id("image", &with_user), "1000\n1000\n1000 2000\n/home/app\n"),
        (
            id("uid", &busybox).user(1000, None),
            "1000\n1000\n1000 2000\n/home/app\n",
        ),
        (id("unknown", &busybox).user(4711, None), "4711\n0\n0\n/\n"),
        (
            id("uid-gid", &with_user).user(4711, Some(4712)),
            "4711\n4712\n4712\n/\n",
        ),
        (
            id("name", &busybox).secure(|s| s.run_as_username = "daemon".to_owned()),
            "1\n1\n1\n/\n",
        ),
        (
            id("groups", &busybox)
                .user(4711, Some(5))
                .secure(|s| s.supplemental_groups = vec![77]),
            "4711\n5\n5 77\n/\n",
        ),
        (
            id("strict", &busybox).user(1000, None).secure(|s| {
                s.supplemental_groups = vec![77];
                s.set_supplemental_groups_policy(cri::SupplementalGroupsPolicy::Strict);
            }),
            "1000\n1000\n1000 77\n/home/app\n",
        ),
    ];
    for (spec, expected) in cases {
        let name = spec.0.metadata.clone().unwrap().name;
        assert_eq!(pod.finish(&spec).await, (0, expected.to_owned()), "{name}");
    }
    let by_name =
        Container::new("no-such", &busybox).secure(|s| s.run_as_username = "nobody-here".to_owned());
    let refused = match pod.create(&by_name).await {
        Err(refused) => refused,
        Ok(id) => server.client.start(&id).await.unwrap_err(),
    };
    assert!(refused.message().contains("nobody-here"), "{refused:?}");
    server.close().await;
}

#[tokio::test]
async fn limits_are_in_the_cgroup() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("limits").await;
    let spec = Container::new("main", &image)
        .command(&["/bin/sleep", "1000"])
        .resources(|resources| {
            resources.memory_limit_in_bytes = 64 << 20;
            resources.cpu_shares = 512;
            resources.cpu_period = 100_000;
            resources.cpu_quota = 50_000;
            resources.oom_score_adj = 321;
        });
    let id = pod.start(&spec).await;
    let pid = server.client.container_pid(&id).await;
    assert_eq!(
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))
            .unwrap()
            .trim(),
        "321"
    );
    let read = |controller: &str, file: &str| cgroup_file(pid, controller, file);
    if let Some(limit) = read("memory", "memory.limit_in_bytes") {
        assert_eq!(limit, "67108864");
        assert_eq!(read("cpu", "cpu.shares").unwrap(), "512");
        assert_eq!(read("cpu", "cpu.cfs_quota_us").unwrap(), "50000");
    } else {
        assert_eq!(read("", "memory.max").unwrap(), "67108864");
        assert_eq!(read("", "cpu.max").unwrap(), "50000 100000");
    }
    let status = server.client.container_status(&id).await.unwrap();
    let shown = status.resources.unwrap().linux.unwrap();
    assert_eq!((shown.memory_limit_in_bytes, shown.cpu_shares), (64 << 20, 512));
    server.close().await;
}

#[tokio::test]
async fn the_memory_killer_is_told_apart() {
    let server = Server::start().await;
    let image = server.probe().await;
    let pod = server.run_pod("oom").await;
    let spec = Container::new("main", &image)
        .args(&["memory", "256"])
        .resources(|resources| {
            resources.memory_limit_in_bytes = 32 << 20;
            resources.memory_swap_limit_in_bytes = 32 << 20;
        });
    let id = pod.start(&spec).await;
    let status = server.client.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    server.close().await;
}

#[tokio::test]
async fn a_large_environment_arrives() {
    let server = Server::start().await;
    let image = server.probe().await;
    let pod = server.run_pod("environment").await;
    // The kernel takes 128 KiB a string, and a quarter of the stack's limit in all.
    let value = "v".repeat(100_000);
    let mut spec = Container::new("main", &image).args(&["inherit"]);
    for number in 0..18 {
        spec = spec.env(&format!("LARGE_{number}"), &value);
    }
    let (code, output) = pod.finish(&spec).await;
    assert_eq!(code, 0);
    let inherited: Value = serde_json::from_str(&output).unwrap();
    let environment = inherited["env"].as_object().unwrap();
    let large: Vec<_> = environment
        .iter()
        .filter(|(key, _)| key.starts_with("LARGE_"))
        .collect();
    assert_eq!(large.len(), 18);
    assert!(large.iter().all(|(_, text)| text.as_str() == Some(&value)));
    server.close().await;
}

#[tokio::test]
async fn a_terminal_is_a_terminal() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("terminal").await;
    let mut spec =
        Container::new("main", &image).shell("test -t 0 && test -t 1 && test -t 2 && echo tty $TERM");
    spec.0.tty = true;
    let id = pod.start(&spec).await;
    assert_eq!(server.client.exited(&id).await.exit_code, 0);
    let output = pod.logged("main.log", "tty").await;
    assert_eq!(output.trim_end_matches(['\r', '\n']), "tty xterm");
    server.close().await;
}

#[tokio::test]
async fn a_read_only_root_is_read_only() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("read-only").await;
    let spec = Container::new("main", &image)
        .shell("touch /x 2>/dev/null && exit 1; touch /dev/shm/x || exit 2; echo ok > /dev/null")
        .secure(|security| security.readonly_rootfs = true);
    assert_eq!(pod.finish(&spec).await.0, 0);
    server.close().await;
}

#[tokio::test]
async fn writes_stay_in_the_container() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("writes").await;
    let write = Container::new("write", &image).shell("echo changed > /etc/passwd; rm /bin/yes; touch /new");
    assert_eq!(pod.finish(&write).await.0, 0);
    let look = Container::new("look", &image)
        .shell("grep -c root /etc/passwd; ls /bin/yes; ls /new 2>/dev/null; true");
    assert_eq!(pod.finish(&look).await, (0, "1\n/bin/yes\n".to_owned()));
    server.close().await;
}

#[tokio::test]
async fn a_container_can_be_made_again_after_its_removal() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("again").await;
    let mut statuses: Vec<ContainerStatus> = Vec::new();
    for _ in 0..3 {
        let spec = Container::new("main", &image).shell("test -e /mark && exit 1; touch /mark");
        let id = pod.start(&spec).await;
        statuses.push(server.client.exited(&id).await);
        server.client.remove(&id).await.unwrap();
    }
    assert!(
        statuses.iter().all(|status| status.exit_code == 0),
        "each has a fresh root"
    );
    assert!(statuses[0].id != statuses[1].id && statuses[1].id != statuses[2].id);
    server.close().await;
}

/// A file of the cgroup that `pid` is in: of a v1 controller, or with "" of v2.
fn cgroup_file(pid: u32, controller: &str, file: &str) -> Option<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let path = fields.next()?;
        controllers
            .split(',')
            .any(|name| name == controller)
            .then(|| path.to_owned())
    })?;
    let bases = [
        format!("/sys/fs/cgroup/{controller}"),
        "/sys/fs/cgroup/unified".to_owned(),
        "/sys/fs/cgroup".to_owned(),
    ];
    let found = bases
        .iter()
        .map(|base| format!("{base}{path}/{file}"))
        .find(|path| fs::metadata(path).is_ok_and(|m| m.size() < 1 << 20))?;
    Some(fs::read_to_string(found).ok()?.trim().to_owned())
}
