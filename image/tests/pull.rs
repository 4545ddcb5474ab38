//! Pulls from a registry in this process, well-behaved and otherwise.

mod support;

use image::digest::Digest;
use image::document::DocumentError;
use image::platform::Platform;
use image::{Credentials, Error, ErrorKind, PullRequest, RegistryError, SnapshotRoot};
use serde_json::json;
use support::images::{Layer, Tar, TestImage, descriptor};
use support::registry::{self, TestRegistry};
use support::{config, directory, open};

fn three_layers() -> TestImage {
    let base = Tar::default()
        .dir("etc/", 0o755)
        .file("etc/passwd", "root:x:0:0::/:/bin/sh\n")
        .file("gone", "1");
    let middle = Tar::default()
        .file("etc/group", "root:x:0:\n")
        .file(".wh.gone", "");
    let top = Tar::default().file("app/run", "#!/bin/sh\n".repeat(100_000));
    TestImage::new(vec![
        Layer::gzip(&base.finish()),
        Layer::zstd(&middle.finish()),
        Layer::plain(&top.finish()),
    ])
}

#[tokio::test]
async fn pulls_every_compression_and_finds_it_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let image = three_layers();
    registry.add("team/app:v1", &image);
    let store = open(folder.path()).await;
    let pulled = store.pull(registry.request("team/app:v1")).await.unwrap();
    assert_eq!(pulled.id.to_string(), image.id());
    assert_eq!(pulled.repo_tags, [registry.reference("team/app:v1").to_string()]);
    assert_eq!(
        pulled.repo_digests,
        [format!("{}/team/app@{}", registry.address, image.digest())]
    );
    assert_eq!(pulled.user(), Some(image::config::ImageUser::Uid(1000)));
    assert!(pulled.size > 900_000);

    let snapshot = store.prepare(&pulled.id, "c1").await.unwrap();
    let SnapshotRoot::Overlay { lower, .. } = &snapshot.root else {
        panic!("{snapshot:?}")
    };
    assert_eq!(lower.len(), 3);
    assert!(directory(&lower[2]).join("etc/passwd").exists());
    assert!(directory(&lower[1]).join("etc/group").exists());
    assert_eq!(
        std::fs::metadata(directory(&lower[0]).join("app/run"))
            .unwrap()
            .len(),
        1_000_000
    );

    drop(store);
    let store = open(folder.path()).await;
    assert!(store.report().lost_images.is_empty());
    let again = store.resolve(&image.id()[7..20]).unwrap();
    assert_eq!(again.repo_tags, pulled.repo_tags);
    assert_eq!(store.snapshot("c1").unwrap(), Some(snapshot));
    let requests = registry.seen().len();
    assert!(
        requests <= 5,
        "{requests} requests for a manifest, a configuration and three layers"
    );
}

#[tokio::test]
async fn pulls_by_digest_and_shares_layers_and_flights() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let image = three_layers();
    registry.add("app:v1", &image);
    let store = open(folder.path()).await;
    let by_digest = registry.reference(&format!("app@{}", image.digest()));
    let request = |name: &str| registry.request(name);
    let (one, two, three) = tokio::join!(
        store.pull(request("app:v1")),
        store.pull(request("app:v1")),
        store.pull(PullRequest::anonymous(by_digest.clone())),
    );
    let ids: Vec<String> = [one, two, three]
        .map(|pulled| pulled.unwrap().id.to_string())
        .to_vec();
    assert_eq!(ids, vec![image.id(); 3]);
    for layer in &image.layers {
        assert_eq!(
            registry.count(&Digest::sha256(&layer.blob).to_string()),
            1,
            "one download per layer"
        );
    }
    let found = store.resolve(&by_digest.to_string()).unwrap();
    assert_eq!(found.repo_digests, [by_digest.to_string()]);
    assert!(store.pulls().is_empty());
}

#[tokio::test]
async fn a_caller_that_leaves_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    registry.add("app:v1", &three_layers());
    let store = open(folder.path()).await;
    let mut abandoned = Box::pin(store.pull(registry.request("app:v1")));
    assert!(futures::poll!(&mut abandoned).is_pending());
    let progress = store.pulls();
    assert_eq!(progress[0].reference, registry.reference("app:v1").to_string());
    drop(abandoned);
    store.pull(registry.request("app:v1")).await.unwrap();
    assert_eq!(
        registry.count("manifests/v1"),
        1,
        "the second call joined the first one's flight"
    );
}

