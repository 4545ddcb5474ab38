//! Import and export.

mod support;

use std::time::Duration;

use image::digest::Digest;
use image::{ArchiveProblem, Error, ImportOptions, SnapshotRoot, Store};
use serde_json::json;
use support::images::{Layer, Tar, TestImage, gzip, layout, zstd, zstd_with_window};
use support::{config, directory, open, tree};
use tokio::io::AsyncWriteExt;

fn image() -> TestImage {
    let long = "deep/".repeat(40) + "file";
    let base = Tar::default()
        .dir("./", 0o755)
        .dir("bin/", 0o755)
        .file("bin/tool", vec![b'x'; 70_000])
        .hard_link("bin/same", "bin/tool")
        .symlink("lib", "usr/lib")
        .file(&long, "far down")
        .dir("tmp/", 0o1777);
    let top = Tar::default()
        .file("tmp/new", "n")
        .file("bin/.wh.same", "")
        .file("etc/empty", "");
    TestImage::new(vec![Layer::gzip(&base.finish()), Layer::gzip(&top.finish())])
}

async fn import(store: &Store, archive: &[u8]) -> Result<Vec<image::Image>, Error> {
    store.import(archive, ImportOptions::default()).await
}

fn docker_archive(image: &TestImage, tags: &[&str]) -> Vec<u8> {
    let config = format!("{}.json", Digest::sha256(&image.config).hex());
    let mut tar = Tar::default().file(&config, &image.config);
    let mut paths = Vec::new();
    for (index, layer) in image.layers.iter().enumerate() {
        let path = format!("{index}/layer.tar");
        tar = tar.file(&path, &layer.blob);
        paths.push(path);
    }
    // `docker save` links a layer that occurs twice.
    tar = tar.symlink("again/layer.tar", "../0/layer.tar");
    paths[0] = "again/layer.tar".into();
    let manifest = json!([{ "Config": config, "RepoTags": tags, "Layers": paths }]);
    tar.file("manifest.json", manifest.to_string()).finish()
}

#[tokio::test]
async fn imports_layouts_in_any_compression() {
    let image = image();
    let archive = layout(&[("docker.io/library/app:1", &image)]);
    for (archive, kind) in [
        (archive.clone(), "plain"),
        (gzip(&archive), "gzip"),
        (zstd(&archive), "zstd"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let images = import(&store, &archive).await.unwrap();
        assert_eq!(images.len(), 1, "{kind}");
        assert_eq!(images[0].id.to_string(), image.id());
        assert_eq!(images[0].repo_tags, ["docker.io/library/app:1"]);
        assert_eq!(store.resolve("app:1").unwrap().id, images[0].id);
    }
}

#[tokio::test]
async fn imports_docker_archives_with_pins_and_names() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let image = image();
    let archive = docker_archive(&image, &["app:1", "app:2"]);
    let options = ImportOptions {
        names: vec!["quay.io/other/app:3".parse().unwrap()],
        pin: true,
    };
    let images = store.import(&archive[..], options).await.unwrap();
    assert_eq!(
        images[0].repo_tags,
        [
            "docker.io/library/app:1",
            "docker.io/library/app:2",
            "quay.io/other/app:3"
        ]
    );
    assert!(images[0].pinned);
    drop(store);
    assert!(open(folder.path()).await.resolve("app:2").unwrap().pinned);
}

#[tokio::test]
async fn several_images_share_an_archive_but_not_given_names() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let one = image();
    let two = TestImage::new(vec![one.layers[0].clone()]);
    let archive = layout(&[
        ("docker.io/library/one:1", &one),
        ("docker.io/library/two:1", &two),
    ]);
    let options = ImportOptions {
        names: vec!["x:1".parse().unwrap()],
        pin: false,
    };
    let refused = store.import(&archive[..], options).await.unwrap_err();
    assert!(
        matches!(
            refused,
            Error::Archive {
                problem: ArchiveProblem::SeveralImages(2)
            }
        ),
        "{refused}"
    );
    assert_eq!(import(&store, &archive).await.unwrap().len(), 2);
    assert_eq!(
        std::fs::read_dir(folder.path().join("l")).unwrap().count(),
        2,
        "the base is shared"
    );
}

#[tokio::test]
async fn refuses_what_is_no_image_archive() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let problem = |error: Error| match error {
        Error::Archive { problem } => problem,
        other => panic!("{other}"),
    };
    let tar = Tar::default().file("readme", "hello").finish();
    assert_eq!(
        problem(import(&store, &tar).await.unwrap_err()),
        ArchiveProblem::UnknownFormat
    );
    assert_eq!(
        problem(import(&store, b"").await.unwrap_err()),
        ArchiveProblem::UnknownFormat
    );
    let text = "this is not an archive, although it is long enough".repeat(50);
    assert!(matches!(
        problem(import(&store, text.as_bytes()).await.unwrap_err()),
        ArchiveProblem::Unreadable(_)
    ));
    let cut = gzip(&layout(&[("app:1", &image())]));
    let cut = &cut[..cut.len() / 2];
    assert!(matches!(
        problem(import(&store, cut).await.unwrap_err()),
        ArchiveProblem::Unreadable(_)
    ));
    let manifest = json!([{ "Config": "c.json", "RepoTags": null, "Layers": [] }]).to_string();
    let missing = Tar::default().file("manifest.json", manifest).finish();
    assert_eq!(
        problem(import(&store, &missing).await.unwrap_err()),
        ArchiveProblem::Missing("c.json".into())
    );
    store.settle().await;
    for left in ["l", "blobs"] {
        assert_eq!(
            std::fs::read_dir(folder.path().join(left)).unwrap().count(),
            0,
            "{left}"
        );
    }
}

