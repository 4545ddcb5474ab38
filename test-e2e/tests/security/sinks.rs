//! What a request or an image says, on its way to something of the host: volumes, logs, names.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;
use test_e2e::harness::Server;
use test_e2e::images;
use test_e2e::layers::Layer;
use test_e2e::specs::Container;

use crate::invariant::{HostInvariant, files_below};

/// CVE-2022-23648: a volume that the image declares has what the image has there, never what the host has.
#[tokio::test]
async fn a_declared_volume_copies_nothing_of_the_host() {
    let server = Server::start().await;
    let host = HostInvariant::of(&server);
    let canary = host.canary().display().to_string();
    let layer = Layer::new()
        .file("etc/of-the-image", 0o644, "inside")
        .symlink("escape", &canary)
        .symlink("climb", &format!("../../../../..{canary}"))
        .symlink("etc/link", &format!("{canary}/file"));
    let paths = json!({ "/../../etc": {}, "/escape": {}, "/climb/sub": {}, "../../x/../data": {} });
    let image = images::busybox_builder()
        .layer(layer)
        .config("Volumes", paths)
        .build();
    let image = server.pull("volumes", &image).await;
    let pod = server.run_pod("volumes").await;
    let look = "ls /etc; ls /escape /climb /data; cat /etc/link; find / -xdev -name file -path '*canary*'; \
                for d in /etc /escape /climb/sub /data; do echo x > $d/written; done";
    let id = pod
        .create(&Container::new("main", &image).shell(look))
        .await
        .unwrap();
    server.client.start(&id).await.unwrap();
    server.client.exited(&id).await;
    let log = fs::read_to_string(pod.log("main.log")).unwrap();
    assert!(log.contains("of-the-image"), "{log}");
    let of_host = |line: &str| line.ends_with(" F host") || line.ends_with(" F fstab");
    assert!(!log.lines().any(of_host), "{log}");
    let stored = server.data_dir().join("rw");
    let host_passwd = fs::read("/etc/passwd").unwrap();
    let mut looked = 0;
    for entry in files_below(&stored) {
        if let Ok(content) = fs::read(&entry) {
            looked += 1;
            assert_ne!(content, host_passwd, "{}", entry.display());
            assert_ne!(content, b"host", "{}", entry.display());
        }
    }
    assert!(looked > 0, "the volumes are there");
    host.holds("a declared volume");
    server.close().await;
}

/// CVE-2025-0750: a log is below the pod's log directory, at the start and after each rotation.
#[tokio::test]
async fn logs_stay_below_their_directory() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let host = HostInvariant::of(&server);
    let pod = server.run_pod("logs").await;
    for path in [
        "../escape.log",
        "/etc/escape.log",
        "a/../../escape.log",
        "..",
        "a/..",
    ] {
        let mut container = Container::new("bad", &image);
        container.0.log_path = path.to_owned();
        assert!(pod.create(&container).await.is_err(), "{path:?}");
    }
    let logs = std::path::PathBuf::from(&pod.config.log_directory);
    fs::create_dir_all(&logs).unwrap();
    symlink(host.canary(), logs.join("directory")).unwrap();
    symlink(host.canary().join("file"), logs.join("file.log")).unwrap();
    for (name, path) in [("through", "directory/new.log"), ("over", "file.log")] {
        let mut container = Container::new(name, &image).command(&["/bin/echo", "written"]);
        container.0.log_path = path.to_owned();
        let id = pod.create(&container).await.unwrap();
        assert!(server.client.start(&id).await.is_err(), "{path}");
    }
    let id = pod
        .start(&Container::new("rotated", &image).shell("while usleep 10000; do echo line; done"))
        .await;
    pod.logged("rotated.log", "line").await;
    fs::remove_file(logs.join("rotated.log")).unwrap();
    symlink(host.canary().join("file"), logs.join("rotated.log")).unwrap();
    assert!(server.client.reopen_log(&id).await.is_err());
    server.client.stop(&id, 0).await.unwrap();
    host.holds("a log path");
    server.close().await;
}

/// CVE-2026-53488: labels and annotations are what the request says; an image's are an image's.
#[tokio::test]
async fn labels_of_an_image_stay_in_it() {
    let server = Server::start().await;
    let claims = json!({
        "io.kubernetes.pod.name": "another",
        "io.kubernetes.container.name": "another",
        "crisp.run/sandbox-id": "another",
        "evil": "x",
    });
    let image = images::busybox_builder().config("Labels", claims).build();
    let image = server.pull("labels", &image).await;
    let pod = server.run_pod("labels").await;
    let main = Container::new("main", &image)
        .command(&["/bin/sleep", "100000"])
        .label("io.kubernetes.container.name", "main");
    let id = pod.start(&main).await;
    let status = server.client.container_status(&id).await.unwrap();
    assert_eq!(status.labels, main.0.labels);
    assert!(status.annotations.is_empty(), "{:?}", status.annotations);
    let listed = server.client.containers().await.unwrap();
    assert_eq!(
        (&listed[0].labels, listed[0].annotations.len()),
        (&main.0.labels, 0)
    );
    let info = server.client.container_info(&id).await;
    assert_eq!(info["runtimeSpec"]["annotations"]["crisp.run/sandbox-id"], pod.id);
    assert!(!info["runtimeSpec"].to_string().contains("another"), "{info}");
    server.close().await;
}

/// Ids are ours: a name that is none finds nothing and reaches no file.
#[tokio::test]
async fn a_name_that_is_no_id_finds_nothing() {
    let server = Server::start().await;
    let host = HostInvariant::of(&server);
    let long = "a".repeat(1 << 20);
    for name in [
        "../../etc",
        "..",
        "",
        "*",
        "a/b",
        "%2e%2e",
        "\u{0}",
        "0123456789abcdefg",
        &long,
    ] {
        assert!(server.client.start(name).await.is_err());
        assert!(server.client.container_status(name).await.is_err());
        assert!(server.client.pod_status(name).await.is_err());
        // Stop and remove of what does not exist succeed, and do nothing.
        let _ = (
            server.client.stop(name, 0).await,
            server.client.remove(name).await,
        );
        let _ = (
            server.client.stop_pod(name).await,
            server.client.remove_pod(name).await,
        );
    }
    host.holds("a name");
    server.close().await;
}
