//! The real crictl walks the main path: `crictl/main-path.sh`, which can also be run by hand.

use std::path::Path;
use std::process::Command;

use test_e2e::crictl::crictl;
use test_e2e::docker_registry::DockerRegistry;
use test_e2e::harness::Server;
use test_e2e::images;
use test_e2e::layout::DOCKER_REGISTRY_PORT;

#[tokio::test]
async fn crictl_walks_the_main_path() {
    let crictl = match crictl() {
        Ok(path) => path,
        Err(why) => return println!("skipped: {why}"),
    };
    let server = Server::start().await;
    let registry = DockerRegistry::start(&server.host, DOCKER_REGISTRY_PORT).await;
    let image = registry
        .push(&server.host, "library/busybox", "1.35", images::busybox())
        .await;
    let mut script = Command::new("sh");
    script
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("crictl/main-path.sh"))
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
    assert!(said.contains("main path: done"), "{said}");
    drop(registry);
    server.close().await;
}
