//! Registries that fail, stall, lie and leak: what must come of it (fault catalogue; security catalogue, E).

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use image::digest::Digest;
use image::registry::Clock;
use image::{Credentials, Error, ErrorKind, PullRequest, RegistryError, RetryPolicy, Store, StoreConfig};
use serde_json::json;
use support::images::{CONFIG, INDEX, Layer, MANIFEST, Tar, TestImage, descriptor};
use support::registry::{self, Seen, TestRegistry, UnderWay};
use support::{config, open};

fn image_of(layers: usize) -> TestImage {
    let layer = |number: usize| {
        let content = vec![number as u8; 50_000];
        Layer::plain(&Tar::default().file(&format!("file{number}"), content).finish())
    };
    TestImage::new((0..layers).map(layer).collect())
}

/// Waits that are written down instead of waited.
fn recording(settings: &mut StoreConfig) -> Arc<Mutex<Vec<Duration>>> {
    let waits: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let written = waits.clone();
    settings.registry.retry = RetryPolicy::default();
    settings.registry.clock = Clock {
        // Half a minute before the date that the test names.
        now: || SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 30),
        sleep: Arc::new(move |wait| {
            written.lock().unwrap().push(wait);
            Box::pin(std::future::ready(()))
        }),
    };
    waits
}

#[tokio::test]
async fn waits_grow_with_jitter_and_are_what_the_registry_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    registry.add("app:v1", &image_of(1));
    let mut settings = config(folder.path());
    let waits = recording(&mut settings);
    let store = Store::open(settings).await.unwrap();
    registry.fault(|_| Some(registry::status(503)));
    let failed = store.pull(registry.request("app:v1")).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::RegistryUnavailable);
    assert_eq!(registry.count("manifests"), 5, "so many tries, and no more");
    let waited = std::mem::take(&mut *waits.lock().unwrap());
    assert_eq!(waited.len(), 4);
    for (number, wait) in waited.iter().enumerate() {
        let full = Duration::from_millis(250 << number);
        assert!(*wait >= full / 2 && *wait <= full, "{number}: {wait:?}");
    }

    let mut answers = ["7", "Sun, 06 Nov 1994 08:49:37 GMT", "86400"].into_iter();
    registry.fault(move |_| {
        let asked = answers.next()?;
        Some(registry::with_header(429, "retry-after", asked))
    });
    store.pull(registry.request("app:v1")).await.unwrap();
    let asked = [7, 30, 60].map(Duration::from_secs);
    assert_eq!(
        *waits.lock().unwrap(),
        asked,
        "seconds, a date, and never too long"
    );
}

#[tokio::test]
async fn a_resumed_download_must_go_on_where_it_was() {
    for (range, problem) in [
        ("bytes 0-99/100", "another range"),
        ("bytes 20000-49999/77", "another range"),
        ("nonsense", "another range"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let registry = TestRegistry::start().await;
        let image = image_of(1);
        registry.add("app:v1", &image);
        let blob = image.layers[0].blob.clone();
        registry.fault(move |seen| {
            if !seen.path.ends_with(&Digest::sha256(&blob).to_string()) {
                return None;
            }
            match &seen.range {
                None => Some(registry::cut(&blob, 20_000)),
                Some(_) => Some(registry::answer_with(206, &[("content-range", range)], b"x")),
            }
        });
        let store = open(folder.path()).await;
        let refused = store.pull(registry.request("app:v1")).await.unwrap_err();
        assert!(refused.to_string().contains(problem), "{range}: {refused}");
        store.settle().await;
        assert!(store.list().is_empty());
    }
}

#[tokio::test]
async fn what_one_place_began_no_other_goes_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let (mirror, own) = (TestRegistry::start().await, TestRegistry::start().await);
    let image = image_of(1);
    for registry in [&mirror, &own] {
        registry.add("app:v1", &image);
    }
    let blob = image.layers[0].blob.clone();
    let path = Digest::sha256(&blob).to_string();
    let mut cuts = 0;
    let wanted = path.clone();
    mirror.fault(move |seen| {
        if !seen.path.ends_with(&wanted) {
            return None;
        }
        cuts += 1;
        // Cut, gone, and back.
        match cuts {
            1 => Some(registry::cut(&blob, 30_000)),
            2 => Some(registry::status(502)),
            _ => None,
        }
    });
    let mut settings = config(folder.path());
    settings.registry.mirrors.insert(
        own.address.to_string(),
        vec![format!("http://{}", mirror.address)],
    );
    let store = Store::open(settings).await.unwrap();
    store.pull(own.request("app:v1")).await.unwrap();
    assert_eq!(own.count(&path), 0);
    let ranges: Vec<_> = mirror
        .seen()
        .into_iter()
        .filter(|seen| seen.path.ends_with(&path))
        .map(|seen| seen.range)
        .collect();
    let resumed = Some("bytes=30000-".to_owned());
    assert_eq!(ranges, [None, resumed.clone(), resumed]);
}

