//! Logs on a disk that stops taking anything: what its containers and their siblings feel of it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use test_e2e::disk::Disk;
use test_e2e::eventually::until;
use test_e2e::layout::Settings;
use test_e2e::logs;
use test_e2e::specs::Container;

/// Counts without end, a line each.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo line $i; usleep 500; done";

/// Whole lines so far.
fn length(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap_or_default();
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

#[tokio::test]
async fn a_frozen_disk_parks_only_the_output_of_its_containers() {
    let settings = Settings {
        prepare: Some(Disk::preparation()),
        ..Settings::default()
    };
    let server = settings.start().await;
    let image = server.busybox().await;
    let mut disk = Disk::of(&server.host, server.directory()).await;
    let pod = server.pod("frozen").log_directory(server.directory());
    let pod = server.run(&pod).await.expect("the pod runs");
    let mut parked = Container::new("parked", &image).shell(COUNTER);
    parked.0.log_path = "disk/parked.log".to_owned();
    let parked = pod.start(&parked).await;
    let mut sibling = Container::new("sibling", &image).shell(COUNTER);
    sibling.0.log_path = "sibling.log".to_owned();
    let sibling_log = pod.log("sibling.log");
    let sibling = pod.start(&sibling).await;
    let parked_log = server.host.path(disk.directory.join("parked.log"));
    until("the log on the disk grows", || length(&parked_log) > 10).await;

    disk.freeze();
    let before = length(&sibling_log);
    until("the sibling's log goes on", || {
        length(&sibling_log) > before + 100
    })
    .await;
    let answer = server.client.exec(&parked, &["/bin/echo", "hi"], 20).await;
    assert_eq!(answer.unwrap().stdout, b"hi\n");
    server.client.stop(&sibling, 0).await.unwrap();
    let short = Container::new("short", &image).shell("exit 4");
    assert_eq!(pod.finish(&short).await.0, 4, "containers come and go");
    let asked = Instant::now();
    server.client.stop(&parked, 0).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(9), "{:?}", asked.elapsed());
    assert_eq!(
        server.client.container_status(&parked).await.unwrap().exit_code,
        137
    );

    disk.thaw();
    // What the container had written by then comes when the disk does.
    until("the last line", || {
        let bytes = fs::read(&parked_log).unwrap_or_default();
        bytes.len() > 100 && bytes.ends_with(b"\n")
    })
    .await;
    let text = String::from_utf8(logs::stream(&logs::read(&parked_log), "stdout")).unwrap();
    let lines: Vec<_> = text.lines().collect();
    for (number, line) in (1..).zip(&lines[..lines.len() - 1]) {
        assert_eq!(*line, format!("line {number}"));
    }
    server.close().await;
}
