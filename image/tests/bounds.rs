//! What a pull may cost: bytes that come out of few. And who may look into the store.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use image::digest::Digest;
use image::{Error, LayerFormat, LayerFormatChoice, Limits, Store};
use support::config;
use support::images::{Layer, Tar, TestImage, zstd};
use support::registry::TestRegistry;

const PIECE: usize = 16 << 20;

/// An archive with so many pieces of zeros behind its end, where no limit of files or of the disk meets them.
fn bomb(pieces: usize) -> TestImage {
    let small = Tar::default().file("a", "a").finish();
    let mut blob = zstd(&small);
    blob.extend(zstd(&vec![0; PIECE]).repeat(pieces));
    assert!(blob.len() * 2000 < pieces * PIECE, "few");
    TestImage::new(vec![Layer {
        blob,
        // Nobody comes so far.
        diff_id: Digest::sha256(b"never"),
        ..Layer::zstd(&small)
    }])
}

async fn refused(format: LayerFormat, limits: Limits, image: &TestImage) {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    registry.add("app:v1", image);
    let mut settings = config(folder.path());
    settings.layer_format = LayerFormatChoice::Fixed(format);
    settings.layer_mounts = folder.path().join("mounts");
    settings.limits = limits;
    let store = Store::open(settings).await.unwrap();
    let refused = store.pull(registry.request("app:v1")).await.unwrap_err();
    assert!(
        matches!(&*refused, Error::Decompress { problem, .. } if problem.contains("limit")),
        "{format}: {refused}"
    );
    store.settle().await;
    assert!(store.list().is_empty());
    for left in ["l", "blobs", "trash"] {
        let count = std::fs::read_dir(folder.path().join(left)).unwrap().count();
        assert_eq!(count, 0, "{format}: {left}");
    }
    drop(store);
    for mount in ["mounts/ns", "mounts"] {
        let _ = rustix::mount::unmount(folder.path().join(mount), rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn more_bytes_than_a_layer_may_have_are_refused() {
    for format in [LayerFormat::Directory, LayerFormat::Erofs] {
        let limits = Limits {
            bytes: 2 * PIECE as u64,
            ..Limits::default()
        };
        refused(format, limits, &bomb(3)).await;
    }
}

/// As many bytes are fine as any layer may have, but not out of so few.
#[tokio::test]
async fn few_bytes_that_become_very_many_are_refused() {
    let limits = Limits {
        ratio_free: 2 * PIECE as u64,
        ..Limits::default()
    };
    refused(LayerFormat::Directory, limits, &bomb(3)).await;
}

#[tokio::test]
async fn nobody_but_root_may_walk_into_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("data");
    // Whatever was there before.
    std::fs::create_dir_all(root.join("l")).unwrap();
    let open_to_all = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(root.join("l"), open_to_all).unwrap();
    let registry = TestRegistry::start().await;
    let tar = Tar::default()
        .file("bin/su", "set-id programs of strangers")
        .finish();
    registry.add("app:v1", &TestImage::new(vec![Layer::gzip(&tar)]));
    let mut settings = config(&root);
    settings.keep_compressed = true;
    let store = Store::open(settings).await.unwrap();
    let pulled = store.pull(registry.request("app:v1")).await.unwrap();
    store.prepare(&pulled.id, "c1").await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let shelves: Vec<_> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    assert!(shelves.len() >= 5, "{shelves:?}");
    for shelf in shelves {
        assert_eq!(mode(&shelf), 0o700, "{}", shelf.display());
    }
    assert_eq!(mode(&root.join("rw/c1")), 0o700);
    for file in ["images.db", "images.db-wal"] {
        let file = root.join("db").join(file);
        assert!(file.exists(), "{} is kept in a folder of root's", file.display());
    }
}
