//! A volume on a file system that never answers: a FUSE mount that nobody serves.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use k8s_cri::v1::ContainerState;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use test_e2e::eventually::{eventually, stretched};
use test_e2e::harness::Server;
use test_e2e::specs::Container;

/// Mounts it; whoever looks at it waits until the descriptor is closed.
fn hang_at(path: &Path) -> File {
    fs::create_dir_all(path).unwrap();
    let fuse = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
    mount(
        Some("hangs"),
        path,
        Some("fuse"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .unwrap();
    fuse
}

#[tokio::test]
async fn it_delays_nobody_else_and_is_seen_and_can_be_stopped() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let dead = server.directory().join("dead");
    let at = dead.clone();
    let fuse = server.host.enter(move || hang_at(&at)).await;
    let volume = dead.join("volume");

    let pod = server.run_pod("hangs").await;
    let hanging = Container::new("hanging", &image)
        .command(&["/bin/true"])
        .mount(&volume, "/v");
    let hanging = pod.create(&hanging).await.unwrap();
    let (client, id) = (server.client.clone(), hanging.clone());
    let start = tokio::spawn(async move { client.start(&id).await });

    let shown = volume.display().to_string();
    eventually("the volume is named by `crisp status`", || async {
        let status = server.cli(&["status"]).await;
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        text.contains(&shown).then_some(())
    })
    .await;
    // Others, also of the same pod, are not held up.
    let other = Container::new("other", &image).command(&["/bin/echo", "runs"]);
    assert_eq!(pod.finish(&other).await, (0, "runs\n".to_owned()));
    assert_eq!(
        server.client.container_status(&hanging).await.unwrap().state(),
        ContainerState::ContainerCreated
    );

    let before = Instant::now();
    server.client.stop(&hanging, 1).await.unwrap();
    assert!(
        before.elapsed() < stretched(Duration::from_secs(20)),
        "{:?}",
        before.elapsed()
    );
    let status = server.client.container_status(&hanging).await.unwrap();
    assert_eq!(
        (status.state(), status.exit_code, status.message.as_str()),
        (
            ContainerState::ContainerExited,
            128,
            "stopped before it was started"
        )
    );
    server.client.remove(&hanging).await.unwrap();

    drop(fuse);
    assert!(start.await.unwrap().is_err(), "what was removed never starts");
    assert!(
        server
            .client
            .containers()
            .await
            .unwrap()
            .iter()
            .all(|c| c.id != hanging)
    );
    server
        .host
        .enter(move || umount2(&dead, MntFlags::MNT_DETACH).unwrap())
        .await;
    server.close().await;
}
