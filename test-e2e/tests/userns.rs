//! Pods with a user namespace of their own: root inside is nobody outside, and everything that it needs is its own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use k8s_cri::v1::{IdMapping, NamespaceMode, NamespaceOption, UserNamespace};
use test_e2e::harness::Server;
use test_e2e::images;
use test_e2e::layers::{self, Layer};
use test_e2e::layout::Settings;
use test_e2e::specs::{Container, Pod};

const HOST: u32 = 1_234_560;
const LENGTH: u32 = 65_536;

fn ids() -> Vec<IdMapping> {
    vec![IdMapping {
        host_id: HOST,
        container_id: 0,
        length: LENGTH,
    }]
}

fn own_users(options: &mut NamespaceOption) {
    options.userns_options = Some(UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: ids(),
        gids: ids(),
    });
}

fn pod(server: &Server, name: &str) -> Pod {
    server.pod(name).namespaces(own_users)
}

fn container(name: &str, image: &str) -> Container {
    Container::new(name, image)
        .secure(|security| own_users(security.namespace_options.get_or_insert_default()))
}

/// A volume with the mapping that kubelet gives to all volumes of such a pod.
fn mapped(mut container: Container, host: &Path, target: &str) -> Container {
    container = container.mount(host, target);
    let mount = container.0.mounts.last_mut().expect("just pushed");
    (mount.uid_mappings, mount.gid_mappings) = (ids(), ids());
    container
}

#[tokio::test]
async fn root_inside_is_nobody_outside() {
    let server = Server::start().await;
    let volume = server.directory().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("roots"), "host").unwrap();
    let image = images::busybox_builder()
        .layer(
            Layer::new()
                .owned_by(1000, 1000)
                .file("home/file", 0o640, "its own"),
        )
        .layer(Layer::new().owned_by(0, 0).file("etc/secret", 0o600, "of root"))
        .build();
    let image = server.pull("userns", &image).await;
    let pod = server.run(&pod(&server, "users")).await.unwrap();

    let look = "
        exec 2>&1
        cat /proc/self/uid_map /proc/self/gid_map
        stat -c '%n %u:%g' / /etc/secret /home/file /data/roots /dev/shm /dev/null /dev /etc/hosts /proc/self/status
        cat /etc/secret > /dev/null
        echo written > /etc/new; echo written > /data/new; echo written > /dev/shm/new
        chown 1000:1000 /data/new
        echo 80 > /proc/sys/net/ipv4/ip_unprivileged_port_start
        ls /sys/class/net | tr '\\n' ' '; ls -d /dev/mqueue
        echo x > /dev/null; head -c 1 /dev/zero | wc -c
        mknod /dev/sda b 8 0 2>/dev/null && echo may make devices
        test -e /proc/sys/kernel/core_pattern && sh -c 'echo x > /proc/sys/kernel/core_pattern' 2>/dev/null && echo may write core_pattern
        sleep 100000";
    let look = look.replace("| tr '\\n' ' '", "");
    let main = mapped(container("main", &image).shell(&look), &volume, "/data")
        .secure(|security| security.readonly_paths = vec!["/proc/bus".into()])
        .capabilities(&["NET_ADMIN"], &[]);
    let id = pod.start(&main).await;
    let output = pod.logged("main.log", "/dev/mqueue\n1\n").await;
    assert!(!output.contains("may ") && !output.contains("denied"), "{output}");
    let words: Vec<_> = output.split_whitespace().take(6).collect();
    let (host, length) = (HOST.to_string(), LENGTH.to_string());
    assert_eq!(words, ["0", &host, &length, "0", &host, &length]);
    for owned in [
        "/ 0:0",
        "/etc/secret 0:0",
        "/home/file 1000:1000",
        "/data/roots 0:0",
        "/dev/shm 0:0",
        "/dev/null 0:0",
        "/dev 0:0",
        "/etc/hosts 0:0",
        "/proc/self/status 0:0",
        "eth0",
    ] {
        assert!(output.lines().any(|line| line == owned), "{owned}:\n{output}");
    }

    let pid = server.client.container_pid(&id).await;
    let process = fs::metadata(format!("/proc/{pid}")).unwrap();
    assert_eq!(
        (process.uid(), process.gid()),
        (HOST, HOST),
        "the process on the host"
    );
    let new = fs::metadata(volume.join("new")).unwrap();
    assert_eq!(
        (new.uid(), new.gid()),
        (1000, 1000),
        "stored as the container sees it"
    );
    assert_eq!(
        fs::metadata(volume.join("roots")).unwrap().uid(),
        0,
        "and never changed"
    );

    let exec = server
        .client
        .exec(
            &id,
            &[
                "/bin/sh",
                "-c",
                "id -u; cat /etc/new /proc/self/uid_map; echo more >> /data/roots",
            ],
            0,
        )
        .await
        .unwrap();
    let text = String::from_utf8(exec.stdout).unwrap();
    assert!(
        text.starts_with("0\nwritten\n") && text.contains(&host),
        "{text} {:?}",
        exec.stderr
    );
    assert_eq!(fs::read_to_string(volume.join("roots")).unwrap(), "hostmore\n");

    let status = server.client.pod_status(&pod.id).await.unwrap();
    let reported = status
        .linux
        .unwrap()
        .namespaces
        .unwrap()
        .options
        .unwrap()
        .userns_options
        .unwrap();
    assert_eq!((reported.mode(), reported.uids), (NamespaceMode::Pod, ids()));
    let reported = server.client.container_status(&id).await.unwrap().mounts;
    assert_eq!(reported[0].uid_mappings, ids());

    server.client.stop(&id, 0).await.unwrap();
    assert_eq!(server.client.exited(&id).await.exit_code, 137);
    server.close().await;
}

