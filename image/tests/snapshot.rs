//! Writable layers in every mode; what a copy holds is what overlayfs shows.

mod support;

use std::path::{Path, PathBuf};

use image::{Error, Image, ImportOptions, Lower, SnapshotChoice, SnapshotMode, SnapshotRoot, Store};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use support::images::{Layer, Tar, TestImage, layout};
use support::registry::TestRegistry;
use support::{config, directory, open, tree};

/// An overlay mounted for the length of a test.
struct Mounted(PathBuf);

impl Mounted {
    fn overlay(at: &Path, lower: &[Lower], upper: &Path, work: &Path) -> Self {
        use std::os::fd::AsFd;
        std::fs::create_dir_all(at).unwrap();
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        let lower: Vec<&str> = lower
            .iter()
            .map(|layer| directory(layer).to_str().unwrap())
            .collect();
        fsconfig_set_string(context.as_fd(), "lowerdir", lower.join(":")).unwrap();
        fsconfig_set_string(context.as_fd(), "upperdir", upper).unwrap();
        fsconfig_set_string(context.as_fd(), "workdir", work).unwrap();
        fsconfig_create(context.as_fd()).unwrap();
        let mount = fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
        .unwrap();
        move_mount(
            mount.as_fd(),
            "",
            CWD,
            at,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .unwrap();
        Self(at.into())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn layers() -> TestImage {
    let base = Tar::default()
        .dir("./", 0o755)
        .dir("etc/", 0o750)
        .file("etc/passwd", "root")
        .file("etc/old", "old")
        .file("etc/twin", "twin")
        .hard_link("etc/same", "etc/twin")
        .dir("d/", 0o755)
        .file("d/hidden", "1")
        .dir("d/sub/", 0o755)
        .file("d/sub/x", "1")
        .file("becomes-dir", "f")
        .dir("becomes-file/", 0o755)
        .file("becomes-file/x", "f")
        .symlink("bin", "usr/bin")
        .dir("tmp/", 0o1777);
    let middle = Tar::default()
        .file("etc/.wh.old", "")
        .file("d/.wh..wh..opq", "")
        .dir("d/", 0o700)
        .file("d/shown", "2")
        .dir("becomes-dir/", 0o711)
        .file("becomes-dir/in", "2")
        .file("becomes-file", "now a file")
        .file("tmp/x", "2")
        .file("never/.wh.there", "");
    let top = Tar::default()
        .file("a", vec![b'a'; 100_000])
        .hard_link("b", "a")
        .file("etc/old", "again")
        .file(".wh.bin", "")
        .device("fifo", tar::EntryType::Fifo, 0, 0)
        .device("null", tar::EntryType::Char, 1, 3);
    TestImage::new([base, middle, top].map(|tar| Layer::gzip(&tar.finish())).to_vec())
}

async fn stored(store: &Store) -> Image {
    let archive = layout(&[("app:1", &layers())]);
    store
        .import(&archive[..], ImportOptions::default())
        .await
        .unwrap()
        .remove(0)
}

async fn store_with(root: &Path, mode: SnapshotMode) -> Store {
    let mut settings = config(root);
    settings.snapshots = SnapshotChoice::Fixed(mode);
    Store::open(settings).await.unwrap()
}

#[tokio::test]
async fn a_copy_holds_what_overlayfs_shows() {
    let (plain, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(plain.path()).await;
    assert_eq!(
        store.snapshot_mode(),
        SnapshotMode::Overlay,
        "the tests need a disk that carries overlays"
    );
    let image = stored(&store).await;
    let SnapshotRoot::Overlay { lower, upper, work } = store.prepare(&image.id, "c1").await.unwrap().root
    else {
        panic!("an overlay was expected")
    };
    let mounted = Mounted::overlay(&plain.path().join("merged"), &lower, &upper, &work);
    let wanted = tree(&mounted.0);
    assert!(
        wanted.contains_key("d/shown") && !wanted.contains_key("d/hidden") && !wanted.contains_key("bin")
    );
    assert!(wanted["tmp"].starts_with("41777"), "{}", wanted["tmp"]);

    let copying = store_with(copied.path(), SnapshotMode::Copy).await;
    let image = stored(&copying).await;
    let SnapshotRoot::Directory(folder) = copying.prepare(&image.id, "c1").await.unwrap().root else {
        panic!("a copy was expected")
    };
    let found = tree(&folder);
    for (path, line) in &wanted {
        assert_eq!(found.get(path), Some(line), "{path}");
    }
    assert_eq!(found.len(), wanted.len());
}

/// As inside a container: the data directory is itself an overlay.
#[tokio::test]
async fn a_store_on_an_overlay_falls_back_and_keeps_whiteouts_beside_its_layers() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let below = Mounted::overlay(
        &path("data"),
        &[Lower::Directory(path("lower"))],
        &path("upper"),
        &path("work"),
    );
    let plain = tempfile::tempdir().unwrap();
    let reference = store_with(plain.path(), SnapshotMode::Copy).await;
    let image = stored(&reference).await;
    let SnapshotRoot::Directory(wanted) = reference.prepare(&image.id, "c").await.unwrap().root else {
        panic!()
    };
    let wanted = tree(&wanted);

    let store = open(&below.0).await;
    let upper = Mounted(below.0.join("rw"));
    let mode = store.snapshot_mode();
    assert_ne!(mode, SnapshotMode::Overlay);
    let image = stored(&store).await;
    let SnapshotRoot::Directory(copy) = store.prepare(&image.id, "c1").await.unwrap().root else {
        panic!("an image with whiteouts beside its layers cannot be stacked")
    };
    assert_eq!(tree(&copy), wanted);

    // An image that deletes nothing is stacked, with its upper in memory.
    let simple = TestImage::new(vec![Layer::gzip(&Tar::default().file("a", "a").finish())]);
    let archive = layout(&[("simple:1", &simple)]);
    let simple = store
        .import(&archive[..], ImportOptions::default())
        .await
        .unwrap()
        .remove(0);
    let root = store.prepare(&simple.id, "c2").await.unwrap().root;
    if let SnapshotMode::OverlayOnTmpfs { .. } = mode {
        let SnapshotRoot::Overlay { lower, upper, work } = root else {
            panic!("{root:?}")
        };
        let merged = Mounted::overlay(&folder.path().join("merged"), &lower, &upper, &work);
        std::fs::write(merged.0.join("b"), "b").unwrap();
        std::fs::remove_file(merged.0.join("a")).unwrap();
        assert_eq!(std::fs::read_dir(&merged.0).unwrap().count(), 1);
    }
    for key in ["c1", "c2"] {
        store.remove_snapshot(key).await.unwrap();
    }
    drop(store);
    let again = open(&below.0).await;
    assert_eq!(again.snapshot_mode(), mode, "found again, not mounted twice");
    assert!(again.snapshots().is_empty());
    drop(again);
    drop(upper);
}

#[tokio::test]
async fn snapshots_have_names_owners_and_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let image = stored(&store).await;
    for bad in ["", ".", "..", "a/b", ".hidden", "a\n"] {
        let refused = store.prepare(&image.id, bad).await.unwrap_err();
        assert!(matches!(refused, Error::SnapshotKey { .. }), "{refused}");
    }
    let nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        .parse()
        .unwrap();
    assert!(matches!(
        store.prepare(&nothing, "c").await.unwrap_err(),
        Error::NoSuchImage { .. }
    ));
    let SnapshotRoot::Overlay { upper, .. } = store.prepare(&image.id, "c").await.unwrap().root else {
        panic!()
    };
    assert!(matches!(
        store.prepare(&image.id, "c").await.unwrap_err(),
        Error::SnapshotExists { .. }
    ));
    std::fs::write(upper.join("written"), vec![1; 50_000]).unwrap();
    let usage = store.snapshot_usage("c").await.unwrap();
    assert!(usage.bytes >= 50_000 && usage.inodes == 2, "{usage:?}");
    assert!(store.usage().await.unwrap().containers.bytes >= usage.bytes);
    store.remove_snapshot("c").await.unwrap();
    store.remove_snapshot("c").await.unwrap();
    store.settle().await;
    assert_eq!(std::fs::read_dir(folder.path().join("rw")).unwrap().count(), 0);
    assert_eq!(store.snapshot("c").unwrap(), None);
}

#[tokio::test]
async fn an_image_without_layers_has_an_empty_root() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let archive = layout(&[("empty:1", &TestImage::new(Vec::new()))]);
    let image = store
        .import(&archive[..], ImportOptions::default())
        .await
        .unwrap()
        .remove(0);
    assert!(image.size > 0);
    let SnapshotRoot::Directory(root) = store.prepare(&image.id, "c").await.unwrap().root else {
        panic!()
    };
    assert_eq!(std::fs::read_dir(root).unwrap().count(), 0);
}

/// The record file of images is lost. What runs does not feel it, and the images can be pulled again.
#[tokio::test]
async fn containers_keep_their_layers_when_the_records_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let base = Tar::default().dir("etc/", 0o755).file("etc/passwd", "root");
    let top = Tar::default().file("app", "runs").file("etc/.wh.passwd", "");
    let image = TestImage::new([base, top].map(|tar| Layer::gzip(&tar.finish())).to_vec());
    registry.add("app:v1", &image);
    let store = open(folder.path()).await;
    let pulled = store.pull(registry.request("app:v1")).await.unwrap();
    let before = store.prepare(&pulled.id, "c1").await.unwrap();
    let SnapshotRoot::Overlay { lower, .. } = &before.root else {
        panic!("{before:?}")
    };
    let trees: Vec<_> = lower.iter().map(|layer| tree(directory(layer))).collect();
    let lost = || {
        for file in ["images.db-wal", "images.db-shm"] {
            let _ = std::fs::remove_file(folder.path().join("db").join(file));
        }
        std::fs::write(folder.path().join("db/images.db"), "neither SQLite nor ours").unwrap();
    };
    let layers = || std::fs::read_dir(folder.path().join("l")).unwrap().count();
    drop(store);
    lost();
    let store = open(folder.path()).await;
    assert!(store.list().is_empty());
    store.collect_garbage().await.unwrap();
    store.settle().await;
    let same = || {
        for (layer, tree_before) in lower.iter().zip(&trees) {
            assert_eq!(&tree(directory(layer)), tree_before);
        }
    };
    same();
    let refused = store.snapshot("c1").unwrap_err();
    assert!(matches!(refused, Error::NoSuchImage { .. }), "{refused}");
    store.pull(registry.request("app:v1")).await.unwrap();
    store.settle().await;
    same();
    assert_eq!(store.snapshot("c1").unwrap(), Some(before.clone()));
    assert_eq!(layers(), 2);

    // They go with the last container.
    drop(store);
    lost();
    let store = open(folder.path()).await;
    store.settle().await;
    assert_eq!(layers(), 2);
    store.remove_snapshot("c1").await.unwrap();
    store.settle().await;
    assert_eq!(layers(), 0);
}
