//! Logs on a disk that stops taking anything: what its containers and their siblings feel of it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use test_e2e::disk::Disk;
use test_e2e::eventually::{stretched, until};
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
    assert!(
        asked.elapsed() < stretched(Duration::from_secs(9)),
        "{:?}",
        asked.elapsed()
    );
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

/// Threads of the daemon that sleep in the kernel where no signal wakes them.
fn stuck_threads(daemon: u32) -> usize {
    let threads = fs::read_dir(format!("/proc/{daemon}/task")).unwrap();
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("stat")).ok())
        .filter(|stat| stat.contains(") D "))
        .count()
}

/// Kubelet has renamed a log when its disk freezes; it asks for a new file, and asks again.
#[tokio::test]
async fn rotations_on_a_frozen_disk_hold_one_thread_and_nobody_else() {
    const ASKED: usize = 12;
    let settings = Settings {
        prepare: Some(Disk::preparation()),
        ..Settings::default()
    };
    let server = settings.start().await;
    let image = server.busybox().await;
    let mut disk = Disk::of(&server.host, server.directory()).await;
    let pod = server.pod("rotated").log_directory(server.directory());
    let pod = server.run(&pod).await.expect("the pod runs");
    let counter = |name: &str, log: &str| {
        let mut counter = Container::new(name, &image).shell(COUNTER);
        counter.0.log_path = log.to_owned();
        counter
    };
    let parked = pod.start(&counter("parked", "disk/parked.log")).await;
    let sibling = pod.start(&counter("sibling", "sibling.log")).await;
    let (log, sibling_log) = (
        server.host.path(disk.directory.join("parked.log")),
        pod.log("sibling.log"),
    );
    until("the log on the disk grows", || length(&log) > 10).await;
    let rotated = log.with_extension("log.1");
    fs::rename(&log, &rotated).unwrap();

    disk.freeze();
    let asking: Vec<_> = (0..ASKED)
        .map(|_| {
            let (client, parked) = (server.client.clone(), parked.clone());
            tokio::spawn(async move { client.reopen_log(&parked).await })
        })
        .collect();
    // The new file cannot be made: one of them waits for the disk. All others are told so at once.
    until("the others are answered", || {
        asking.iter().filter(|asked| asked.is_finished()).count() >= ASKED - 1
    })
    .await;
    assert!(stuck_threads(server.pid()) <= 1);
    // Everything else goes on: the sibling's log and its rotation, execs, new containers, stops.
    let before = length(&sibling_log);
    until("the sibling's log goes on", || length(&sibling_log) > before + 50).await;
    fs::rename(&sibling_log, sibling_log.with_extension("log.1")).unwrap();
    server.client.reopen_log(&sibling).await.unwrap();
    until("the sibling's new log grows", || length(&sibling_log) > 10).await;
    for id in [&parked, &sibling] {
        let answer = server.client.exec(id, &["/bin/echo", "hi"], 20).await;
        assert_eq!(answer.unwrap().stdout, b"hi\n");
    }
    let short = Container::new("short", &image).shell("exit 4");
    assert_eq!(pod.finish(&short).await.0, 4, "containers come and go");
    let asked = Instant::now();
    server.client.stop(&sibling, 0).await.unwrap();
    assert!(
        asked.elapsed() < stretched(Duration::from_secs(9)),
        "{:?}",
        asked.elapsed()
    );
    assert!(!log.exists(), "the file that was asked for");

    disk.thaw();
    let mut reopened = 0;
    for asked in asking {
        match asked.await.unwrap() {
            Ok(()) => reopened += 1,
            Err(refused) => assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}"),
        }
    }
    assert!(reopened > 0, "who waited for the disk got the new file");
    until("the new log grows", || length(&log) > 10).await;
    server.client.stop(&parked, 0).await.unwrap();
    // Neither file has torn a line, and none is missing between them.
    let text: Vec<u8> = [&rotated, &log]
        .into_iter()
        .flat_map(|file| logs::stream(&logs::read(file), "stdout"))
        .collect();
    let text = String::from_utf8(text).unwrap();
    for (number, line) in (1..).zip(text.lines()) {
        assert_eq!(line, format!("line {number}"));
    }
    server.close().await;
}
