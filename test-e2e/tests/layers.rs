//! Layers as EROFS images, under running pods.

use std::fs;
use std::path::Path;

use test_e2e::harness::Server;
use test_e2e::images::busybox_builder;
use test_e2e::layers::{Compression, Layer, are_images_stackable};
use test_e2e::layout::Settings;
use test_e2e::specs::Container;

const MIB: u64 = 1 << 20;
/// Of the file that all pods read.
const SIZE: u64 = 16 * MIB;

/// None where the kernel cannot, and the test is left out.
async fn server() -> Option<Server> {
    let settings = Settings {
        config: "[image]\nlayer_format = \"erofs\"\n".into(),
        ..Settings::default()
    };
    match are_images_stackable() {
        true => Some(settings.start().await),
        false => None,
    }
}

/// Bytes that no file system stores as a hole.
fn noise(size: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size as usize);
    while (bytes.len() as u64) < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// Page cache charged to everything of this server, in bytes; none before its first pod.
fn page_cache(server: &Server) -> u64 {
    let (v1, v2) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
    let (tree, key) = if v1.exists() {
        (v1, "total_cache ")
    } else {
        (v2, "file ")
    };
    let cgroup = tree.join(server.cgroup_root());
    if !cgroup.exists() {
        return 0;
    }
    let text = fs::read_to_string(cgroup.join("memory.stat")).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.parse().ok());
    value.unwrap_or_else(|| panic!("{key} in {text}"))
}

#[tokio::test]
async fn containers_run_on_mounted_layers() {
    let Some(mut server) = server().await else {
        return;
    };
    let image = busybox_builder()
        .layer(
            Layer::new()
                .file("etc/motd", 0o644, "below")
                .file("etc/gone", 0o644, "x"),
        )
        .layer(
            Layer::new()
                .whiteout("etc/gone")
                .file("etc/motd", 0o4755, "above"),
        )
        .build();
    let image = server.pull("layered", &image).await;
    let pod = server.run_pod("erofs").await;
    let look = Container::new("look", &image).shell(
        "cat /etc/motd; stat -c ' %a' /etc/motd; ls /etc/gone 2>&1; echo mine > /etc/motd && cat /etc/motd",
    );
    let (code, said) = pod.finish(&look).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        said,
        "above 4755\nls: /etc/gone: No such file or directory\nmine\n"
    );
    let other = Container::new("other", &image).shell("cat /etc/motd; grep -c erofs /proc/mounts");
    assert_eq!(
        pod.finish(&other).await,
        (1, "above0\n".to_owned()),
        "its own writable layer"
    );

    let id = pod
        .start(&Container::new("stays", &image).shell("while :; do sleep 1; done"))
        .await;
    server.kill9().await;
    server.restart().await;
    let read = ["/bin/cat", "/etc/motd"];
    assert_eq!(server.client.exec(&id, &read, 0).await.unwrap().stdout, b"above");
    let again = Container::new("again", &image).shell("cat /etc/motd");
    assert_eq!(pod.finish(&again).await, (0, "above".to_owned()));
    server.close().await;
}

/// Two mounts of one image would each have a page cache of their own.
#[tokio::test]
async fn twenty_pods_share_one_page_cache() {
    let Some(mut server) = server().await else {
        return;
    };
    let image = busybox_builder()
        .layer_as(Layer::new().file("big", 0o644, noise(SIZE)), Compression::None)
        .build();
    let image = server.pull("big", &image).await;
    let read = Container::new("read", &image).shell("cat /big > /dev/null; while :; do sleep 1; done");
    let read_all = ["/bin/sh", "-c", "cat /big > /dev/null"];
    let before = page_cache(&server);
    let mut first = 0;
    for number in 0..20 {
        if number == 10 {
            // The next daemon must find the mounts of the last.
            server.kill9().await;
            server.restart().await;
        }
        let pod = server.run_pod(&format!("pod{number}")).await;
        let id = pod.start(&read).await;
        let done = server.client.exec(&id, &read_all, 0).await.unwrap();
        assert_eq!(done.exit_code, 0);
        if number == 0 {
            first = page_cache(&server).saturating_sub(before);
            assert!(first >= SIZE, "one pod brings in the file: {first}");
        }
    }
    let all = page_cache(&server).saturating_sub(before);
    println!(
        "page cache of 1 pod: {} KiB, of 20 pods: {} KiB",
        first >> 10,
        all >> 10
    );
    assert!(all * 10 <= first * 11, "1 pod: {first}, 20 pods: {all}");
    server.close().await;
}

/// As agents of a node do, which are shown all of it: the pinned namespace must not come along.
#[tokio::test]
async fn a_container_may_be_shown_the_daemons_directories() {
    let Some(server) = server().await else {
        return;
    };
    let image = server.busybox().await;
    let directory = server.directory().to_owned();
    let pod = server.run_pod("shown").await;
    // Which namespace counts as the older one depends on the processor: see image/src/layer/pin.rs.
    for number in 0..8 {
        let line = "ls /shown/state/layers; grep -c ' /shown.*nsfs' /proc/self/mountinfo";
        let look = Container::new(&format!("look-{number}"), &image)
            .mount(&directory, "/shown")
            .shell(line);
        let (_, output) = pod.finish(&look).await;
        assert_eq!(output, "0\n", "an empty directory, and no namespace");
    }
    server.close().await;
}
