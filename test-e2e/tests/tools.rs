//! The suite's own tools, tried without a server: hosts are apart, registries serve and misbehave.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use test_e2e::cable;
use test_e2e::docker_registry::{DockerRegistry, HttpError, request};
use test_e2e::eventually::until;
use test_e2e::faults::{Fault, On};
use test_e2e::host::Host;
use test_e2e::images::{self, Image};
use test_e2e::layers::Layer;
use test_e2e::registry::Registry;

async fn get(host: &Host, address: SocketAddr, path: String) -> Result<Response<Bytes>, HttpError> {
    host.run(request(address, Method::GET, path, None, Bytes::new()))
        .await
}

fn small_image() -> Image {
    Image::builder()
        .layer(Layer::new().file("a", 0o644, [7; 10_000]))
        .build()
}

#[tokio::test]
async fn hosts_do_not_see_each_other() {
    let (one, two) = (Host::new().await, Host::new().await);
    let first = Registry::start(&one, 5000).await;
    let second = Registry::start(&two, 5000).await;
    first.publish("only/here", "latest", &small_image());
    let path = "/v2/only/here/manifests/latest".to_owned();
    assert_eq!(
        get(&one, first.address(), path.clone()).await.unwrap().status(),
        StatusCode::OK
    );
    assert_eq!(
        get(&two, second.address(), path).await.unwrap().status(),
        StatusCode::NOT_FOUND
    );
    assert_ne!(one.namespace("net"), two.namespace("net"));
    assert!(
        request(
            first.address(),
            Method::GET,
            "/v2/".to_owned(),
            None,
            Bytes::new()
        )
        .await
        .is_err(),
        "the machine's own loopback must not reach it"
    );
}

#[tokio::test]
async fn the_registry_serves_what_was_published() {
    let host = Host::new().await;
    let registry = Registry::start(&host, 0).await;
    let image = small_image();
    registry.publish("team/app", "1.0", &image);
    for name in ["1.0", &image.manifest.digest] {
        let manifest = get(
            &host,
            registry.address(),
            format!("/v2/team/app/manifests/{name}"),
        )
        .await
        .unwrap();
        assert_eq!(manifest.body(), &image.manifest.bytes);
        assert_eq!(manifest.headers()["content-type"], images::MANIFEST);
    }
    let layer = &image.layers[0];
    let blob = get(
        &host,
        registry.address(),
        format!("/v2/team/app/blobs/{}", layer.digest),
    )
    .await
    .unwrap();
    assert_eq!(blob.body(), &layer.bytes);
    assert_eq!(registry.gets(&layer.digest), 1);
    assert_eq!(registry.gets("manifests/1.0"), 1);
}

#[tokio::test]
async fn the_registry_misbehaves_on_request() {
    let host = Host::new().await;
    let registry = Registry::start(&host, 0).await;
    let image = small_image();
    registry.publish("app", "1", &image);
    let layer = &image.layers[0];
    let path = format!("/v2/app/blobs/{}", layer.digest);
    let fetch = || get(&host, registry.address(), path.clone());

    registry.fault(On::AnyBlob, Fault::CutAfter(10), 1);
    assert!(fetch().await.is_err(), "cut");
    registry.fault(On::Blob(layer.digest.clone()), Fault::Corrupt, 1);
    let corrupt = fetch().await.unwrap();
    assert_eq!(corrupt.body().len(), layer.bytes.len());
    assert_ne!(corrupt.body(), &layer.bytes);
    registry.fault(On::AnyBlob, Fault::Short(3), 1);
    assert_eq!(fetch().await.unwrap().body().len(), layer.bytes.len() - 3);
    registry.fault(
        On::AnyBlob,
        Fault::Status(429, vec![("retry-after", "1".to_owned())]),
        1,
    );
    let limited = fetch().await.unwrap();
    assert_eq!(
        (
            limited.status().as_u16(),
            limited.headers()["retry-after"].to_str().unwrap()
        ),
        (429, "1")
    );
    let pause = Duration::from_millis(20);
    registry.fault(
        On::AnyBlob,
        Fault::Trickle {
            piece: layer.bytes.len().div_ceil(4),
            pause,
        },
        1,
    );
    let begun = Instant::now();
    assert_eq!(fetch().await.unwrap().body(), &layer.bytes);
    assert!(begun.elapsed() >= 4 * pause);
    registry.fault(On::AnyBlob, Fault::StallAfter(1), 1);
    let asked = registry.gets(&layer.digest);
    let mut stalled = Box::pin(fetch());
    // The fault is for this request: given up before it was made, it would leave it to the next.
    tokio::select! {
        answer = &mut stalled => panic!("not stalled: {answer:?}"),
        () = until("it is asked", || registry.gets(&layer.digest) > asked) => {}
    }
    assert!(
        tokio::time::timeout(Duration::from_millis(100), stalled)
            .await
            .is_err(),
        "stalled"
    );
    assert_eq!(fetch().await.unwrap().body(), &layer.bytes, "and is well again");
}

