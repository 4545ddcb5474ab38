//! The unpacker against archives that mean harm, and against GNU tar.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use image::unpack::inherit::LayerView;
use image::unpack::recipe::{self, RecipeWriter};
use image::unpack::root::Root;
use image::unpack::whiteout::Style;
use image::unpack::{Limits, UnpackError, unpack, unpack_image};
use support::images::Tar;
use support::{MountedImage, tree};
use tar::EntryType;

/// A folder with a canary beside the layers.
struct Bench {
    folder: tempfile::TempDir,
    layers: Vec<PathBuf>,
    /// The same layers as images.
    images: Vec<MountedImage>,
    style: Style,
    limits: Limits,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("canary")).unwrap();
        fs::write(folder.path().join("canary/song"), "tweet").unwrap();
        Self {
            folder,
            layers: Vec::new(),
            images: Vec::new(),
            style: Style::Devices,
            limits: Limits::default(),
        }
    }

    fn canary(&self) -> PathBuf {
        self.folder.path().join("canary")
    }

    /// Unpacks one more layer on top, in both formats, which must agree; gives the tree of the directory.
    fn layer(&mut self, tar: &[u8]) -> Result<PathBuf, UnpackError> {
        let image = self.image(tar);
        let directory = self.directory(tar);
        match (directory, image) {
            (Ok(directory), Ok(image)) => {
                // Whiteouts beside the tree are another way to say the same.
                if self.style == Style::Devices {
                    assert_same(&tree(&directory), &tree(&image.path()));
                }
                self.images.push(image);
                Ok(directory)
            }
            (Err(error), Err(other)) => {
                assert_eq!(
                    std::mem::discriminant(&error),
                    std::mem::discriminant(&other),
                    "{error} / {other}"
                );
                Err(error)
            }
            (directory, image) => panic!("{directory:?} but {:?}", image.err()),
        }
    }

    /// Unpacks one more layer as an image.
    fn image(&self, tar: &[u8]) -> Result<MountedImage, UnpackError> {
        let folder = self.folder.path().join(format!("i{}", self.images.len()));
        fs::create_dir(&folder).unwrap();
        let (file, recipe) = (folder.join("erofs"), folder.join("tar"));
        let writer = RecipeWriter::create(&recipe).unwrap();
        let outcome = unpack_image(tar, &file, writer, &self.limits).and_then(|unsealed| {
            let below = self.images.iter().rev();
            let mut below: Vec<LayerView> = below.map(|image| LayerView::of(image.root())).collect();
            Ok(unsealed.seal(&mut below)?.usage)
        });
        let usage = outcome.inspect_err(|_| fs::remove_dir_all(&folder).unwrap())?;
        assert_eq!(usage.bytes, fs::metadata(&file).unwrap().len());
        check(&file);
        let mounted = MountedImage::new(&file);
        let mut again = Vec::new();
        recipe::replay(&recipe, &mut mounted.root(), &mut again).unwrap();
        assert!(
            again == tar || self.limits.entries < 10,
            "the recipe gives the same tar"
        );
        Ok(mounted)
    }

    /// Unpacks one more layer as a directory.
    fn directory(&mut self, tar: &[u8]) -> Result<PathBuf, UnpackError> {
        let folder = self.folder.path().join(format!("l{}", self.layers.len()));
        let tree = folder.join("fs");
        fs::create_dir_all(&tree).unwrap();
        let recipe = RecipeWriter::create(&folder.join("tar")).unwrap();
        let outcome = unpack(tar, &tree, recipe, &self.limits).and_then(|unsealed| {
            let below = self.layers.iter().rev();
            let mut below: Vec<LayerView> = below
                .map(|layer| LayerView::open(layer, &layer.with_file_name("whiteouts")).unwrap())
                .collect();
            unsealed.seal(self.style, &folder.join("whiteouts"), &mut below)
        });
        assert_eq!(fs::read_to_string(self.canary().join("song")).unwrap(), "tweet");
        assert_eq!(fs::read_dir(self.canary()).unwrap().count(), 1);
        assert_eq!(fs::metadata(self.canary()).unwrap().mode() & 0o7777, 0o755);
        match outcome {
            Ok(usage) => {
                assert_eq!(usage.inodes as usize, inodes(&tree), "inodes are counted exactly");
                let mut again = Vec::new();
                recipe::replay(&folder.join("tar"), &mut Root::open(&tree).unwrap(), &mut again).unwrap();
                assert!(
                    again == tar || self.limits.entries < 10,
                    "the recipe gives the same tar"
                );
                assert_eq!(recipe::size(&folder.join("tar")).unwrap(), tar.len() as u64);
                self.layers.push(tree.clone());
                Ok(tree)
            }
            Err(error) => {
                fs::remove_dir_all(folder).unwrap();
                Err(error)
            }
        }
    }
}