#[tokio::test]
async fn chooses_from_an_index_and_refuses_foreign_platforms() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let foreign = Platform {
        os: "linux".into(),
        architecture: "s390x".into(),
        variant: None,
    };
    let layer = || vec![Layer::gzip(&Tar::default().file("a", "a").finish())];
    let (own, other) = (
        TestImage::new(layer()),
        TestImage::with(layer(), &foreign, json!({})),
    );
    registry.add("app:own", &own);
    registry.add("app:other", &other);
    let entry = |image: &TestImage, platform: &Platform| {
        let mut entry = descriptor(support::images::MANIFEST, &image.manifest);
        entry["platform"] = json!(platform);
        entry
    };
    let plain = Platform {
        variant: None,
        ..Platform::host()
    };
    let both = json!({ "schemaVersion": 2, "manifests": [entry(&other, &foreign), entry(&own, &plain)] });
    registry.add_index("app:both", both.to_string().as_bytes());
    let store = open(folder.path()).await;
    let pulled = store.pull(registry.request("app:both")).await.unwrap();
    assert_eq!(pulled.id.to_string(), own.id());
    let top = Digest::sha256(both.to_string().as_bytes());
    assert_eq!(pulled.repo_digests, [format!("{}/app@{top}", registry.address)]);

    let only = json!({ "schemaVersion": 2, "manifests": [entry(&other, &foreign)] });
    registry.add_index("app:only", only.to_string().as_bytes());
    for name in ["app:only", "app:other"] {
        let refused = store.pull(registry.request(name)).await.unwrap_err();
        assert!(
            matches!(
                &*refused,
                Error::Document {
                    problem: DocumentError::NoPlatform { .. },
                    ..
                }
            ),
            "{refused}"
        );
        assert!(refused.to_string().contains("linux/s390x"));
    }
}

#[tokio::test]
async fn refuses_wrong_bytes_and_keeps_nothing_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let store = open(folder.path()).await;
    let tar = Tar::default().file("a", vec![7; 300_000]).finish();

    let flipped = TestImage::new(vec![Layer::gzip(&tar)]);
    registry.add("app:flipped", &flipped);
    let digest = Digest::sha256(&flipped.layers[0].blob);
    let mut bytes = flipped.layers[0].blob.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    registry.add_blob_as(&digest, &bytes);
    let refused = store.pull(registry.request("app:flipped")).await.unwrap_err();
    assert!(
        matches!(&*refused, Error::WrongDigest { wanted, .. } if *wanted == digest),
        "{refused}"
    );

    for (name, change) in [("short", -10i64), ("long", 10)] {
        let image = TestImage::new(vec![Layer::plain(&tar)]);
        registry.add(&format!("app:{name}"), &image);
        let mut bytes = image.layers[0].blob.clone();
        bytes.resize((bytes.len() as i64 + change) as usize, 0);
        registry.add_blob_as(&Digest::sha256(&image.layers[0].blob), &bytes);
        let refused = store
            .pull(registry.request(&format!("app:{name}")))
            .await
            .unwrap_err();
        assert!(
            matches!(&*refused, Error::Registry(RegistryError::WrongSize { .. })),
            "{refused}"
        );
    }

    let mut lying = Layer::gzip(&tar);
    lying.diff_id = Digest::sha256(b"something else");
    registry.add("app:lying", &TestImage::new(vec![lying]));
    let refused = store.pull(registry.request("app:lying")).await.unwrap_err();
    assert!(matches!(&*refused, Error::WrongDiffId { .. }), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::Invalid);

    store.settle().await;
    assert!(store.list().is_empty());
    for left in ["l", "blobs", "trash"] {
        let names: Vec<_> = std::fs::read_dir(folder.path().join(left)).unwrap().collect();
        assert!(names.is_empty(), "{left}: {names:?}");
    }
}