#[tokio::test]
async fn the_registry_demands_a_token() {
    let host = Host::new().await;
    let registry = Registry::start(&host, 0).await;
    registry.require("user", "pass:word");
    let refused = get(&host, registry.address(), "/v2/".to_owned()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let challenge = refused.headers()["www-authenticate"].to_str().unwrap().to_owned();
    assert!(
        challenge.starts_with("Bearer realm=\"http://127.0.0.1:"),
        "{challenge}"
    );
    assert_eq!(
        get(&host, registry.address(), "/token".to_owned())
            .await
            .unwrap()
            .status(),
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn a_cable_connects_two_hosts() {
    let (inside, outside) = (Host::new().await, Host::new().await);
    cable::connect(&inside, &outside).await;
    let listener = outside
        .enter(|| std::net::TcpListener::bind("192.0.2.2:7070").unwrap())
        .await;
    let peer = std::thread::spawn(move || listener.accept().unwrap().1.ip().to_string());
    inside
        .enter(|| drop(std::net::TcpStream::connect("192.0.2.2:7070").unwrap()))
        .await;
    assert_eq!(peer.join().unwrap(), "192.0.2.1");
    cable::cut(&inside).await;
}

/// The probe says what it inherits, and its scan finds what it is made to find.
#[tokio::test]
async fn the_probe_sees() {
    let directory = tempfile::tempdir().unwrap();
    let probe = || std::process::Command::new(test_e2e::built::probe());
    let inherited = probe().arg("inherit").env("MARK", "1").output().unwrap();
    let inherited: serde_json::Value = serde_json::from_slice(&inherited.stdout).unwrap();
    assert_eq!(inherited["env"]["MARK"], "1");
    assert!(inherited["fds"]["0"].as_str().is_some());
    assert!(inherited["limits"]["Max open files"][0].as_str().is_some());

    // In a pid namespace that shares our root, a sibling shows the host's files, and holds the secret.
    let (canary, stop) = (directory.path().join("canary"), directory.path().join("stop"));
    std::fs::write(&canary, "").unwrap();
    let line = "SECRET=a-secret-to-find-91 sh -c 'touch \"$1\"; exec \"$0\" sleep' \"$0\" \"$2\" & \
                exec \"$0\" scan \"$1\" 19-dnif-ot-terces-a \"$2\"";
    let output = std::process::Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "sh", "-c", line])
        .args([test_e2e::built::probe(), canary, stop])
        .output()
        .unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    for finding in [
        "root shows the host",
        "cwd shows the host",
        "another container's secret",
    ] {
        assert!(report.contains(finding), "{finding}: {report}");
    }
}

#[tokio::test]
async fn docker_registry_takes_and_gives_images() {
    let host = Host::new().await;
    let registry = DockerRegistry::start(&host, 5001).await;
    let image = small_image();
    let reference = registry.push(&host, "library/app", "1.0", &image).await;
    assert_eq!(reference, "127.0.0.1:5001/library/app:1.0");
    let layer = &image.layers[0];
    let blob = get(
        &host,
        registry.address(),
        format!("/v2/library/app/blobs/{}", layer.digest),
    )
    .await
    .unwrap();
    assert_eq!((blob.status(), blob.body()), (StatusCode::OK, &layer.bytes));
}
