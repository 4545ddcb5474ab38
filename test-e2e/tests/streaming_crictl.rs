//! Exec, attach and port-forward with the real crictl: `crictl/streaming.sh`, which can also be run by hand.

use std::path::Path;
use std::process::Command;

use test_e2e::crictl::crictl;
use test_e2e::harness::Server;

#[tokio::test]
async fn crictl_streams_over_both_transports() {
    let crictl = match crictl() {
        Ok(path) => path,
        Err(why) => return println!("skipped: {why}"),
    };
    let server = Server::start().await;
    let image = server.busybox().await;
    let mut script = Command::new("sh");
    script
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("crictl/streaming.sh"))
        .env("CRICTL", crictl)
        .env("ENDPOINT", format!("unix://{}", server.socket().display()))
        .env("IMAGE", image)
        .env("CGROUP_PARENT", format!("/{}/kubepods", server.cgroup_root()))
        .env("WORK", server.directory());
    let output = server.output(script, Vec::new()).await;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    assert!(said.contains("streaming: done"), "{said}");
    server.close().await;
}