#[tokio::test]
async fn a_manifest_must_be_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let store = open(folder.path()).await;
    let image = three_layers();
    registry.add("app:v1", &image);
    registry.fault(move |seen| {
        seen.path
            .contains("/manifests/sha256")
            .then(|| registry::body(br#"{"schemaVersion":2}"#))
    });
    let by_digest = registry.reference(&format!("app@{}", image.digest()));
    let refused = store.pull(PullRequest::anonymous(by_digest)).await.unwrap_err();
    assert!(
        matches!(
            &*refused,
            Error::Document {
                problem: DocumentError::WrongDigest { .. },
                ..
            }
        ),
        "{refused}"
    );
}

#[tokio::test]
async fn tries_again_after_passing_failures_and_resumes_where_it_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let image = three_layers();
    registry.add("app:v1", &image);
    let blob = image.layers[2].blob.clone();
    let big = Digest::sha256(&blob).to_string();
    let (mut failures, mut cuts) = (0, 0);
    let (served, path) = (blob.clone(), big.clone());
    registry.fault(move |seen| {
        failures += 1;
        match failures {
            1 => Some(registry::status(503)),
            2 => Some(registry::with_header(429, "retry-after", "0")),
            _ if seen.path.ends_with(&path) && cuts < 3 => {
                cuts += 1;
                match (cuts, &seen.range) {
                    (1, None) => Some(registry::cut(&served, 300_000)),
                    // Does not know ranges: starts over.
                    (2, Some(range)) if range == "bytes=300000-" => Some(registry::cut(&served, 600_000)),
                    (3, Some(range)) if range == "bytes=600000-" => None,
                    _ => Some(registry::status(400)),
                }
            }
            _ => None,
        }
    });
    let store = open(folder.path()).await;
    store.pull(registry.request("app:v1")).await.unwrap();
    assert_eq!(registry.count("/manifests/v1"), 3);
    assert_eq!(registry.count(&big), 3);
}

#[tokio::test]
async fn says_what_a_registry_says() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let store = open(folder.path()).await;
    let missing = store.pull(registry.request("nothing:here")).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    registry.fault(|_| Some(registry::status(500)));
    let broken = store.pull(registry.request("nothing:here")).await.unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::RegistryUnavailable);
    registry.fault(|_| Some(registry::with_header(401, "www-authenticate", "Basic realm=x")));
    let denied = store.pull(registry.request("nothing:here")).await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Unauthorized);
    let address = registry.address;
    drop(registry);
    let nobody = format!("{address}/a:b").parse().unwrap();
    let gone = store.pull(PullRequest::anonymous(nobody)).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::RegistryUnavailable);
    assert!(!gone.to_string().contains("http://"), "{gone}");
}

