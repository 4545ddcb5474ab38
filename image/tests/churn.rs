//! Many pulls of images that share layers, of which some are given up and others removed on the way.

mod support;

use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use image::digest::Digest;
use image::{ErrorKind, Store};
use support::images::{Layer, Tar, TestImage};
use support::registry::{self, TestRegistry};
use support::{config, open};

const IMAGES: usize = 10;
const PULLS: usize = 50;

/// Images with three layers in common and one of their own.
fn images() -> Vec<TestImage> {
    let layer = |name: &str, size: usize| {
        let content = vec![name.len() as u8; size];
        Layer::gzip(&Tar::default().file(name, content).finish())
    };
    let base = [layer("a", 300_000), layer("bb", 200_000), layer("ccc", 100_000)];
    (0..IMAGES)
        .map(|number| {
            let mut layers = base.to_vec();
            layers.push(layer(&format!("own{number}"), 50_000));
            TestImage::new(layers)
        })
        .collect()
}

fn name(number: usize) -> String {
    format!("app{}:v1", number % IMAGES)
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// Pulls; every third caller leaves when the pull has begun.
async fn pull(store: &Store, registry: &TestRegistry, number: usize) -> Option<image::Image> {
    let mut pull = Box::pin(store.pull(registry.request(&name(number))));
    if number.is_multiple_of(3) {
        let _ = futures::poll!(&mut pull);
        return None;
    }
    Some(pull.await.unwrap())
}

#[tokio::test]
async fn one_download_per_layer_and_none_is_lost_to_a_removal() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = images();
    for (number, image) in images.iter().enumerate() {
        registry.add(&name(number), image);
    }
    let store = open(folder.path()).await;
    let pulled = join_all((0..PULLS).map(|number| pull(&store, &registry, number))).await;
    for (number, pulled) in pulled.into_iter().enumerate() {
        let Some(pulled) = pulled else { continue };
        assert_eq!(pulled.id.to_string(), images[number % IMAGES].id());
    }
    for layer in images.iter().flat_map(|image| &image.layers) {
        let digest = Digest::sha256(&layer.blob).to_string();
        assert_eq!(registry.count(&digest), 1, "one download per layer");
    }

    // Again and again, while others remove the same images.
    let pulls = join_all((0..PULLS).map(|number| pull(&store, &registry, number)));
    let removals = join_all((0..PULLS).map(|number| {
        let (store, reference) = (&store, registry.reference(&name(number * 7)).to_string());
        async move {
            match store.remove(&reference).await {
                Ok(_) => {}
                Err(refused) => assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused}"),
            }
        }
    }));
    tokio::join!(pulls, removals);

    // What is listed is whole, whatever won.
    for image in store.list() {
        store.prepare(&image.id, "look").await.unwrap();
        store.remove_snapshot("look").await.unwrap();
    }
    join_all((0..IMAGES).map(|number| store.pull(registry.request(&name(number))))).await;
    assert_eq!(store.list().len(), IMAGES);
    assert_eq!(entries(&folder.path().join("l")), 3 + IMAGES);
    for image in &images {
        store.remove(&image.id()).await.unwrap();
    }
    store.settle().await;
    for left in ["l", "blobs", "trash"] {
        assert_eq!(entries(&folder.path().join(left)), 0, "{left}");
    }
}

/// Slow is no failure: only silence is.
#[tokio::test]
async fn who_is_slow_is_waited_for_and_who_is_silent_is_not() {
    // What is slow has three quarters of it to spare for a machine that is.
    const PATIENCE: Duration = Duration::from_secs(2);
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let image = &images()[0];
    registry.add("app:v1", image);
    let mut settings = config(folder.path());
    settings.registry.progress_timeout = PATIENCE;
    let store = Store::open(settings).await.unwrap();
    let blob = image.layers[0].blob.clone();
    let path = Digest::sha256(&blob).to_string();

    let (silent, wanted) = (blob.clone(), path.clone());
    registry.fault(move |seen| {
        let silence = || registry::in_pieces(&silent[..silent.len() / 2], silent.len(), Duration::ZERO);
        seen.path.ends_with(&wanted).then(silence)
    });
    let refused = store.pull(registry.request("app:v1")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::RegistryUnavailable, "{refused}");
    assert!(store.list().is_empty());

    // In all it takes twice as long as any silence may.
    registry.fault(move |seen| {
        let slowly = || registry::in_pieces(&blob, blob.len(), PATIENCE / 4);
        seen.path.ends_with(&path).then(slowly)
    });
    store.pull(registry.request("app:v1")).await.unwrap();
}
