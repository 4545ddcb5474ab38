//! A daemon that has nothing to do is small.

use std::fs;
use std::time::Duration;

use test_e2e::eventually::within;
use test_e2e::harness::Server;

/// Resident code of a process, in KiB.
fn resident_code(pid: u32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("a process");
    let program = fs::read_link(format!("/proc/{pid}/exe")).expect("a process");
    let mut of_program = false;
    let mut resident = 0;
    for line in maps.lines() {
        if let Some(size) = line.strip_prefix("Rss:") {
            let size = size.trim().trim_end_matches(" kB");
            resident += u64::from(of_program) * size.parse::<u64>().expect("KiB");
        } else if line.contains(" r-xp ") || line.contains(" r--p ") || line.contains(" rw-p ") {
            of_program = line.contains(" r-xp ") && line.ends_with(&program.display().to_string());
        }
    }
    resident
}

#[tokio::test]
async fn what_only_the_start_and_a_busy_moment_need_is_given_back() {
    let server = Server::start().await;
    let pid = server.pid();
    for moment in ["start", "pod"] {
        if moment == "pod" {
            let pod = server.run_pod("busy").await;
            server.client.stop_pod(&pod.id).await.unwrap();
            server.client.remove_pod(&pod.id).await.unwrap();
        }
        let busy = resident_code(pid);
        assert!(busy > 2048, "{busy} KiB of code are little after a {moment}");
        within(Duration::from_secs(20), "the daemon is at rest", || async {
            (resident_code(pid) < busy * 2 / 3).then_some(())
        })
        .await;
        // And goes on.
        server.client.pods().await.unwrap();
    }
    server.close().await;
}
