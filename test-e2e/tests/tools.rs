//! The suite's own tools, tried without a server: hosts are apart, registries serve and misbehave.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use test_e2e::docker_registry::{DockerRegistry, HttpError, request};
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
    assert!(
        tokio::time::timeout(Duration::from_millis(100), fetch())
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
