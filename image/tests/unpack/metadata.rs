//! Owners, modes, attributes and names.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use image::unpack::recipe::RecipeWriter;
use image::unpack::unpack;
use tar::EntryType;

use crate::Bench;
use crate::support::images::Tar;

/// Of a file far down.
const DEPTH: usize = 2000;

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
fn times_before_1970_and_far_away_are_kept() {
    for (written, seconds, nanos) in [
        ("-1.25", -2, 750_000_000),
        ("-2147483648", -(1 << 31), 0),
        ("0.000000001", 0, 1),
        ("4294967296.5", 1 << 32, 500_000_000),
    ] {
        let tar =
            Tar::default()
                .pax(&[("mtime", written.as_bytes())])
                .raw(b"old", b"", EntryType::Regular, b"x");
        // In an image, too: both are compared.
        let mut bench = Bench::new();
        let layer = bench.layer(&tar.finish()).unwrap();
        let file = fs::metadata(layer.join("old")).unwrap();
        assert_eq!((file.mtime(), file.mtime_nsec()), (seconds, nanos), "{written}");
    }
}

#[test]
fn deep_long_and_odd_names_work() {
    let mut bench = Bench::new();
    // Longer than any path that the kernel takes (PATH_MAX).
    let deep = "dd/".repeat(DEPTH) + "end";
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
    for _ in 0..DEPTH {
        here =
            rustix::fs::openat(&here, "dd", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
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