/// Either format of layers, and a daemon that dies twice: once while the pod runs, once while a container waits.
#[tokio::test]
async fn another_daemon_takes_a_pod_with_users_over() {
    for format in layers::formats() {
        let settings = Settings {
            config: format!("[image]\nlayer_format = \"{format}\"\n"),
            ..Settings::default()
        };
        let mut server = settings.start().await;
        let layer = Layer::new()
            .owned_by(1000, 1000)
            .file("home/file", 0o640, "its own")
            .owned_by(0, 0)
            .file("etc/secret", 0o600, "of root");
        let image = images::busybox_builder()
            .layer(layer)
            .config("Volumes", serde_json::json!({ "/home": {} }))
            .build();
        let image = server.pull("users", &image).await;
        let pod = server.run(&pod(&server, "users").shared_pid()).await.unwrap();
        let look = "cat /etc/secret > /dev/null && stat -c '%n %u:%g' / /etc/secret /home/file /dev/shm; \
                    echo kept > /etc/new; busybox tr -s ' ' < /proc/self/uid_map";
        let expected =
            format!("/ 0:0\n/etc/secret 0:0\n/home/file 1000:1000\n/dev/shm 0:0\n 0 {HOST} {LENGTH}\n");
        let stays = container("stays", &image)
            .shell(&format!("{look}; while :; do sleep 1; done"))
            .shared_pid();
        let stays = pod.start(&stays).await;
        assert_eq!(pod.logged("stays.log", "1234560").await, expected, "{format}");
        let waits = container("waits", &image).shell(look).shared_pid();
        let waits = pod.create(&waits).await.unwrap();

        server.kill9().await;
        server.restart().await;
        let exec = ["/bin/sh", "-c", "cat /etc/new; id -u; cat /etc/secret"];
        let done = server.client.exec(&stays, &exec, 0).await.unwrap();
        assert_eq!(
            String::from_utf8(done.stdout).unwrap(),
            "kept\n0\nof root",
            "{format}"
        );
        server.client.start(&waits).await.unwrap();
        assert_eq!(server.client.exited(&waits).await.exit_code, 0, "{format}");
        assert_eq!(pod.logged("waits.log", "1234560").await, expected, "{format}");

        server.kill9().await;
        server.restart().await;
        assert_eq!(
            pod.finish(&container("new", &image).shell(look)).await,
            (0, expected),
            "{format}"
        );
        let status = server.client.pod_status(&pod.id).await.unwrap();
        let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
        assert_eq!(options.userns_options.unwrap().uids, ids());
        server.client.stop(&stays, 0).await.unwrap();
        assert_eq!(server.client.exited(&stays).await.exit_code, 137, "{format}");
        server.close().await;
    }
}

