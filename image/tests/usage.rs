//! What the store says it takes is what it takes.

mod support;

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use image::DiskUsage;
use support::images::{Layer, Tar, TestImage};
use support::open;
use support::registry::TestRegistry;

/// Blocks and inodes below a folder, each inode once.
fn walk(folder: &Path) -> DiskUsage {
    let mut usage = DiskUsage::default();
    let mut seen = HashSet::new();
    let mut left = vec![folder.to_path_buf()];
    while let Some(path) = left.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        if seen.insert(metadata.ino()) {
            usage.bytes += metadata.blocks() * 512;
            usage.inodes += 1;
        }
        if metadata.is_dir() {
            left.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    usage
}

#[tokio::test]
async fn images_and_writable_layers_are_told_apart_and_truly() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let mut tar = Tar::default().dir("many/", 0o755);
    for number in 0..200 {
        tar = tar.file(&format!("many/{number}"), vec![1; 5000]);
    }
    let image = TestImage::new(vec![
        Layer::gzip(&tar.hard_link("many/again", "many/0").finish()),
        Layer::gzip(&Tar::default().file("one", vec![2; 1_000_000]).finish()),
    ]);
    registry.add("app:v1", &image);
    let store = open(folder.path()).await;
    let pulled = store.pull(registry.request("app:v1")).await.unwrap();
    store.prepare(&pulled.id, "c1").await.unwrap();
    store.prepare(&pulled.id, "c2").await.unwrap();
    store.settle().await;

    let usage = store.usage().await.unwrap();
    let below = |name: &str| walk(&folder.path().join(name));
    let mut real = below("l");
    real += below("blobs");
    real += below("db");
    let close = |told: u64, real: u64| told.abs_diff(real) * 100 <= real;
    assert!(
        close(usage.images.bytes, real.bytes) && usage.images.inodes == real.inodes,
        "told {:?}, on disk {real:?}",
        usage.images
    );
    let real = below("rw");
    assert!(
        close(usage.containers.bytes, real.bytes) && usage.containers.inodes == real.inodes,
        "told {:?}, on disk {real:?}",
        usage.containers
    );
    assert!(usage.images_path.is_dir() && usage.containers_path.is_dir());
}
