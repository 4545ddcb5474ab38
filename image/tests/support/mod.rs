//! What the tests share: images made on the spot, and a registry that does what it is told.

#![allow(dead_code)]

pub(crate) mod disk;
pub(crate) mod images;
pub(crate) mod registry;
pub(crate) mod tls;

use std::path::Path;
use std::time::Duration;

use image::{RegistryConfig, RetryPolicy, Store, StoreConfig};

/// Writes a program. Copied by another process: what is open for writing cannot be executed, and what this one has open
/// another test's child may have for a moment.
pub(crate) fn program(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    let mut install = std::process::Command::new("install");
    let installed = install.args(["-m", "755"]).args([&draft, path]).status();
    assert!(installed.unwrap().success());
    std::fs::remove_file(draft).unwrap();
}

/// Numbers below what they are asked for, the same for the same seed.
pub(crate) fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

/// A store that looks at nothing of the host but its folder.
pub(crate) fn config(root: &Path) -> StoreConfig {
    let retry = RetryPolicy {
        attempts: 3,
        base: Duration::from_millis(1),
        longest: Duration::from_millis(5),
        longest_asked: Duration::from_millis(20),
    };
    let registry = RegistryConfig {
        hosts_folders: Vec::new(),
        connect_timeout: Duration::from_secs(5),
        progress_timeout: Duration::from_secs(5),
        retry,
        ..RegistryConfig::default()
    };
    StoreConfig {
        registry,
        ..StoreConfig::at(root)
    }
}

pub(crate) async fn open(root: &Path) -> Store {
    Store::open(config(root)).await.unwrap()
}

fn xattrs(path: &Path) -> String {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut found: Vec<String> = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let name = std::str::from_utf8(name).unwrap();
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            format!("{name}={}", value[..length].escape_ascii())
        })
        .collect();
    found.sort();
    found.join(" ")
}

/// Where a layer's files are, which is kept as a directory.
pub(crate) fn directory(layer: &image::Lower) -> &Path {
    match layer {
        image::Lower::Directory(path) => path,
        image::Lower::Mounted { .. } => panic!("a directory was expected: {layer:?}"),
    }
}

/// An EROFS image, mounted nowhere; its files are below the path.
pub(crate) struct MountedImage {
    /// The root of the mount.
    pub(crate) fd: std::os::fd::OwnedFd,
}

impl MountedImage {
    pub(crate) fn new(image: &Path) -> Self {
        use rustix::mount::{
            FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
        };
        use std::os::fd::AsFd;
        let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        fsconfig_set_string(context.as_fd(), "source", image).unwrap();
        fsconfig_create(context.as_fd()).unwrap();
        let flags = MountAttrFlags::MOUNT_ATTR_RDONLY;
        let fd = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags).unwrap();
        Self { fd }
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        use std::os::fd::AsRawFd;
        format!("/proc/self/fd/{}/.", self.fd.as_raw_fd()).into()
    }

    pub(crate) fn root(&self) -> image::unpack::root::Root {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        image::unpack::root::Root::of(rustix::fs::openat(&self.fd, ".", flags, Mode::empty()).unwrap())
    }
}

/// Every file below `root` with kind, mode, owner, times, attributes, size and content hash: equal when equal.
pub(crate) fn tree(root: &Path) -> std::collections::BTreeMap<String, String> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut found = std::collections::BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        let content = if kind.is_symlink() {
            format!("-> {}", std::fs::read_link(&path).unwrap().display())
        } else if kind.is_file() {
            image::digest::Digest::sha256(&std::fs::read(&path).unwrap()).to_string()
        } else if kind.is_dir() {
            left.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            String::new()
        } else {
            format!("device {:x}", metadata.rdev())
        };
        let xattrs = if kind.is_symlink() {
            String::new()
        } else {
            xattrs(&path)
        };
        // When a whiteout was made is nobody's business.
        let whiteout = metadata.rdev() == 0 && kind.is_char_device();
        let time = match whiteout {
            true => (0, 0),
            false => (metadata.mtime(), metadata.mtime_nsec()),
        };
        let links = if kind.is_dir() { 0 } else { metadata.nlink() };
        let line = format!(
            "{:o} {}:{} mtime {}.{} links {links} {content} {xattrs}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            time.0,
            time.1
        );
        found.insert(
            path.strip_prefix(root).unwrap().to_string_lossy().into_owned(),
            line,
        );
    }
    found
}
