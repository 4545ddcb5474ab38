//! The store killed at each step, and the power going off there: an image is complete or absent, never half.
//!
//! A child (this program again, as the ignored test below) imports an image while strace kills it at the n-th call of
//! a kind that changes the disk. What then is on the disk, and what had reached the device by then, are both opened.

mod support;

use std::path::Path;
use std::process::Command;

use image::{ImportOptions, LayerFormat, LayerFormatChoice, Store};
use support::config;
use support::disk::Disk;
use support::images::{Layer, Tar, TestImage, layout};

/// Where the child is to work, and in which format.
const FOLDER: &str = "CRASH_FOLDER";
const FORMAT: &str = "CRASH_FORMAT";
/// Calls that change the disk, or make sure of it.
const STEPS: [&str; 6] = ["mkdir", "rename", "syncfs", "fsync", "pwrite64", "ftruncate"];

fn archive() -> Vec<u8> {
    let base = Tar::default()
        .dir("d/", 0o755)
        .file("d/a", vec![b'a'; 9000])
        .file("b", "b");
    let top = Tar::default()
        .file("d/.wh.a", "")
        .file("c", vec![b'c'; 5000])
        .hard_link("e", "b");
    let image = TestImage::new([base, top].map(|tar| Layer::gzip(&tar.finish())).to_vec());
    layout(&[("app:1", &image)])
}

async fn open(data: &Path, mounts: &Path, format: LayerFormat) -> Store {
    let mut settings = config(data);
    settings.layer_format = LayerFormatChoice::Fixed(format);
    settings.layer_mounts = mounts.to_owned();
    // The disks are small.
    settings.limits.headroom = 0;
    Store::open(settings).await.unwrap()
}

#[tokio::test]
#[ignore = "the victim of the tests here"]
async fn victim() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let format = match std::env::var(FORMAT).as_deref() {
        Ok("erofs") => LayerFormat::Erofs,
        _ => LayerFormat::Directory,
    };
    let store = open(&folder.join("mnt/data"), &folder.join("mounts"), format).await;
    store
        .import(&archive()[..], ImportOptions::default())
        .await
        .unwrap();
}

/// Whether the child came to its end.
fn import_until(disk: &Disk, format: LayerFormat, step: &str, count: usize) -> bool {
    let inject = format!("--inject={step}:signal=KILL:when={count}");
    let output = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            &format!("--trace={step}"),
            &inject,
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--ignored", "--test-threads=1"])
        .env(FOLDER, disk.path().parent().unwrap())
        .env(FORMAT, format.to_string())
        .output()
        .expect("strace is installed by test-e2e/setup.sh");
    output.status.success()
}

/// The image is whole (its files give the very archive it came from) or not there; and it can be imported.
async fn is_whole_or_absent(disk: &Disk, format: LayerFormat, when: &str) {
    let store = open(&disk.path().join("data"), &disk.beside("mounts"), format).await;
    if store.resolve("app:1").is_ok() {
        let exported = store.export(&["app:1".into()], &mut Vec::new()).await;
        exported.unwrap_or_else(|error| panic!("{when}: {error}"));
    }
    let imported = store.import(&archive()[..], ImportOptions::default()).await;
    imported.unwrap_or_else(|error| panic!("{when}: {error}"));
    store.export(&["app:1".into()], &mut Vec::new()).await.unwrap();
    store.remove("app:1").await.unwrap();
    store.settle().await;
    for folder in ["l", "trash", "blobs"] {
        let left = std::fs::read_dir(disk.path().join("data").join(folder)).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{when}: {folder} still has {left:?}");
    }
}

async fn at_each_step(format: LayerFormat) {
    for step in STEPS {
        let mut killed = 0;
        // Counted until the child gets through; SQLite alone makes dozens of small writes, of which each seventh is hit.
        for count in (1..).step_by(if step == "pwrite64" { 7 } else { 1 }) {
            let disk = Disk::new(24, 2000);
            let done = import_until(&disk, format, step, count);
            let when = format!("{format}, killed at {step} number {count}");
            is_whole_or_absent(
                &disk.after_power_loss(),
                format,
                &format!("{when}, and without power"),
            )
            .await;
            is_whole_or_absent(&disk, format, &when).await;
            if done {
                break;
            }
            killed += 1;
            assert!(count < 200, "{step} never comes to an end");
        }
        println!("{format}: {killed} kills at {step}");
    }
}

#[tokio::test]
async fn directories_are_whole_or_absent() {
    at_each_step(LayerFormat::Directory).await;
}

#[tokio::test]
async fn images_are_whole_or_absent() {
    at_each_step(LayerFormat::Erofs).await;
}
