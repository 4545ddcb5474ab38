//! What an archive does never happens outside its layer.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use image::unpack::recipe::RecipeWriter;
use image::unpack::{UnpackError, unpack};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tar::EntryType;

use crate::Bench;
use crate::support::images::Tar;
use crate::support::tree;

#[test]
fn no_shape_of_entry_breaks_out() {
    let canary = Bench::new().canary();
    let canary_text = canary.to_string_lossy().into_owned();
    let relative = "../../canary";
    for target in [
        canary_text.as_str(),
        relative,
        "/proc/self/root/tmp",
        "/",
        "..",
        "../../..",
    ] {
        let link = |tar: Tar| tar.symlink("link", target);
        let shapes: Vec<(&str, Vec<u8>)> = vec![
            (
                "file through a link",
                link(Tar::default()).file("link/song", "boom").finish(),
            ),
            (
                "directory through a link",
                link(Tar::default()).dir("link/new/", 0o777).finish(),
            ),
            (
                "directory over a link",
                link(Tar::default())
                    .dir("link/", 0o777)
                    .file("link/song", "boom")
                    .finish(),
            ),
            (
                "file over a link",
                link(Tar::default()).file("link", "boom").finish(),
            ),
            (
                "link through a link",
                link(Tar::default())
                    .symlink("link/l2", "/etc")
                    .file("link/l2/x", "boom")
                    .finish(),
            ),
            (
                "hard link to a link's target",
                link(Tar::default())
                    .hard_link("hard", "link/song")
                    .file("hard", "boom")
                    .finish(),
            ),
            (
                "hard link to a link",
                link(Tar::default())
                    .hard_link("hard", "link")
                    .file("hard/song", "boom")
                    .finish(),
            ),
            (
                "device through a link",
                link(Tar::default())
                    .device("link/dev", EntryType::Char, 1, 3)
                    .finish(),
            ),
            (
                "fifo through a link",
                link(Tar::default())
                    .device("link/fifo", EntryType::Fifo, 0, 0)
                    .finish(),
            ),
            (
                "whiteout through a link",
                link(Tar::default()).file("link/.wh.song", "").finish(),
            ),
            (
                "opaque through a link",
                link(Tar::default()).file("link/.wh..wh..opq", "").finish(),
            ),
            (
                "whiteout of a link",
                link(Tar::default()).file(".wh.link", "").finish(),
            ),
            (
                "attributes through a link",
                link(Tar::default())
                    .raw(b"link/.", b"", EntryType::Directory, b"")
                    .finish(),
            ),
            (
                "times through a replaced directory",
                Tar::default().dir("d/", 0o777).symlink("d", target).finish(),
            ),
            (
                "chain of links",
                Tar::default()
                    .symlink("a", target)
                    .symlink("b", "a")
                    .file("b/song", "boom")
                    .finish(),
            ),
            (
                "link in the middle",
                Tar::default()
                    .dir("x/", 0o755)
                    .symlink("x/y", target)
                    .file("x/y/z/song", "boom")
                    .finish(),
            ),
        ];
        for (name, tar) in shapes {
            let mut bench = Bench::new();
            // Some of them are legal and stay inside; the canary is checked either way.
            let _ = bench.layer(&tar);
            let _ = bench.layer(&Tar::default().file("link/song", "boom").finish());
            assert!(
                !Path::new("/etc/x").exists() && !Path::new("/tmp/song").exists(),
                "{name}"
            );
        }
    }
    assert!(!canary.exists());
}

#[test]
fn names_that_climb_or_replace_the_root_are_refused() {
    let refused = |tar: Tar| Bench::new().layer(&tar.finish()).unwrap_err();
    for name in [&b"../x"[..], b"a/../../x", b"a/..", b"/..", b".."] {
        let error = refused(Tar::default().raw(name, b"", EntryType::Regular, b"x"));
        assert!(matches!(error, UnpackError::Name { .. }), "{error}");
        let error = refused(
            Tar::default()
                .file("f", "")
                .raw(b"hard", name, EntryType::Link, b""),
        );
        assert!(matches!(error, UnpackError::Name { .. }), "{error}");
    }
    for name in [&b"."[..], b"./.", b""] {
        for kind in [
            EntryType::Regular,
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Fifo,
        ] {
            let error = refused(Tar::default().raw(name, b"f", kind, b""));
            assert!(matches!(error, UnpackError::Name { .. }), "{error}");
        }
    }
    for name in ["a/.wh.", "a/.wh..", "a/.wh..."] {
        let error = refused(Tar::default().raw(name.as_bytes(), b"", EntryType::Regular, b""));
        assert!(matches!(error, UnpackError::Name { .. }), "{error}");
    }
    let error = refused(Tar::default().device("null", EntryType::Char, 0, 0));
    assert!(matches!(error, UnpackError::ForgedWhiteout { .. }), "{error}");
    let error = refused(Tar::default().hard_link("a", "nowhere"));
    assert!(matches!(error, UnpackError::LinkTarget { .. }), "{error}");
    let error = refused(Tar::default().dir("d/", 0o755).hard_link("a", "d"));
    assert!(matches!(error, UnpackError::Step { .. }), "{error}");
}

/// Somebody swaps a directory of the layer for a symlink, again and again, while the archive is unpacked into it.
#[test]
fn a_racer_who_swaps_directories_for_links_gains_nothing() {
    let mut archive = Tar::default().dir("a/", 0o755).dir("a/b/", 0o755);
    for number in 0..1500 {
        archive = archive
            .file(&format!("a/b/f{number}"), "boom")
            .dir(&format!("a/b/d{number}/"), 0o777)
            .symlink(&format!("a/b/s{number}"), "f0")
            .hard_link(&format!("a/b/h{number}"), &format!("a/b/f{number}"))
            .file(&format!("a/c{}/deep/er", number % 50), "boom")
            .file("song", "boom");
    }
    let archive = archive.finish();
    let (mut swaps, mut unpacked) = (0, 0);
    for target in [
        "/proc/self/root",
        "absolute",
        "../../../canary",
        "../../canary",
        "../canary",
    ] {
        let bench = Bench::new();
        let canary = bench.canary();
        let layer = bench.folder.path().join("layer");
        fs::create_dir(&layer).unwrap();
        let trap = bench.folder.path().join("trap");
        symlink(
            if target == "absolute" {
                canary.as_path()
            } else {
                Path::new(target)
            },
            &trap,
        )
        .unwrap();
        let before = (tree(&canary), fs::metadata(&canary).unwrap().ctime_nsec());
        let (over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let victim = layer.join("a/b");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // There only once it was unpacked, and gone where the other swap is in force.
                    if renameat_with(CWD, &victim, CWD, &trap, RenameFlags::EXCHANGE).is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let recipe = RecipeWriter::create(&bench.folder.path().join("recipe")).unwrap();
            // It may fail, as archives do that go through links to nowhere.
            unpacked += usize::from(unpack(&archive[..], &layer, recipe, &bench.limits).is_ok());
            over.store(true, Ordering::Relaxed);
        });
        swaps += count.load(Ordering::Relaxed);
        let after = (tree(&canary), fs::metadata(&canary).unwrap().ctime_nsec());
        assert_eq!(before, after, "{target}");
    }
    assert!(
        swaps > 100,
        "the racer was there: {swaps} swaps, {unpacked} archives unpacked"
    );
}