/// What the tools of the format's makers say about an image.
fn check(image: &Path) {
    let checked = Command::new("fsck.erofs")
        .arg(image)
        .output()
        .expect("erofs-utils are installed by test-e2e/setup.sh");
    let said =
        String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && !said.contains("<E>"), "{said}");
}

fn assert_same(wanted: &BTreeMap<String, String>, found: &BTreeMap<String, String>) {
    for (path, line) in wanted {
        assert_eq!(found.get(path), Some(line), "{path}");
    }
    assert_eq!(found.len(), wanted.len());
}

/// Archives without PAX headers know no more.
fn whole_seconds(mut tree: BTreeMap<String, String>) -> BTreeMap<String, String> {
    for line in tree.values_mut() {
        let words = line.split(' ').enumerate();
        let words = words.map(|(n, word)| {
            if n == 3 {
                word.split('.').next().unwrap_or(word)
            } else {
                word
            }
        });
        *line = words.collect::<Vec<_>>().join(" ");
    }
    tree
}

fn inodes(root: &Path) -> usize {
    fn walk(path: &Path, seen: &mut std::collections::HashSet<u64>) {
        let metadata = fs::symlink_metadata(path).unwrap();
        seen.insert(metadata.ino());
        if metadata.is_dir() {
            fs::read_dir(path)
                .unwrap()
                .for_each(|entry| walk(&entry.unwrap().path(), seen));
        }
    }
    let mut seen = std::collections::HashSet::new();
    walk(root, &mut seen);
    seen.len()
}

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

#[test]
fn malformed_archives_are_refused() {
    let refused = |tar: &[u8]| assert!(matches!(Bench::new().layer(tar), Err(UnpackError::Tar(_))));
    let good = Tar::default().file("a", vec![1; 2000]).finish();
    refused(&good[..700]);
    refused(&good[..512]);
    let mut wrong = good;
    wrong[0] = b'b';
    refused(&wrong);
    refused(&Tar::default().pax(&[("size", b"x")]).file("a", "b").finish());
    refused(
        &Tar::default()
            .raw(b"a", b"", EntryType::new(b'x'), b"99 path=b\n")
            .file("a", "")
            .finish(),
    );
    refused(
        &Tar::default()
            .raw(b"a", b"", EntryType::new(b'g'), b"10 path=b\n")
            .file("a", "")
            .finish(),
    );
    refused(&Tar::default().raw(b"a", b"", EntryType::new(b'Z'), b"").finish());
    refused(
        &Tar::default()
            .raw(b"@", b"", EntryType::GNULongName, b"one\0")
            .raw(b"@", b"", EntryType::GNULongName, b"two\0")
            .file("a", "")
            .finish(),
    );
    refused(
        &Tar::default()
            .raw(b"@", b"", EntryType::GNULongName, b"dangling\0")
            .finish(),
    );
}