#[tokio::test]
async fn ports_users_and_a_shared_pid_namespace_work_inside() {
    let server = Server::start().await;
    let image = server.probe().await;
    let pod = server
        .run(
            &pod(&server, "shared")
                .shared_pid()
                .sysctl("kernel.shmmni", "77")
                .sysctl("net.ipv4.ip_unprivileged_port_start", "1024"),
        )
        .await
        .unwrap();
    let web = container("web", &image).args(&["serve", "80"]).shared_pid();
    let web = pod.start(&web).await;
    pod.logged("web.log", "listening").await;
    let user = container("user", &image)
        .shell("id -u; id -g; cat /proc/sys/kernel/shmmni; ls /proc | grep -c '^[0-9]'; touch /dev/shm/mine; stat -c %u /dev/shm/mine; echo to-stdout > /proc/self/fd/1")
        .user(1000, Some(2000))
        .shared_pid();
    let (code, output) = pod.finish(&user).await;
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(code, 0, "{output}");
    assert_eq!((lines[0], lines[1], lines[2]), ("1000", "2000", "77"));
    assert!(
        lines[3].parse::<u32>().unwrap() >= 3,
        "it sees the others: {output}"
    );
    assert_eq!((lines[4], lines[5]), ("1000", "to-stdout"));
    let address = format!("{}:80", pod.ip().await);
    let answer = server
        .client
        .exec(&web, &["/probe", "connect", &address], 0)
        .await
        .unwrap();
    assert_eq!(answer.exit_code, 0, "{answer:?}");
    // A terminal is allocated on the pod's own devpts.
    let mut terminal = container("terminal", &image).shell("stat -c %u $(readlink /proc/self/fd/0)");
    terminal.0.tty = true;
    let (code, output) = pod.finish(&terminal).await;
    assert_eq!((code, output.trim()), (0, "0"));
    server.close().await;
}

#[tokio::test]
async fn what_contradicts_itself_is_refused_by_name() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let on_host = pod(&server, "host").host_network();
    let refused = server.run(&on_host).await.err().expect("refused");
    assert!(
        refused.message().contains("namespace_options.network"),
        "{refused}"
    );
    let two = pod(&server, "two").namespaces(|options| {
        options.userns_options.as_mut().unwrap().uids.push(IdMapping {
            host_id: 5_000_000,
            container_id: 65_536,
            length: 1,
        });
    });
    let refused = server.run(&two).await.err().expect("refused");
    assert!(refused.message().contains("userns_options.uids"), "{refused}");

    let pod = server.run(&pod(&server, "good")).await.unwrap();
    let refused = pod.create(&Container::new("other", &image)).await.unwrap_err();
    assert!(refused.message().contains("userns_options"), "{refused}");
    let stranger = container("stranger", &image).user(70_000, None);
    let refused = pod.create(&stranger).await.unwrap_err();
    assert!(refused.message().contains("uid"), "{refused}");
    assert!(
        server.client.containers().await.unwrap().is_empty(),
        "nothing half-made"
    );
    server.close().await;
}

#[tokio::test]
async fn status_says_whether_there_are_any() {
    let server = Server::start().await;
    let status = server
        .client
        .runtime
        .clone()
        .status(k8s_cri::v1::StatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    for handler in status.runtime_handlers {
        let features = handler.features.unwrap();
        assert!(
            features.user_namespaces && features.recursive_read_only_mounts,
            "{}",
            handler.name
        );
    }
    server.close().await;
}
