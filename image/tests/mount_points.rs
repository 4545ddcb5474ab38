//! The layer of mount points below a container's image: what it has, when it is there, and that it lasts.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use image::{Image, ImportOptions, Lower, SnapshotChoice, SnapshotMode, SnapshotRoot, Store};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use support::images::{Layer, Tar, TestImage, layout};
use support::{config, directory, open, tree};

async fn stored(store: &Store, layers: Vec<Tar>) -> Image {
    let layers = layers.into_iter().map(|tar| Layer::gzip(&tar.finish())).collect();
    let archive = layout(&[("app:1", &TestImage::new(layers))]);
    let imported = store.import(&archive[..], ImportOptions::default()).await;
    imported.unwrap().remove(0)
}

async fn container(store: &Store, image: &Image, key: &str) -> SnapshotRoot {
    store.prepare(&image.id, key).await.unwrap();
    store.container_root(key).unwrap().unwrap()
}

fn lower(root: SnapshotRoot) -> Vec<Lower> {
    match root {
        SnapshotRoot::Overlay { lower, .. } => lower,
        SnapshotRoot::Directory(path) => panic!("an overlay was expected, not {}", path.display()),
    }
}

/// What is below a directory, with owners, modes and sizes.
fn listed(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let size = if metadata.is_dir() { 0 } else { metadata.len() };
        let line = format!(
            "{:o} {}:{} {size}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid()
        );
        found.insert(
            path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(),
            line,
        );
        if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

/// What the layer is to be.
fn right() -> BTreeMap<String, String> {
    let directories = ["", "dev", "etc", "proc", "sys"].map(|name| (name, "40755 0:0 0"));
    let files = ["etc/hostname", "etc/hosts", "etc/resolv.conf"].map(|name| (name, "100644 0:0 0"));
    let all = directories.into_iter().chain(files);
    all.map(|(name, line)| (name.to_owned(), line.to_owned()))
        .collect()
}

#[tokio::test]
async fn it_lies_below_a_containers_image_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let tree = folder.path().join("m/fs");
    assert_eq!(listed(&tree), right());
    let below = Lower::Directory(tree);
    let image = stored(
        &store,
        vec![Tar::default().file("a", "a"), Tar::default().file("b", "b")],
    )
    .await;
    let whole = lower(container(&store, &image, "c1").await);
    let shown = lower(store.snapshot("c1").unwrap().unwrap().root);
    assert_eq!(shown.len(), 2, "what the image itself shows");
    assert_eq!(whole, [&shown[..], &[below]].concat());
    assert_eq!(store.container_root("c2").unwrap(), None);

    let nothing = stored(&store, Vec::new()).await;
    let SnapshotRoot::Directory(root) = container(&store, &nothing, "nothing").await else {
        panic!("a root of no layers is a directory")
    };
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);

    let copies = tempfile::tempdir().unwrap();
    let mut settings = config(copies.path());
    settings.snapshots = SnapshotChoice::Fixed(SnapshotMode::Copy);
    let copying = Store::open(settings).await.unwrap();
    let image = stored(&copying, vec![Tar::default().file("a", "a")]).await;
    let SnapshotRoot::Directory(root) = container(&copying, &image, "c").await else {
        panic!("a copy was expected")
    };
    assert_eq!(
        fs::read_dir(root).unwrap().count(),
        1,
        "a copy is of the image alone"
    );
}

/// overlayfs takes 500 layers, and mount(2) a page of their names.
#[tokio::test]
async fn an_image_of_very_many_layers_goes_without() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for (layers, all) in [(128, 129), (129, 129), (500, 500)] {
        let layers = (0..layers).map(|number| Tar::default().file("number", format!("{number}")));
        let image = stored(&store, layers.collect()).await;
        let key = format!("c{all}-{}", image.id);
        let root = container(&store, &image, &key.replace(':', "-")).await;
        assert_eq!(lower(root).len(), all);
    }
}

#[tokio::test]
async fn collecting_leaves_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let image = stored(&store, vec![Tar::default().file("a", "a")]).await;
    container(&store, &image, "c").await;
    store.remove("app:1").await.unwrap();
    store.remove_snapshot("c").await.unwrap();
    store.collect_garbage().await.unwrap();
    store.settle().await;
    assert_eq!(fs::read_dir(folder.path().join("l")).unwrap().count(), 0);
    assert_eq!(listed(&folder.path().join("m/fs")), right());
}