#[tokio::test]
async fn a_host_is_asked_for_so_much_at_once_over_all_pulls() {
    const ALLOWED: usize = 5;
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let under_way = Arc::new(UnderWay::default());
    let mut blobs = std::collections::HashMap::new();
    let mut names = Vec::new();
    for number in 0..3u8 {
        let layer = |part: u8| {
            let content = vec![number * 10 + part; 1000];
            Layer::plain(&Tar::default().file("f", content).finish())
        };
        let image = TestImage::new((0..4).map(layer).collect());
        let name = format!("app{number}:v1");
        registry.add(&name, &image);
        for layer in &image.layers {
            blobs.insert(Digest::sha256(&layer.blob).to_string(), layer.blob.clone());
        }
        names.push(name);
    }
    let counting = under_way.clone();
    registry.fault(move |seen: &Seen| {
        let blob = blobs.get(seen.path.rsplit('/').next()?)?;
        Some(registry::counted(blob, &counting, ALLOWED))
    });
    let mut settings = config(folder.path());
    settings.parallel_layers = 4;
    settings.registry.connections_per_host = ALLOWED;
    let store = Store::open(settings).await.unwrap();
    let pulls = names.iter().map(|name| store.pull(registry.request(name)));
    for pulled in futures::future::join_all(pulls).await {
        pulled.unwrap();
    }
    let most = under_way.most();
    assert_eq!(most, ALLOWED, "of 12 layers at once");
}

#[tokio::test]
async fn a_token_that_expires_is_renewed_once_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let (registry, tokens) = (TestRegistry::start().await, TestRegistry::start().await);
    let image = image_of(3);
    registry.add("app:v1", &image);
    let given = Arc::new(Mutex::new(0));
    let (giving, valid) = (given.clone(), given.clone());
    tokens.fault(move |_| {
        let mut given = giving.lock().unwrap();
        *given += 1;
        // The first field is empty, as some services send it.
        Some(registry::body(
            json!({ "token": "", "access_token": format!("t{given}") })
                .to_string()
                .as_bytes(),
        ))
    });
    let realm = format!(r#"Bearer realm="http://{}/token",service="s""#, tokens.address);
    let layers: Vec<String> = image
        .layers
        .iter()
        .map(|layer| Digest::sha256(&layer.blob).to_string())
        .collect();
    registry.fault(move |seen| {
        // The first token is good for manifest and configuration only.
        let layer = layers.iter().any(|layer| seen.path.ends_with(layer));
        let fine = match *valid.lock().unwrap() {
            0 => false,
            1 => !layer && seen.authorization.as_deref() == Some("Bearer t1"),
            given => seen.authorization.as_deref() == Some(&*format!("Bearer t{given}")),
        };
        (!fine).then(|| registry::with_header(401, "www-authenticate", &realm))
    });
    let store = open(folder.path()).await;
    store.pull(registry.request("app:v1")).await.unwrap();
    assert_eq!(
        *given.lock().unwrap(),
        2,
        "three layers were refused at once, one asked anew"
    );
}

