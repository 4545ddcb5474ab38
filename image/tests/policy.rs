//! The administrator's verifier decides which images are pulled.

mod support;

use std::path::Path;
use std::time::Duration;

use image::digest::Digest;
use image::{ErrorKind, Store, Verifier};
use support::config;
use support::images::{Layer, Tar, TestImage};
use support::registry::TestRegistry;

/// Many times what a script takes that ends.
const AMPLE: Duration = Duration::from_secs(60);

async fn store(root: &Path, script: &str, limit: Duration) -> Store {
    let program = root.join("verifier");
    support::program(&program, &format!("#!/bin/sh\n{script}\n"));
    let mut settings = config(&root.join("store"));
    settings.verifier = Some(Verifier { program, limit });
    Store::open(settings).await.unwrap()
}

fn image() -> TestImage {
    TestImage::new(vec![Layer::gzip(&Tar::default().file("a", "a").finish())])
}

#[tokio::test]
async fn it_learns_name_digest_and_descriptor_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let image = image();
    registry.add("app:v1", &image);
    let script = format!(
        "for word; do echo \"$word\"; done > {0}/words; cat > {0}/input; env > {0}/environment",
        folder.path().display()
    );
    let store = store(folder.path(), &script, AMPLE).await;
    store.pull(registry.request("app:v1")).await.unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let expected = format!(
        "-name\n{}\n-digest\n{}\n-stdin-media-type\napplication/vnd.oci.descriptor.v1+json\n",
        registry.reference("app:v1"),
        image.digest()
    );
    assert_eq!(read("words"), expected);
    let descriptor: serde_json::Value = serde_json::from_str(&read("input")).unwrap();
    assert_eq!(descriptor["digest"], image.digest().to_string());
    assert_eq!(descriptor["size"], image.manifest.len());
    assert!(!read("environment").contains("CARGO"), "{}", read("environment"));
}

#[tokio::test]
async fn a_refusal_a_failure_and_silence_all_keep_the_image_out() {
    for (script, reason) in [
        (
            "echo 'no signature by release@example'; exit 1",
            "no signature by release@example",
        ),
        ("echo broken >&2; exit 2", "broken"),
        ("exit 3", "without a reason"),
        ("sleep 1000", "did not end within its time limit"),
        ("kill -9 $$", "without a reason"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let registry = TestRegistry::start().await;
        let image = image();
        registry.add("app:v1", &image);
        let limit = if script.starts_with("sleep") {
            Duration::from_secs(2)
        } else {
            AMPLE
        };
        let store = store(folder.path(), script, limit).await;
        let refused = store.pull(registry.request("app:v1")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unverified, "{script}: {refused}");
        assert!(refused.to_string().contains(reason), "{script}: {refused}");
        let layer = Digest::sha256(&image.layers[0].blob).to_string();
        assert_eq!(registry.count(&layer), 0, "{script}: nothing was fetched");
        assert!(store.list().is_empty());
    }
}