/// What is wrong, and how it comes to be.
type Damage<'a> = (&'a str, Box<dyn Fn() + 'a>);

#[tokio::test]
async fn what_is_not_as_it_was_made_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join("m").join(name);
    let canary = tempfile::tempdir().unwrap();
    fs::write(canary.path().join("song"), "sings").unwrap();
    drop(open(folder.path()).await);
    let first = fs::metadata(path("fs")).unwrap().ino();
    drop(open(folder.path()).await);
    assert_eq!(
        fs::metadata(path("fs")).unwrap().ino(),
        first,
        "it is made only once"
    );

    let outside = canary.path().to_owned();
    let damages: Vec<Damage<'_>> = vec![
        ("gone", Box::new(|| fs::remove_dir_all(path("fs")).unwrap())),
        (
            "half there",
            Box::new(|| fs::remove_file(path("fs/etc/hosts")).unwrap()),
        ),
        (
            "more",
            Box::new(|| fs::write(path("fs/etc/passwd"), "root").unwrap()),
        ),
        (
            "not empty",
            Box::new(|| fs::write(path("fs/etc/hosts"), "1.2.3.4 a").unwrap()),
        ),
        ("open to all", Box::new(|| permit(&path("fs/etc"), 0o777))),
        (
            "another's",
            Box::new(|| std::os::unix::fs::chown(path("fs/dev"), Some(1), Some(1)).unwrap()),
        ),
        (
            "a link",
            Box::new(|| {
                fs::remove_dir(path("fs/proc")).unwrap();
                symlink(&outside, path("fs/proc")).unwrap();
            }),
        ),
        (
            "another kind",
            Box::new(|| {
                fs::remove_dir_all(path("fs")).unwrap();
                fs::write(path("fs"), "").unwrap();
            }),
        ),
        (
            "unfinished",
            Box::new(|| {
                fs::rename(path("fs"), path(".new")).unwrap();
                fs::create_dir(path(".new/etc/more")).unwrap();
            }),
        ),
    ];
    for (damage, done) in damages {
        done();
        let store = open(folder.path()).await;
        store.settle().await;
        assert_eq!(listed(&path("fs")), right(), "{damage}");
        let names: Vec<PathBuf> = entries(&folder.path().join("m"));
        assert_eq!(names, [path("fs")], "{damage}");
        assert!(entries(&folder.path().join("trash")).is_empty(), "{damage}");
    }
    assert_eq!(fs::read_to_string(canary.path().join("song")).unwrap(), "sings");
}

/// Where a directory below an overlay is deleted, the overlay's is empty: a wrong layer stays as long as containers do.
#[tokio::test]
async fn a_wrong_one_stays_for_who_runs_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join("m").join(name);
    let store = open(folder.path()).await;
    let image = stored(&store, vec![Tar::default().file("a", "a")]).await;
    container(&store, &image, "c").await;
    drop(store);
    for number in 1..3 {
        fs::write(path("fs/etc/more"), "").unwrap();
        let store = open(folder.path()).await;
        store.settle().await;
        assert_eq!(listed(&path("fs")), right());
        assert!(path(&format!(".old-{number}/etc/more")).exists());
    }
    let store = open(folder.path()).await;
    store.remove_snapshot("c").await.unwrap();
    drop(store);
    let store = open(folder.path()).await;
    store.settle().await;
    assert_eq!(entries(&folder.path().join("m")), [path("fs")]);
}

/// A store that cannot make it opens all the same.
#[tokio::test]
async fn containers_start_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let image = stored(&store, vec![Tar::default().file("a", "a")]).await;
    drop(store);
    let file = folder.path().join("m/fs");
    fs::remove_dir_all(&file).unwrap();
    // Something that no rename replaces, and that cannot be moved away: a mount point.
    let mounted = Mounted::at(file);
    let store = open(folder.path()).await;
    let layers = lower(container(&store, &image, "c").await);
    drop(mounted);
    assert_eq!(layers.len(), 1);
    assert!(tree(directory(&layers[0])).contains_key("a"));
}

/// Something mounted, for the length of a test.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        mount("none", &path, "tmpfs", MountFlags::empty(), None).unwrap();
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn permit(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}
