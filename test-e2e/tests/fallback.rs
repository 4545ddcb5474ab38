//! A data directory that cannot carry overlay, as in a container: pods run all the same.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use test_e2e::harness::Server;
use test_e2e::layout::Settings;
use test_e2e::specs::Container;

/// The data directory becomes a writable overlay itself, which no overlay takes as its upper layer.
fn on_overlay(directory: &Path) {
    let data = directory.join("data");
    let parts = ["lower", "upper", "work"].map(|part| directory.join("overlay").join(part));
    for part in &parts {
        fs::create_dir_all(part).unwrap();
    }
    let [lower, upper, work] = parts.map(|part| part.display().to_string());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    mount(
        Some("overlay"),
        &data,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .expect("an overlay");
}

async fn server() -> Server {
    Settings {
        prepare: Some(Box::new(on_overlay)),
        ..Settings::default()
    }
    .start()
    .await
}

#[tokio::test]
async fn pods_run_without_overlay() {
    let server = server().await;
    let image = server.busybox().await;
    let pod = server.run_pod("fallback").await;
    let write =
        Container::new("write", &image).shell("echo changed > /etc/passwd && cat /etc/passwd && rm /bin/yes");
    assert_eq!(pod.finish(&write).await, (0, "changed\n".to_owned()));
    let look = Container::new("look", &image).shell("grep -c ^root: /etc/passwd; ls /bin/yes");
    assert_eq!(pod.finish(&look).await, (0, "1\n/bin/yes\n".to_owned()));
    let id = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    assert_eq!(
        server
            .client
            .exec(&id, &["/bin/echo", "hi"], 0)
            .await
            .unwrap()
            .stdout,
        b"hi\n"
    );
    server.close().await;
}

#[tokio::test]
async fn the_fallback_is_named() {
    let server = server().await;
    let check = server.cli(&["check"]).await;
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(text.contains("overlay"), "{text}");
    server.close().await;
}

#[tokio::test]
async fn it_survives_a_restart() {
    let mut server = server().await;
    let image = server.busybox().await;
    let pod = server.run_pod("restart").await;
    let id = pod
        .start(&Container::new("main", &image).shell("touch /mark; while :; do sleep 1; done"))
        .await;
    server.kill9().await;
    server.restart().await;
    assert_eq!(
        server
            .client
            .exec(&id, &["/bin/ls", "/mark"], 0)
            .await
            .unwrap()
            .stdout,
        b"/mark\n"
    );
    server.close().await;
}
