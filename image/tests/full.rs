//! A disk without room, for bytes or for files: a clear error, nothing half-made, and removing still works.

mod support;

use std::path::Path;

use image::{ErrorKind, ImportOptions, LayerFormat, LayerFormatChoice, Limits, Store};
use support::config;
use support::disk::Disk;
use support::images::{Layer, Tar, TestImage, layout};

async fn open(disk: &Disk, format: LayerFormat) -> Store {
    let mut settings = config(&disk.path().join("data"));
    settings.layer_format = LayerFormatChoice::Fixed(format);
    settings.layer_mounts = disk.beside("mounts");
    // These tests look at what the file system says.
    settings.limits = Limits {
        headroom: 0,
        ..Limits::default()
    };
    Store::open(settings).await.unwrap()
}

/// One image of this many files of this size, which do not compress away.
fn archive(name: &str, files: u64, size: usize) -> Vec<u8> {
    let mut tar = Tar::default();
    let mut state = 88_172_645_463_325_252_u64;
    for number in 0..files {
        let mut content = Vec::with_capacity(size + 8);
        while content.len() < size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.extend_from_slice(&state.to_le_bytes());
        }
        content.truncate(size);
        tar = tar.file(&format!("file{number}"), content);
    }
    layout(&[(name, &TestImage::new(vec![Layer::gzip(&tar.finish())]))])
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

async fn no_room(format: LayerFormat, disk: Disk, too_much: Vec<u8>) {
    let store = open(&disk, format).await;
    let import = async |archive: &[u8]| store.import(archive, ImportOptions::default()).await;
    import(&archive("small:1", 3, 2000)).await.unwrap();
    let layers = entries(&disk.path().join("data/l"));
    let refused = import(&too_much).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace, "{format}: {refused}");
    store.settle().await;
    assert_eq!(entries(&disk.path().join("data/l")), layers, "nothing half-made");
    assert_eq!(entries(&disk.path().join("data/trash")), 0);
    assert!(store.resolve("big:1").is_err());
    store.export(&["small:1".into()], &mut Vec::new()).await.unwrap();
    assert!(store.remove("small:1").await.unwrap().unwrap().image_removed);
    import(&archive("small:2", 3, 2000)).await.unwrap();
}

#[tokio::test]
async fn bytes_run_out() {
    for format in [LayerFormat::Directory, LayerFormat::Erofs] {
        no_room(format, Disk::new(24, 2000), archive("big:1", 30, 1 << 20)).await;
    }
}

/// Directories need an inode for each file; an image needs one.
#[tokio::test]
async fn inodes_run_out() {
    let many = archive("big:1", 500, 10);
    no_room(LayerFormat::Directory, Disk::new(24, 200), many.clone()).await;
    let disk = Disk::new(24, 200);
    let store = open(&disk, LayerFormat::Erofs).await;
    store.import(&many[..], ImportOptions::default()).await.unwrap();
}

/// The kernel takes a file system away from writers when it finds it damaged.
#[tokio::test]
async fn a_disk_that_fails_is_named_and_what_is_there_stays() {
    let disk = Disk::new(24, 2000);
    let store = open(&disk, LayerFormat::Directory).await;
    let import = async |archive: &[u8]| store.import(archive, ImportOptions::default()).await;
    import(&archive("small:1", 3, 2000)).await.unwrap();
    let layers = entries(&disk.path().join("data/l"));
    disk.fail();
    let refused = import(&archive("small:2", 4, 2000))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("Read-only file system") && refused.contains("data"),
        "{refused}"
    );
    assert!(store.resolve("small:2").is_err());
    assert_eq!(entries(&disk.path().join("data/l")), layers);
    // Reading goes on.
    store.export(&["small:1".into()], &mut Vec::new()).await.unwrap();
}