#[test]
fn the_pax_size_wins() {
    // A reader that believes the header (0 bytes) would take the payload for an entry.
    let inner = Tar::default().file("smuggled", "x").finish();
    let mut header = Tar::header(EntryType::Regular, 0o644);
    header.set_path("outer").unwrap();
    header.set_size(0);
    header.set_cksum();
    let mut tar = Tar::default()
        .pax(&[("size", inner.len().to_string().as_bytes())])
        .finish();
    tar.truncate(1024);
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(&inner);
    tar.extend_from_slice(&[0; 1024]);
    let mut bench = Bench::new();
    let layer = bench.layer(&tar).unwrap();
    assert_eq!(fs::read(layer.join("outer")).unwrap(), inner);
    assert!(!layer.join("smuggled").exists());
}

#[test]
fn limits_hold() {
    let mut bench = Bench::new();
    bench.limits.entries = 3;
    let four = Tar::default()
        .file("1", "")
        .file("2", "")
        .file("3", "")
        .file("4", "")
        .finish();
    assert!(matches!(
        bench.layer(&four),
        Err(UnpackError::Limit { what: "entries", .. })
    ));
    let mut bench = Bench::new();
    bench.limits.bytes = 1000;
    let large = Tar::default()
        .file("1", vec![0; 600])
        .file("2", vec![0; 600])
        .finish();
    assert!(matches!(
        bench.layer(&large),
        Err(UnpackError::Limit { what: "bytes", .. })
    ));
    let mut bench = Bench::new();
    bench.limits.headroom = u64::MAX;
    let error = bench.layer(&Tar::default().file("1", "x").finish()).unwrap_err();
    assert!(error.is_no_space());
}

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

#[test]
fn attributes_are_kept_or_dropped_as_the_rules_say() {
    let mut bench = Bench::new();
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut header = Tar::header(EntryType::Regular, 0o6755);
    header.set_path("tool").unwrap();
    header.set_uid(1234);
    header.set_gid(5678);
    header.set_cksum();
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.security.capability", capability),
        ("SCHILY.xattr.user.note", b"hi"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"system_u:object_r:etc_t:s0"),
    ];
    let mut tar = Tar::default().pax(records).finish();
    tar.truncate(tar.len() - 1024);
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(&[0; 1024]);
    let layer = bench.layer(&tar).unwrap();
    let tool = layer.join("tool");
    let metadata = fs::metadata(&tool).unwrap();
    assert_eq!(
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()),
        (0o6755, 1234, 5678)
    );
    let mut names = vec![0; 4096];
    let length = rustix::fs::listxattr(&tool, &mut names[..]).unwrap();
    let mut names: Vec<_> = names[..length]
        .split(|b| *b == 0)
        .filter(|n| !n.is_empty())
        .collect();
    names.sort();
    assert_eq!(names, [&b"security.capability"[..], b"user.note"]);
}