#[tokio::test]
async fn meets_a_bearer_challenge_with_the_requests_own_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let (registry, tokens) = (TestRegistry::start().await, TestRegistry::start().await);
    registry.add("private:v1", &three_layers());
    tokens.fault(|seen| {
        // user:pass
        let allowed = seen.authorization.as_deref() == Some("Basic dXNlcjpwYXNz");
        Some(if allowed {
            registry::body(br#"{"token":"t0ken"}"#)
        } else {
            registry::status(401)
        })
    });
    let realm = format!(r#"Bearer realm="http://{}/token",service="reg""#, tokens.address);
    registry.fault(move |seen| match seen.authorization.as_deref() {
        Some("Bearer t0ken") => None,
        None => Some(registry::with_header(401, "www-authenticate", &realm)),
        Some(_) => Some(registry::status(403)),
    });
    let store = open(folder.path()).await;
    let anonymous = store.pull(registry.request("private:v1")).await.unwrap_err();
    assert_eq!(anonymous.kind(), ErrorKind::Unauthorized);
    let credentials = Credentials::Basic {
        username: "user".into(),
        password: "pass".into(),
    };
    let request = PullRequest {
        reference: registry.reference("private:v1"),
        credentials,
    };
    store.pull(request).await.unwrap();
    let asked = tokens.seen().pop().unwrap();
    assert!(asked.query.contains("service=reg") && asked.query.contains("scope=repository%3Aprivate%3Apull"));
    assert!(
        registry
            .seen()
            .iter()
            .all(|seen| seen.authorization.as_deref() != Some("Basic dXNlcjpwYXNz"))
    );
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_or_go_to_a_mirror() {
    let folder = tempfile::tempdir().unwrap();
    let (registry, elsewhere) = (TestRegistry::start().await, TestRegistry::start().await);
    let image = three_layers();
    registry.add("app:v1", &image);
    elsewhere.add("app:other", &image);
    let (own, other) = (registry.address, elsewhere.address);
    registry.fault(move |seen| {
        if seen.authorization.is_none() {
            return Some(registry::with_header(401, "www-authenticate", "Basic realm=x"));
        }
        let location = format!("http://{other}{}", seen.path);
        seen.path
            .contains("/blobs/")
            .then(|| registry::with_header(307, "location", &location))
    });
    let mut settings = config(folder.path());
    settings
        .registry
        .mirrors
        .insert(own.to_string(), vec![other.to_string()]);
    let store = image::Store::open(settings).await.unwrap();
    let credentials = Credentials::Basic {
        username: "user".into(),
        password: "pass".into(),
    };
    store
        .pull(PullRequest {
            reference: registry.reference("app:v1"),
            credentials,
        })
        .await
        .unwrap();
    let seen = elsewhere.seen();
    assert!(seen.len() > 4 && seen.iter().any(|seen| seen.query.contains("ns=127.0.0.1")));
    assert!(seen.iter().all(|seen| seen.authorization.is_none()), "{seen:?}");
}

#[tokio::test]
async fn removal_frees_the_disk_but_not_what_others_use() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let base = Layer::gzip(&Tar::default().file("base", vec![1; 100_000]).finish());
    let only = |name: &str| Layer::gzip(&Tar::default().file(name, vec![2; 100_000]).finish());
    registry.add("one:v1", &TestImage::new(vec![base.clone(), only("one")]));
    registry.add("two:v1", &TestImage::new(vec![base, only("two")]));
    let store = open(folder.path()).await;
    let one = store.pull(registry.request("one:v1")).await.unwrap();
    store.pull(registry.request("two:v1")).await.unwrap();
    let layers = || std::fs::read_dir(folder.path().join("l")).unwrap().count();
    assert_eq!(layers(), 3);
    let before = store.usage().await.unwrap().images;
    store.prepare(&one.id, "c1").await.unwrap();

    let removed = store.remove(&one.id.to_string()).await.unwrap().unwrap();
    assert!(removed.image_removed && removed.names.len() == 2);
    assert_eq!(layers(), 3, "a container still uses them");
    assert_eq!(store.remove(&one.id.to_string()).await.unwrap(), None);
    store.remove_snapshot("c1").await.unwrap();
    store.settle().await;
    assert_eq!(layers(), 2);
    assert!(store.usage().await.unwrap().images.bytes < before.bytes);

    store
        .tag(
            &registry.reference("two:v1").to_string(),
            &"local/two:2".parse().unwrap(),
        )
        .await
        .unwrap();
    let removed = store
        .remove(&registry.reference("two:v1").to_string())
        .await
        .unwrap()
        .unwrap();
    assert!(!removed.image_removed);
    assert_eq!(
        removed.names.len(),
        2,
        "its digest goes with the repository's last tag: {removed:?}"
    );
    assert!(store.remove("local/two:2").await.unwrap().unwrap().image_removed);
    store.settle().await;
    assert_eq!(layers(), 0);
    drop(store);
    assert!(open(folder.path()).await.list().is_empty());
}

#[tokio::test]
async fn an_image_with_a_damaged_layer_is_forgotten_and_pulled_again() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    registry.add("app:v1", &three_layers());
    let store = open(folder.path()).await;
    store.pull(registry.request("app:v1")).await.unwrap();
    drop(store);
    let layer = std::fs::read_dir(folder.path().join("l"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::remove_dir_all(layer).unwrap();
    std::fs::create_dir(folder.path().join("l/.new-9")).unwrap();
    let store = open(folder.path()).await;
    assert_eq!(store.report().lost_images.len(), 3, "{:?}", store.report());
    assert!(store.list().is_empty());
    store.settle().await;
    assert_eq!(std::fs::read_dir(folder.path().join("l")).unwrap().count(), 0);
    store.pull(registry.request("app:v1")).await.unwrap();
    let second = image::Store::open(config(folder.path())).await.unwrap_err();
    assert!(matches!(second, Error::InUse { .. }));
}

#[tokio::test]
async fn compressed_layers_are_kept_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let image = three_layers();
    registry.add("app:v1", &image);
    let mut settings = config(folder.path());
    settings.keep_compressed = true;
    let store = image::Store::open(settings).await.unwrap();
    store.pull(registry.request("app:v1")).await.unwrap();
    for layer in &image.layers {
        let name = Digest::sha256(&layer.blob).to_string().replace(':', "-");
        assert_eq!(
            std::fs::read(folder.path().join("blobs").join(name)).unwrap(),
            layer.blob
        );
    }
    store.remove(&image.id()).await.unwrap();
    store.settle().await;
    assert_eq!(std::fs::read_dir(folder.path().join("blobs")).unwrap().count(), 0);
}
