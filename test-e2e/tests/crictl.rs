//! The real crictl: the main path, and streaming. `crictl/*.sh` can also be run by hand.

use test_e2e::crictl::{crictl, walk};
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
    walk(&server, &crictl, "main-path", &image).await;
    drop(registry);
    server.close().await;
}

#[tokio::test]
async fn crictl_streams_over_both_transports() {
    let crictl = match crictl() {
        Ok(path) => path,
        Err(why) => return println!("skipped: {why}"),
    };
    let server = Server::start().await;
    let image = server.busybox().await;
    walk(&server, &crictl, "streaming", &image).await;
    server.close().await;
}
