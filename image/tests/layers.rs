//! Layers kept as EROFS images: the same files as directories, one mount for all, damage found.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use image::{
    Image, ImportOptions, LayerFormat, LayerFormatChoice, Lower, SnapshotChoice, SnapshotMode, SnapshotRoot,
    Store,
};
use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use support::images::{Layer, Tar, TestImage, layout};
use support::{config, tree};

/// A folder for one store; nothing it mounted stays when the test fails.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn mounts(&self) -> PathBuf {
        self.0.path().join("mounts")
    }

    async fn open(&self, format: LayerFormat, snapshots: SnapshotChoice) -> Store {
        let mut settings = config(&self.data());
        settings.layer_format = LayerFormatChoice::Fixed(format);
        settings.layer_mounts = self.mounts();
        settings.snapshots = snapshots;
        Store::open(settings).await.unwrap()
    }

    async fn erofs(&self) -> Store {
        self.open(LayerFormat::Erofs, SnapshotChoice::Probe).await
    }

    /// The files of all layers that are images.
    fn images(&self) -> Vec<PathBuf> {
        let layers = fs::read_dir(self.data().join("l")).unwrap();
        let images = layers.map(|layer| layer.unwrap().path().join("erofs"));
        images.filter(|image| image.exists()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for path in [self.mounts().join("ns"), self.mounts()] {
            let _ = unmount(path, UnmountFlags::DETACH);
        }
    }
}

const COPY: SnapshotChoice = SnapshotChoice::Fixed(SnapshotMode::Copy);

fn app() -> TestImage {
    let base = Tar::default()
        .dir("etc/", 0o750)
        .file("etc/passwd", "root")
        .file("etc/old", "old")
        .file("etc/twin", "twin")
        .hard_link("etc/same", "etc/twin")
        .dir("d/", 0o755)
        .file("d/hidden", "1")
        .file("big", vec![b'b'; 300_000])
        .symlink("bin", "usr/bin");
    let top = Tar::default()
        .file("etc/.wh.old", "")
        .dir("d/", 0o700)
        .file("d/.wh..wh..opq", "")
        .file("d/shown", "2")
        .hard_link("again", "big")
        .device("null", tar::EntryType::Char, 1, 3);
    TestImage::new([base, top].map(|tar| Layer::gzip(&tar.finish())).to_vec())
}

async fn import(store: &Store, name: &str, image: &TestImage) -> Image {
    let archive = layout(&[(name, image)]);
    let mut images = store
        .import(&archive[..], ImportOptions::default())
        .await
        .unwrap();
    images.remove(0)
}

async fn copied(store: &Store, image: &Image, key: &str) -> BTreeMap<String, String> {
    let SnapshotRoot::Directory(folder) = store.prepare(&image.id, key).await.unwrap().root else {
        panic!("a copy was expected")
    };
    tree(&folder)
}

async fn lower(store: &Store, image: &Image, key: &str) -> Vec<Lower> {
    let SnapshotRoot::Overlay { lower, .. } = store.prepare(&image.id, key).await.unwrap().root else {
        panic!("an overlay was expected")
    };
    lower
}

/// The device number of a mounted layer, which tells one mount of a file from another.
fn device(layer: &Lower) -> u64 {
    let Lower::Mounted { namespace, name } = layer else {
        panic!("a mount was expected")
    };
    let (namespace, name) = (fs::File::open(namespace).unwrap(), name.clone());
    let inside = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
        use std::os::fd::AsFd;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount)).unwrap();
        fs::metadata(Path::new("/").join(name)).unwrap().dev()
    });
    inside.join().unwrap()
}

