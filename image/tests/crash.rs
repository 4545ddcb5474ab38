//! The store killed at each step, and the power going off there: an image is complete or absent, never half.
//!
//! A child (this test again, with its part in the environment) imports or pulls an image while strace kills it at the
//! n-th call of a kind that changes the disk. What then is on the disk, and what had reached the device by then, are
//! both opened.

mod support;

use std::path::Path;
use std::process::Command;

use image::{ImportOptions, LayerFormat, LayerFormatChoice, PullRequest, Store};
use support::config;
use support::disk::Disk;
use support::images::{Layer, Tar, TestImage, layout};
use support::registry::TestRegistry;

/// Where the child is to work, and where its image comes from: an address, or nowhere.
const FOLDER: &str = "CRASH_FOLDER";
const REGISTRY: &str = "CRASH_REGISTRY";
/// Calls that change the disk, or make sure of it.
const STEPS: [&str; 6] = ["mkdir", "rename", "syncfs", "fsync", "pwrite64", "ftruncate"];

fn image() -> TestImage {
    let base = Tar::default()
        .dir("d/", 0o755)
        .file("d/a", vec![b'a'; 9000])
        .file("b", "b");
    let top = Tar::default()
        .file("d/.wh.a", "")
        .file("c", vec![b'c'; 5000])
        .hard_link("e", "b");
    TestImage::new([base, top].map(|tar| Layer::gzip(&tar.finish())).to_vec())
}

/// Where an image comes from.
enum Source {
    Archive,
    /// At this address.
    Registry(String),
}

impl Source {
    /// What the image is called then.
    fn name(&self) -> String {
        match self {
            Self::Archive => "app:1".into(),
            Self::Registry(address) => format!("{address}/app:1"),
        }
    }

    async fn bring(&self, store: &Store) -> Result<(), String> {
        match self {
            Self::Archive => {
                let archive = layout(&[("app:1", &image())]);
                let imported = store.import(&archive[..], ImportOptions::default()).await;
                imported.map(drop).map_err(|error| error.to_string())
            }
            Self::Registry(_) => {
                let request = PullRequest::anonymous(self.name().parse().unwrap());
                let pulled = store.pull(request).await;
                pulled.map(drop).map_err(|error| error.to_string())
            }
        }
    }
}

async fn open(data: &Path, mounts: &Path, format: LayerFormat) -> Store {
    let mut settings = config(data);
    settings.layer_format = LayerFormatChoice::Fixed(format);
    settings.layer_mounts = mounts.to_owned();
    // The disks are small.
    settings.limits.headroom = 0;
    Store::open(settings).await.unwrap()
}

/// The child's part; `None` in the parent.
async fn victim(format: LayerFormat) -> Option<()> {
    let folder = std::env::var_os(FOLDER)?;
    let source = match std::env::var(REGISTRY) {
        Ok(address) => Source::Registry(address),
        Err(_) => Source::Archive,
    };
    let folder = Path::new(&folder);
    let store = open(&folder.join("mnt/data"), &folder.join("mounts"), format).await;
    source.bring(&store).await.unwrap();
    Some(())
}

/// Whether the child came to its end.
fn bring_until(test: &str, disk: &Disk, source: &Source, step: &str, count: usize) -> bool {
    let inject = format!("--inject={step}:signal=KILL:when={count}");
    let mut command = Command::new("strace");
    command
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            &format!("--trace={step}"),
            &inject,
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1"])
        .env(FOLDER, disk.path().parent().unwrap());
    if let Source::Registry(address) = source {
        command.env(REGISTRY, address);
    }
    let output = command
        .output()
        .expect("strace is installed by test-e2e/setup.sh");
    output.status.success()
}

/// The image is whole (its files give the very archive it came from) or not there; and it can be imported.
async fn is_whole_or_absent(disk: &Disk, source: &Source, format: LayerFormat, when: &str) {
    let store = open(&disk.path().join("data"), &disk.beside("mounts"), format).await;
    let name = source.name();
    let names = std::slice::from_ref(&name);
    if store.resolve(&name).is_ok() {
        let exported = store.export(names, &mut Vec::new()).await;
        exported.unwrap_or_else(|error| panic!("{when}: {error}"));
    }
    let brought = source.bring(&store).await;
    brought.unwrap_or_else(|error| panic!("{when}: {error}"));
    store.export(names, &mut Vec::new()).await.unwrap();
    store.remove(&name).await.unwrap();
    store.settle().await;
    for folder in ["l", "trash", "blobs"] {
        let left = std::fs::read_dir(disk.path().join("data").join(folder)).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{when}: {folder} still has {left:?}");
    }
}

/// Every `stride`th of the small writes is hit: SQLite alone makes dozens.
async fn at_each_step(test: &str, source: Source, format: LayerFormat, stride: usize) {
    let mut kills = 0;
    for step in STEPS {
        let mut killed = 0;
        // Counted until the child gets through.
        for count in (1..).step_by(if step == "pwrite64" { stride } else { 1 }) {
            let disk = Disk::new(24, 2000);
            let done = tokio::task::block_in_place(|| bring_until(test, &disk, &source, step, count));
            let when = format!("{format}, killed at {step} number {count}");
            let without_power = format!("{when}, and without power");
            is_whole_or_absent(&disk.after_power_loss(), &source, format, &without_power).await;
            is_whole_or_absent(&disk, &source, format, &when).await;
            if done {
                break;
            }
            killed += 1;
            assert!(count < 200, "{step} never comes to an end");
        }
        println!("{format}: {killed} kills at {step}");
        kills += killed;
    }
    assert!(kills > 20, "the child is not where it was");
}

async fn imports(test: &str, format: LayerFormat) {
    if victim(format).await.is_none() {
        at_each_step(test, Source::Archive, format, 7).await;
    }
}

async fn pulls(test: &str, format: LayerFormat) {
    if victim(format).await.is_none() {
        let registry = TestRegistry::start().await;
        registry.add("app:1", &image());
        at_each_step(test, Source::Registry(registry.address.to_string()), format, 17).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_directories_are_whole_or_absent() {
    imports("imported_directories_are_whole_or_absent", LayerFormat::Directory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_images_are_whole_or_absent() {
    imports("imported_images_are_whole_or_absent", LayerFormat::Erofs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pulled_directories_are_whole_or_absent() {
    pulls("pulled_directories_are_whole_or_absent", LayerFormat::Directory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pulled_images_are_whole_or_absent() {
    pulls("pulled_images_are_whole_or_absent", LayerFormat::Erofs).await;
}
