//! What the tests share: images made on the spot, and a registry that does what it is told.

#![allow(dead_code)]

pub(crate) mod images;
pub(crate) mod registry;
pub(crate) mod tls;

use std::path::Path;
use std::time::Duration;

use image::{RegistryConfig, RetryPolicy, Store, StoreConfig};

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

/// Every file below `root` with kind, mode, owner, size and content hash: equal when equal.
pub(crate) fn tree(root: &Path) -> std::collections::BTreeMap<String, String> {
    use std::os::unix::fs::MetadataExt;
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
        let links = if kind.is_dir() { 0 } else { metadata.nlink() };
        let line = format!(
            "{:o} {}:{} mtime {} links {links} {content}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime()
        );
        found.insert(
            path.strip_prefix(root).unwrap().to_string_lossy().into_owned(),
            line,
        );
    }
    found
}
