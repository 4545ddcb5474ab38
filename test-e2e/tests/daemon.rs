//! What the daemon takes of the node: memory when it is busy, and open files.

use std::fs;

use test_e2e::harness::Server;
use test_e2e::images::Image;
use test_e2e::layers::{Compression, Layer};
use test_e2e::layout::Settings;
use test_e2e::specs::Container;

const MIB: u64 = 1 << 20;
/// What pulls may take over what the daemon takes when idle.
const MOST: u64 = 64 * MIB;
/// At the same time, more than fit.
const PULLS: u64 = 12;
/// Of a layer: several times its window.
const SIZE: u64 = 24 * MIB;

/// Bytes that do not compress.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(SIZE as usize);
    while (bytes.len() as u64) < SIZE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// A layer of its own for each number, with the largest window that every decoder has to support.
fn image(number: u64, noise: &[u8]) -> Image {
    let layer = Layer::new()
        .file("number", 0o644, number.to_string())
        .file("noise", 0o644, noise);
    Image::builder()
        .layer_as(layer, Compression::ZstdWindow(23))
        .build()
}

/// A line of proc_pid_status(5) in kB, in bytes.
fn status(server: &Server, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    number.unwrap_or_else(|| panic!("{key} in {text}")) << 10
}

#[tokio::test]
async fn pulls_keep_within_their_budget_however_many_there_are() {
    let server = Server::start().await;
    // The code that pulls is in memory from then on.
    let noise = noise();
    server.pull("first", &image(PULLS, &noise)).await;
    let names: Vec<String> = (0..PULLS)
        .map(|number| {
            server
                .registry
                .publish(&format!("app{number}"), "v1", &image(number, &noise))
        })
        .collect();
    let (idle, code) = (status(&server, "VmRSS"), status(&server, "RssFile"));
    // The peak begins anew (proc_pid_clear_refs(5)).
    fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").unwrap();
    let pulls = names.iter().map(|name| server.client.pull(name));
    for pulled in futures::future::join_all(pulls).await {
        pulled.unwrap();
    }
    // Code that was given back at rest, and is used again, is not the pulls'.
    let code = status(&server, "RssFile").saturating_sub(code);
    let over = status(&server, "VmHWM").saturating_sub(idle + code);
    assert!(over < MOST, "{} MiB over idle ({} MiB)", over / MIB, idle / MIB);
    server.close().await;
}

/// Soft and hard limit of open files of a process.
fn open_files(pid: u32) -> [u64; 2] {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    let mut numbers = line
        .unwrap()
        .split_whitespace()
        .map(|number| number.parse().unwrap_or(u64::MAX));
    [(); 2].map(|()| numbers.next().unwrap())
}

/// A shell's soft limit of 1024 or less is soon used up by streams; what containers begin with is another matter.
#[tokio::test]
async fn daemon_and_supervisors_may_open_as_many_files_as_there_are_and_containers_as_configured() {
    let wrapper = ["sh", "-c", "ulimit -Sn 128; exec \"$@\"", "sh"];
    let settings = Settings {
        wrapper: wrapper.map(str::to_owned).to_vec(),
        config: "[limits]\nopen_files_soft = 300\nopen_files_hard = 400\n".to_owned(),
        ..Settings::default()
    };
    let server = settings.start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("files").await;
    let [_, hard] = open_files(std::process::id());
    assert_eq!(open_files(server.pid()), [hard, hard]);
    let id = pod
        .start(&Container::new("main", &image).shell("sleep 100000"))
        .await;
    let supervisors: Vec<u32> = server
        .processes()
        .into_iter()
        .filter(|(_, what)| what.starts_with("[crisp-pod]"))
        .map(|(pid, _)| pid.unsigned_abs())
        .collect();
    assert!(!supervisors.is_empty());
    for supervisor in supervisors {
        assert_eq!(open_files(supervisor), [hard, hard]);
    }
    assert_eq!(open_files(server.client.container_pid(&id).await), [300, 400]);
    let looked = server
        .client
        .exec(&id, &["/bin/sh", "-c", "ulimit -Sn; ulimit -Hn"], 20)
        .await;
    assert_eq!(looked.unwrap().stdout, b"300\n400\n");
    server.close().await;
}