#[tokio::test]
async fn an_identity_token_is_exchanged_and_a_registry_token_goes_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (registry, tokens) = (TestRegistry::start().await, TestRegistry::start().await);
    registry.add("one:v1", &image_of(1));
    registry.add("two:v1", &image_of(2));
    tokens.fault(|seen| {
        let form = seen
            .headers
            .get("content-type")
            .and_then(|kind| kind.to_str().ok());
        Some(match form {
            Some("application/x-www-form-urlencoded") => registry::body(br#"{"access_token":"exchanged"}"#),
            _ => registry::status(400),
        })
    });
    let realm = format!(r#"Bearer realm="http://{}/token",service="s""#, tokens.address);
    registry.fault(move |seen| match seen.authorization.as_deref() {
        Some("Bearer exchanged" | "Bearer ready-made") => None,
        _ => Some(registry::with_header(401, "www-authenticate", &realm)),
    });
    let store = open(folder.path()).await;
    for (name, credentials) in [
        ("one:v1", Credentials::IdentityToken("refresh".into())),
        ("two:v1", Credentials::RegistryToken("ready-made".into())),
    ] {
        let reference = registry.reference(name);
        store
            .pull(PullRequest {
                reference,
                credentials,
            })
            .await
            .unwrap();
    }
    assert_eq!(tokens.seen().len(), 1, "a ready token is asked for nowhere");
    let sent = registry.seen();
    assert!(
        sent.iter()
            .filter(|seen| seen.path.contains("/two/"))
            .all(|seen| seen.authorization.as_deref() != Some("Bearer exchanged")),
        "not mixed between requests"
    );
}

#[tokio::test]
async fn a_failed_pull_is_one_flight_and_leaves_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let image = image_of(2);
    registry.add("good:v1", &image);
    registry.add("bad:v1", &image);
    registry.fault(|seen| {
        let secret = seen.path.contains("/bad/") && seen.authorization.is_none();
        secret.then(|| registry::status(401))
    });
    let store = open(folder.path()).await;
    let (good, bad, again) = tokio::join!(
        store.pull(registry.request("good:v1")),
        store.pull(registry.request("bad:v1")),
        store.pull(registry.request("bad:v1"))
    );
    assert_eq!(good.unwrap().id.to_string(), image.id());
    assert_eq!(bad.unwrap_err().kind(), ErrorKind::Unauthorized);
    again.unwrap_err();
    assert_eq!(registry.count("/bad/manifests"), 1);
    assert!(store.pulls().is_empty());
}

#[tokio::test]
async fn errors_repeat_the_registry_without_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let store = open(folder.path()).await;
    let body = r#"{"errors":[{"code":"DENIED","message":"see https://bob:hunter2@cdn.example/x?X-Amz-Signature=abc123\nFAKE LINE"}]}"#;
    registry.fault(move |_| Some(registry::answer_with(403, &[], body.as_bytes())));
    let denied = store
        .pull(registry.request("app:v1"))
        .await
        .unwrap_err()
        .to_string();
    assert!(denied.contains("DENIED see https://cdn.example/x"), "{denied}");
    for secret in ["hunter2", "abc123", "\n"] {
        assert!(!denied.contains(secret), "{secret}: {denied}");
    }
    // A body without end is an error of bounded length, not memory.
    let endless = vec![b'x'; 1 << 20];
    registry.fault(move |_| Some(registry::answer_with(400, &[], &endless)));
    let refused = store
        .pull(registry.request("app:v1"))
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("status 400") && refused.len() < 400, "{refused}");
}