#[tokio::test]
async fn a_layout_whose_blob_was_changed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut image = image();
    let digest = Digest::sha256(&image.layers[0].blob);
    let archive = layout(&[("app:1", &image)]);
    let at = archive
        .windows(20)
        .position(|window| window == &image.layers[0].blob[..20])
        .unwrap();
    let mut changed = archive.clone();
    changed[at + 40] ^= 1;
    let refused = import(&store, &changed).await.unwrap_err();
    assert!(
        matches!(&refused, Error::WrongDigest { wanted, .. } if *wanted == digest),
        "{refused}"
    );
    image.layers.clear();
}

/// The files of an image, its layers one over the other.
async fn files(store: &Store, name: &str, key: &str) -> Vec<std::collections::BTreeMap<String, String>> {
    let image = store.resolve(name).unwrap();
    let SnapshotRoot::Overlay { lower, .. } = store.prepare(&image.id, key).await.unwrap().root else {
        panic!("no overlay here")
    };
    lower.iter().map(|layer| tree(directory(layer))).collect()
}

#[tokio::test]
async fn what_is_exported_imports_to_the_same_image() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (open(from.path()).await, open(to.path()).await);
    let image = image();
    import(&first, &layout(&[("docker.io/library/app:1", &image)]))
        .await
        .unwrap();
    first.tag("app:1", &"app:other".parse().unwrap()).await.unwrap();
    let mut archive = Vec::new();
    first.export(&[image.id()], &mut archive).await.unwrap();
    let imported = import(&second, &archive).await.unwrap();
    assert_eq!(imported[0].id.to_string(), image.id());
    assert_eq!(
        imported[0].repo_tags,
        ["docker.io/library/app:1", "docker.io/library/app:other"]
    );
    assert_eq!(
        files(&first, "app:1", "c").await,
        files(&second, "app:1", "c").await
    );

    let mut by_name = Vec::new();
    first.export(&["app:other".into()], &mut by_name).await.unwrap();
    first.remove(&image.id()).await.unwrap();
    assert_eq!(
        import(&first, &by_name).await.unwrap()[0].repo_tags,
        ["docker.io/library/app:other"]
    );
}

#[tokio::test]
async fn a_changed_layer_cannot_be_exported_unnoticed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let image = image();
    import(&store, &layout(&[("app:1", &image)])).await.unwrap();
    let imported = store.resolve("app:1").unwrap();
    let SnapshotRoot::Overlay { lower, .. } = store.prepare(&imported.id, "c").await.unwrap().root else {
        panic!()
    };
    let tool = directory(&lower[1]).join("bin/tool");
    let mut bytes = std::fs::read(&tool).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&tool, bytes).unwrap();
    let refused = store
        .export(&["app:1".into()], &mut Vec::new())
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Irreproducible { .. }), "{refused}");
}

/// One archive at a time has a large window: who sends no more of it makes room for the next.
#[tokio::test]
async fn who_stalls_with_a_large_window_is_cut_off_and_others_are_waited_for() {
    const PATIENCE: Duration = Duration::from_millis(300);
    let folder = tempfile::tempdir().unwrap();
    let mut settings = config(folder.path());
    settings.registry.progress_timeout = PATIENCE;
    let store = Store::open(settings).await.unwrap();
    let archive = layout(&[("app:1", &image())]);

    let large = zstd_with_window(&archive, 27);
    let (mut client, stream) = tokio::io::duplex(large.len());
    client.write_all(&large[..large.len() / 2]).await.unwrap();
    let stalled = store.import(stream, ImportOptions::default());
    let (stalled, next) = tokio::join!(stalled, import(&store, &large));
    next.unwrap();
    let problem = stalled.unwrap_err().to_string();
    assert!(problem.contains("timed out"), "{problem}");
    drop(client);

    let small = gzip(&archive);
    let (begin, rest) = small.split_at(small.len() / 2);
    let (mut client, stream) = tokio::io::duplex(small.len());
    client.write_all(begin).await.unwrap();
    let mut slow = Box::pin(store.import(stream, ImportOptions::default()));
    let waited = tokio::time::timeout(3 * PATIENCE, &mut slow).await;
    assert!(waited.is_err(), "it is still waited for");
    client.write_all(rest).await.unwrap();
    drop(client);
    slow.await.unwrap();
}
