//! Layers that speak of the layers below them, and entries of those before them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use image::unpack::inherit::LayerView;
use image::unpack::recipe::RecipeWriter;
use image::unpack::unpack;
use image::unpack::whiteout::Style;
use tar::EntryType;

use crate::Bench;
use crate::support::images::Tar;

#[test]
fn whiteouts_speak_of_the_layers_below_in_any_order() {
    let mut bench = Bench::new();
    let base = Tar::default()
        .dir("d/", 0o755)
        .file("d/old", "1")
        .file("gone", "1")
        .file("kept", "1")
        .dir("o/", 0o700)
        .file("o/x", "")
        .file("two/x", "")
        .file("three/x", "");
    bench.layer(&base.finish()).unwrap();
    let top = Tar::default()
        .file(".wh.gone", "")
        .file(".wh.kept", "")
        .file("kept", "2")
        .dir("d/", 0o711)
        .file("d/new", "2")
        .file(".wh.d", "")
        .file("o/.wh..wh..opq", "")
        .file("o/.wh.never", "")
        .file("missing/dir/.wh.f", "")
        .file("two/.wh.x", "")
        .file(".wh.three", "")
        .file("three/.wh.x", "");
    let layer = bench.layer(&top.finish()).unwrap();
    let whiteout = |path: &str| {
        let metadata = fs::symlink_metadata(layer.join(path)).unwrap();
        metadata.file_type().is_char_device() && metadata.rdev() == 0
    };
    assert!(whiteout("gone") && whiteout("two/x"));
    assert!(
        !layer.join("o/never").exists() && !layer.join("missing").exists(),
        "nothing below to hide"
    );
    assert!(
        whiteout("three"),
        "and what is in it needs no whiteout of its own"
    );
    assert_eq!(fs::read(layer.join("kept")).unwrap(), b"2");
    assert_eq!(xattr(&layer.join("d"), "trusted.overlay.opaque"), "y");
    assert_eq!(xattr(&layer.join("o"), "trusted.overlay.opaque"), "y");
    assert_eq!(
        fs::metadata(layer.join("o")).unwrap().mode() & 0o777,
        0o700,
        "from the layer below"
    );
}

#[test]
fn whiteouts_can_be_kept_beside_the_tree() {
    let mut bench = Bench::new();
    bench.style = Style::SideFile;
    bench
        .layer(&Tar::default().file("a/b", "").file("a/c", "").finish())
        .unwrap();
    let layer = bench.layer(&Tar::default().file("a/.wh.b", "").finish()).unwrap();
    assert!(!layer.join("a/b").exists());
    let view = LayerView::open(&layer, &layer.with_file_name("whiteouts")).unwrap();
    assert_eq!(view.side().gone.len(), 1);
}

#[test]
fn what_an_archive_leaves_out_comes_from_below() {
    let mut bench = Bench::new();
    let mut tmp = Tar::header(EntryType::Directory, 0o1777);
    tmp.set_uid(7);
    bench
        .layer(
            &Tar::default()
                .dir("./", 0o711)
                .dir("tmp/", 0o1777)
                .file("bin/tool", "tool")
                .finish(),
        )
        .unwrap();
    bench
        .layer(&Tar::default().file("unrelated", "").finish())
        .unwrap();
    let top = Tar::default()
        .file("tmp/x", "")
        .hard_link("sbin/tool", "bin/tool")
        .hard_link("sbin/two", "sbin/tool");
    let layer = bench.layer(&top.finish()).unwrap();
    assert_eq!(fs::metadata(layer.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::metadata(layer.join("tmp")).unwrap().mtime(), 1_600_000_000);
    assert_eq!(fs::metadata(&layer).unwrap().mode() & 0o7777, 0o711);
    assert_eq!(
        fs::metadata(layer.join("sbin")).unwrap().mtime(),
        0,
        "nobody described it: the same everywhere"
    );
    assert_eq!(fs::read(layer.join("sbin/tool")).unwrap(), b"tool");
    assert_eq!(
        fs::metadata(layer.join("sbin/two")).unwrap().ino(),
        fs::metadata(layer.join("sbin/tool")).unwrap().ino()
    );
}

#[test]
fn the_last_of_several_entries_wins() {
    let mut bench = Bench::new();
    let tar = Tar::default()
        .file("a", "first")
        .hard_link("b", "a")
        .file("a", "second")
        .dir("d/", 0o755)
        .file("d/x", "")
        .file("d", "now a file")
        .symlink("s", "a")
        .dir("s/", 0o755)
        .file("s/in", "");
    let folder = bench.folder.path().join("manual");
    fs::create_dir(&folder).unwrap();
    let unsealed = unpack(
        &tar.finish()[..],
        &folder,
        RecipeWriter::create(&bench.folder.path().join("r")).unwrap(),
        &bench.limits,
    )
    .unwrap();
    unsealed
        .seal(bench.style, &bench.folder.path().join("w"), &mut [])
        .unwrap();
    assert_eq!(fs::read(folder.join("a")).unwrap(), b"second");
    assert_eq!(fs::read(folder.join("b")).unwrap(), b"first");
    assert_eq!(fs::read(folder.join("d")).unwrap(), b"now a file");
    assert!(fs::symlink_metadata(folder.join("s")).unwrap().is_dir());
    bench.layers.clear();
}

fn xattr(path: &Path, name: &str) -> String {
    let mut value = vec![0; 256];
    let length = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
    String::from_utf8(value[..length].to_vec()).unwrap()
}
