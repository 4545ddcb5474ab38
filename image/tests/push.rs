//! Pushes to registries that want to know who is there, are overloaded, or go away in the middle.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Method;
use image::digest::Digest;
use image::{Credentials, ErrorKind, ImportOptions, PushProgress, PushRequest, Store};
use support::images::{Layer, Tar, TestImage, layout};
use support::open;
use support::registry::{self, Answer, Seen, TestRegistry};

fn image() -> TestImage {
    let noise = |seed: u64| {
        (0..400_000_u64)
            .map(|n| (n.wrapping_mul(seed) >> 7) as u8)
            .collect::<Vec<u8>>()
    };
    let layer = |seed| Layer::gzip(&Tar::default().file(&format!("f{seed}"), noise(seed)).finish());
    TestImage::new(vec![layer(2_654_435_761), layer(40_503_001)])
}

async fn stored(folder: &std::path::Path) -> Store {
    let store = open(folder).await;
    let archive = layout(&[("app:1", &image())]);
    store
        .import(&archive[..], ImportOptions::default())
        .await
        .unwrap();
    store
}

fn request(registry: &TestRegistry, credentials: Credentials) -> PushRequest {
    PushRequest {
        image: "app:1".into(),
        destination: registry.reference("team/app:1"),
        credentials,
    }
}

async fn push(store: &Store, registry: &TestRegistry) -> Result<Digest, image::Error> {
    let request = request(registry, Credentials::Anonymous);
    store.push(request, Arc::new(PushProgress::default())).await
}

/// All that the manifest names is there, and it is the image that was pushed.
fn check(registry: &TestRegistry, digest: &Digest) {
    let (_, bytes) = registry.manifest("team/app:1").expect("a manifest");
    assert!(digest.matches(&bytes));
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap();
    assert_eq!(registry.blob(config), Some(image().config));
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    for layer in layers {
        let blob = registry.blob(layer["digest"].as_str().unwrap()).expect("a layer");
        assert_eq!(layer["size"].as_u64(), Some(blob.len() as u64));
    }
}

/// Picks requests.
type At = fn(&Seen) -> bool;

fn is_upload(seen: &Seen) -> bool {
    seen.method == Method::PUT && seen.path.contains("/blobs/uploads/")
}

#[tokio::test]
async fn a_push_asks_for_a_token_that_may_push() {
    let folder = tempfile::tempdir().unwrap();
    let (registry, store) = (TestRegistry::start().await, stored(folder.path()).await);
    let address = registry.address;
    registry.fault(move |seen| {
        if seen.path == "/token" {
            let known = seen.authorization.as_deref() == Some("Basic bWU6c2VjcmV0");
            let may_push = seen.query.contains("push") && seen.query.contains("team%2Fapp");
            return Some(match known && may_push {
                true => registry::body(br#"{"token":"granted"}"#),
                false => registry::status(403),
            });
        }
        let realm = format!(
            r#"Bearer realm="http://{address}/token",service="x",scope="repository:team/app:pull,push""#
        );
        let refused = seen.authorization.as_deref() != Some("Bearer granted");
        refused.then(|| registry::with_header(401, "www-authenticate", &realm))
    });
    let refused = push(&store, &registry).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthorized, "{refused}");
    assert!(registry.manifest("team/app:1").is_none());
    let credentials = Credentials::Basic {
        username: "me".into(),
        password: "secret".into(),
    };
    let granted = store.push(request(&registry, credentials), Arc::default()).await;
    check(&registry, &granted.unwrap());
    let passwords = registry.seen().into_iter().filter(|seen| {
        let sent = seen.authorization.as_deref().unwrap_or_default();
        sent.starts_with("Basic") && seen.path != "/token"
    });
    assert_eq!(passwords.count(), 0, "the password is for the token service");
}

#[tokio::test]
async fn what_passes_is_tried_again_from_the_start() {
    // At which request, and what becomes of it.
    let faults: [(At, fn() -> Answer); 6] = [
        (|seen| seen.method == Method::HEAD, || registry::status(503)),
        (
            |seen| seen.method == Method::POST,
            || registry::with_header(429, "retry-after", "0"),
        ),
        (is_upload, || registry::status(502)),
        (is_upload, registry::hang_up),
        (is_upload, || registry::with_header(429, "retry-after", "0")),
        (|seen| seen.path.contains("/manifests/"), registry::hang_up),
    ];
    let folder = tempfile::tempdir().unwrap();
    let store = stored(folder.path()).await;
    for (number, (at, fault)) in faults.into_iter().enumerate() {
        let registry = TestRegistry::start().await;
        let times = Arc::new(AtomicUsize::new(0));
        let count = times.clone();
        registry.fault(move |seen| {
            let now = at(seen) && count.fetch_add(1, Ordering::Relaxed) < 2;
            now.then(fault)
        });
        let digest = push(&store, &registry).await;
        check(
            &registry,
            &digest.unwrap_or_else(|error| panic!("fault {number}: {error}")),
        );
        assert!(
            times.load(Ordering::Relaxed) > 2,
            "fault {number} came and passed"
        );
    }
}

#[tokio::test]
async fn what_does_not_pass_is_told_and_no_manifest_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let store = stored(folder.path()).await;
    let cases: [(fn() -> Answer, ErrorKind); 4] = [
        (|| registry::status(503), ErrorKind::RegistryUnavailable),
        (registry::hang_up, ErrorKind::RegistryUnavailable),
        (|| registry::status(403), ErrorKind::Unauthorized),
        (|| registry::status(400), ErrorKind::Invalid),
    ];
    for (number, (fault, kind)) in cases.into_iter().enumerate() {
        let registry = TestRegistry::start().await;
        registry.fault(move |seen| is_upload(seen).then(fault));
        let refused = push(&store, &registry).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "case {number}: {refused}");
        assert!(registry.manifest("team/app:1").is_none());
    }
    // A registry out of order leaves nothing behind here, and does not stand in the way of another.
    let registry = TestRegistry::start().await;
    check(&registry, &push(&store, &registry).await.unwrap());
    let blobs = std::fs::read_dir(folder.path().join("blobs")).unwrap();
    assert_eq!(blobs.count(), 0, "compressed layers are not kept");
}

#[tokio::test]
async fn credentials_do_not_go_where_an_upload_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let store = stored(folder.path()).await;
    let (registry, storage) = (TestRegistry::start().await, TestRegistry::start().await);
    let elsewhere = storage.address;
    registry.fault(move |seen| {
        if seen.authorization.is_none() {
            return Some(registry::with_header(401, "www-authenticate", "Basic realm=x"));
        }
        let location = format!("http://{elsewhere}{}9", seen.path);
        let begun = || registry::with_header(202, "location", &location);
        (seen.method == Method::POST).then(begun)
    });
    let credentials = Credentials::Basic {
        username: "me".into(),
        password: "secret".into(),
    };
    store
        .push(request(&registry, credentials), Arc::default())
        .await
        .unwrap();
    let seen = storage.seen();
    assert_eq!(
        seen.iter().filter(|seen| is_upload(seen)).count(),
        3,
        "two layers and a configuration"
    );
    assert!(seen.iter().all(|seen| seen.authorization.is_none()), "{seen:?}");
}