#[tokio::test]
async fn both_formats_hold_the_same_and_a_store_reads_both() {
    let (directories, images) = (Place::new(), Place::new());
    let store = directories.open(LayerFormat::Directory, COPY).await;
    let image = import(&store, "app:1", &app()).await;
    let wanted = copied(&store, &image, "c").await;
    assert!(wanted.contains_key("d/shown") && !wanted.contains_key("d/hidden"));

    let store = images.erofs().await;
    assert_eq!(store.layer_format().format, LayerFormat::Erofs);
    assert_eq!(store.layer_format().to_string(), "erofs (as configured)");
    let image = import(&store, "app:1", &app()).await;
    let passwd = store.read_file(&image.id, "/etc/passwd", 100).await.unwrap();
    assert_eq!(passwd.as_deref(), Some(&b"root"[..]));
    let mut archive = Vec::new();
    store.export(&["app:1".into()], &mut archive).await.unwrap();
    drop(store);
    assert_eq!(images.images().len(), 2);

    // What is in images stays usable where new layers are directories, and the other way round.
    let store = images.open(LayerFormat::Directory, COPY).await;
    let image = store.resolve("app:1").unwrap();
    assert_eq!(copied(&store, &image, "c").await, wanted);
    store.remove("app:1").await.unwrap();
    store.remove_snapshot("c").await.unwrap();
    let image = store
        .import(&archive[..], ImportOptions::default())
        .await
        .unwrap()
        .remove(0);
    assert_eq!(
        copied(&store, &image, "again").await,
        wanted,
        "from the exported archive"
    );
    drop(store);
    let store = images.erofs().await;
    let image = store.resolve("app:1").unwrap();
    assert!(matches!(
        lower(&store, &image, "o").await[..],
        [Lower::Directory(_), Lower::Directory(_)]
    ));
}

#[tokio::test]
async fn a_layer_is_mounted_once_and_found_again() {
    let place = Place::new();
    let store = place.erofs().await;
    assert!(!place.mounts().exists(), "nothing is mounted yet");
    let image = import(&store, "app:1", &app()).await;
    let first: Vec<u64> = lower(&store, &image, "c1").await.iter().map(device).collect();
    let second: Vec<u64> = lower(&store, &image, "c2").await.iter().map(device).collect();
    assert_eq!(first, second);
    assert_ne!(first[0], first[1]);
    drop(store);
    let store = place.erofs().await;
    let third: Vec<u64> = lower(&store, &image, "c3").await.iter().map(device).collect();
    assert_eq!(first, third, "the next store goes on with the mounts of the last");

    for key in ["c1", "c2", "c3"] {
        store.remove_snapshot(key).await.unwrap();
    }
    store.remove("app:1").await.unwrap();
    store.settle().await;
    assert!(!place.mounts().exists(), "with the last layer goes the namespace");
    assert!(place.images().is_empty());
}

#[tokio::test]
async fn a_damaged_image_is_found_and_made_anew() {
    for damage in [
        (|image: &fs::File| image.set_len(8192).unwrap()) as fn(&fs::File),
        |image| std::os::unix::fs::FileExt::write_all_at(image, &[7; 64], 1100).unwrap(),
    ] {
        let place = Place::new();
        let store = place.erofs().await;
        import(&store, "app:1", &app()).await;
        drop(store);
        let broken = place.images().remove(0);
        damage(&fs::File::options().write(true).open(&broken).unwrap());
        let store = place.erofs().await;
        assert!(store.resolve("app:1").is_err(), "an image is whole or absent");
        assert!(
            store
                .report()
                .lost_images
                .iter()
                .any(|name| name.contains("app:1"))
        );
        let image = import(&store, "app:1", &app()).await;
        let found = lower(&store, &image, "c").await;
        assert_eq!(found.len(), 2);
        assert_ne!(device(&found[0]), device(&found[1]));
    }
}

#[tokio::test]
async fn the_namespace_outlives_the_store_only_with_containers() {
    let place = Place::new();
    let store = place.erofs().await;
    let image = import(&store, "app:1", &app()).await;
    lower(&store, &image, "c").await;
    store.close().await.unwrap();
    assert!(place.mounts().join("ns").exists());
    store.remove_snapshot("c").await.unwrap();
    store.close().await.unwrap();
    assert!(!place.mounts().exists());
}

#[tokio::test]
async fn a_namespace_that_somebody_unpinned_is_made_anew() {
    let place = Place::new();
    let store = place.erofs().await;
    let image = import(&store, "app:1", &app()).await;
    lower(&store, &image, "c1").await;
    for path in [place.mounts().join("ns"), place.mounts()] {
        unmount(path, UnmountFlags::DETACH).unwrap();
    }
    let found = lower(&store, &image, "c2").await;
    assert_ne!(
        device(&found[0]),
        device(&found[1]),
        "others find the layers there"
    );
}