#[test]
fn deep_long_and_odd_names_work() {
    let mut bench = Bench::new();
    let deep = "d/".repeat(1990) + "end";
    let long = "x".repeat(255);
    let odd = [0xff, 0xfe, b'\n', b'a'];
    let tar = Tar::default()
        .pax(&[("path", deep.as_bytes())])
        .raw(b"short", b"", EntryType::Regular, b"deep")
        .file(&long, "long")
        .raw(&odd, b"", EntryType::Regular, b"odd");
    let layer = bench.layer_without_inode_check(&tar.finish());
    use std::os::unix::ffi::OsStrExt;
    assert_eq!(
        fs::read(layer.join(std::ffi::OsStr::from_bytes(&odd))).unwrap(),
        b"odd"
    );
    assert_eq!(fs::read(layer.join(long)).unwrap(), b"long");
    // Where no path reaches: step by step.
    let mut here = rustix::fs::open(&layer, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..1990 {
        here = rustix::fs::openat(&here, "d", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    }
    assert_eq!(
        rustix::fs::statat(&here, "end", rustix::fs::AtFlags::empty())
            .unwrap()
            .st_size,
        4
    );
}

impl Bench {
    fn layer_without_inode_check(&mut self, tar: &[u8]) -> PathBuf {
        let tree = self.folder.path().join("deep");
        fs::create_dir(&tree).unwrap();
        let recipe = RecipeWriter::create(&self.folder.path().join("deep-tar")).unwrap();
        let unsealed = unpack(tar, &tree, recipe, &self.limits).unwrap();
        unsealed
            .seal(self.style, &self.folder.path().join("deep-whiteouts"), &mut [])
            .unwrap();
        tree
    }
}

/// A tree with a bit of everything, different for each seed.
fn grow(root: &Path, seed: u64) {
    let mut state = seed;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    fs::create_dir(root).unwrap();
    let mut directories = vec![root.to_path_buf()];
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..150 {
        let parent = directories[random(directories.len() as u64) as usize].clone();
        let name = match random(4) {
            0 => format!("{number}-{}", "long".repeat(random(50) as usize)),
            1 => format!("{number} ünï\tcode"),
            _ => format!("f{number}"),
        };
        let path = parent.join(name);
        match random(9) {
            0 | 1 => {
                fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            2 => std::os::unix::fs::symlink("../".repeat(random(4) as usize) + "etc/x", &path).unwrap(),
            3 if !files.is_empty() => {
                fs::hard_link(&files[random(files.len() as u64) as usize], &path).unwrap();
            }
            4 => {
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    &path,
                    rustix::fs::FileType::Fifo,
                    rustix::fs::Mode::RUSR,
                    0,
                )
                .unwrap();
            }
            5 => {
                let sparse = fs::File::create(&path).unwrap();
                for _ in 0..random(8) {
                    use std::os::unix::fs::FileExt;
                    sparse.write_all_at(b"island", random(16) * 32_768).unwrap();
                }
                sparse.set_len(500_000 + random(5000)).unwrap();
                files.push(path.clone());
            }
            _ => {
                fs::write(&path, vec![b'c'; random(20_000) as usize]).unwrap();
                files.push(path.clone());
            }
        }
        if !fs::symlink_metadata(&path).unwrap().is_symlink() {
            std::os::unix::fs::chown(&path, Some(random(3) as u32 * 1000), Some(random(3) as u32 * 100))
                .unwrap();
            let mode = [0o644, 0o755, 0o4755, 0o2711, 0o1777, 0o600][random(6) as usize];
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let time = rustix::fs::Timespec {
            tv_sec: random(2_000_000_000) as i64 - 100_000_000,
            tv_nsec: 0,
        };
        let times = rustix::fs::Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(
            rustix::fs::CWD,
            &path,
            &times,
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
    }
}

#[test]
fn unpacks_what_gnu_tar_packs() {
    for (seed, options) in [
        (1, &["--format=gnu", "--sparse"][..]),
        (2, &["--format=pax", "--sparse"]),
        (3, &["--format=pax", "--sparse", "--sparse-version=0.1"]),
        (4, &["--format=gnu"]),
        (5, &["--format=pax", "--numeric-owner"]),
        (6, &["--format=pax", "--sparse", "--sparse-version=0.0"]),
    ] {
        let mut bench = Bench::new();
        let source = bench.folder.path().join("source");
        grow(&source, seed);
        let packed = Command::new("tar")
            .args(options)
            .arg("-C")
            .arg(&source)
            .args(["-cf", "-", "."])
            .output()
            .unwrap();
        assert!(
            packed.status.success(),
            "{}",
            String::from_utf8_lossy(&packed.stderr)
        );
        let layer = bench.layer(&packed.stdout).unwrap();
        assert_same(&whole_seconds(tree(&source)), &whole_seconds(tree(&layer)));
    }
}

fn xattr(path: &Path, name: &str) -> String {
    let mut value = vec![0; 256];
    let length = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
    String::from_utf8(value[..length].to_vec()).unwrap()
}