#[tokio::test]
async fn redirects_do_not_leave_https_or_go_on_for_ever_and_urls_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (registry, elsewhere) = (TestRegistry::start().await, TestRegistry::start().await);
    let image = image_of(1);
    let layer = &image.layers[0];
    let mut foreign = descriptor(layer.media_type, &layer.blob);
    foreign["urls"] = json!([format!("http://{}/stolen", elsewhere.address)]);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &image.config),
        "layers": [foreign],
    });
    registry.add("app:v1", &image);
    registry.add_document("app:v1", MANIFEST, manifest.to_string().as_bytes());
    let store = open(folder.path()).await;
    store.pull(registry.request("app:v1")).await.unwrap();
    assert!(elsewhere.seen().is_empty(), "foreign addresses are not visited");

    let own = registry.address;
    registry.fault(move |seen| {
        let location = format!("http://{own}{}", seen.path);
        Some(registry::with_header(302, "location", &location))
    });
    let endless = store.pull(registry.request("loop:v1")).await.unwrap_err();
    assert!(endless.to_string().contains("redirects without end"), "{endless}");
    registry.fault(|_| Some(registry::with_header(302, "location", "file:///etc/shadow")));
    let odd = store.pull(registry.request("odd:v1")).await.unwrap_err();
    assert!(odd.to_string().contains("redirects from"), "{odd}");
}

#[tokio::test]
async fn documents_that_two_readers_could_take_differently_or_are_too_large_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let image = image_of(1);
    registry.add("app:v1", &image);
    let store = open(folder.path()).await;
    let manifest = TestImage::manifest(&image.config, &image.layers);
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut changed = manifest.clone();
        change(&mut changed);
        changed.to_string()
    };
    let many = vec![descriptor(image.layers[0].media_type, &image.layers[0].blob); 501];
    let deep = format!(
        "{{\"schemaVersion\":2,\"x\":{}{}}}",
        "[".repeat(100),
        "]".repeat(100)
    );
    for (what, kind, text) in [
        ("both", MANIFEST, with(&|m| m["manifests"] = json!([]))),
        (
            "type",
            INDEX,
            with(&|m| drop(m.as_object_mut().unwrap().remove("mediaType"))),
        ),
        ("named", MANIFEST, with(&|m| m["mediaType"] = json!(INDEX))),
        ("schema1", MANIFEST, r#"{"schemaVersion":1,"fsLayers":[]}"#.into()),
        ("layers", MANIFEST, with(&|m| m["layers"] = json!(many))),
        ("deep", MANIFEST, deep),
        (
            "large",
            MANIFEST,
            with(&|m| m["annotations"] = json!({ "a": "x".repeat(4 << 20) })),
        ),
        (
            "digest",
            MANIFEST,
            with(&|m| m["config"]["digest"] = json!("sha256:../../../../etc/passwd")),
        ),
        (
            "upper",
            MANIFEST,
            with(&|m| m["config"]["digest"] = json!(format!("sha256:{}", "A".repeat(64)))),
        ),
        (
            "config",
            MANIFEST,
            with(&|m| m["config"]["size"] = json!(5 << 20)),
        ),
        ("size", MANIFEST, with(&|m| m["config"]["size"] = json!(10))),
        ("count", MANIFEST, with(&|m| m["layers"] = json!([]))),
    ] {
        registry.add_document(&format!("app:{what}"), kind, text.as_bytes());
        let refused = store
            .pull(registry.request(&format!("app:{what}")))
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{what}: {refused}");
    }
    // An index that leads to itself can only be one whose digests lie.
    let nested = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(INDEX, b"{}")] });
    registry.add_index("app:nested", nested.to_string().as_bytes());
    registry.add_document("app:lie", INDEX, b"{}");
    let refused = store.pull(registry.request("app:nested")).await.unwrap_err();
    assert!(
        matches!(
            &*refused,
            Error::Document { .. } | Error::Registry(RegistryError::NotFound { .. })
        ),
        "{refused}"
    );
    assert!(store.list().is_empty());
    store.settle().await;
    assert_eq!(std::fs::read_dir(folder.path().join("l")).unwrap().count(), 0);
}

#[tokio::test]
async fn an_image_without_layers_has_an_empty_root() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    registry.add("empty:v1", &TestImage::new(Vec::new()));
    let store = open(folder.path()).await;
    let pulled = store.pull(registry.request("empty:v1")).await.unwrap();
    let snapshot = store.prepare(&pulled.id, "c1").await.unwrap();
    let image::SnapshotRoot::Directory(root) = snapshot.root else {
        panic!("{snapshot:?}")
    };
    assert_eq!(std::fs::read_dir(root).unwrap().count(), 0);
}
