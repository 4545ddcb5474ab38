//! The lowest layer of every container's root: places for what every container has mounted, and nothing else.
//!
//! ```text
//!   m/fs/ dev  proc  sys  etc/hostname  etc/hosts  etc/resolv.conf      empty, of root
//! ```
//!
//! An image need not have them. Made through the overlay they would be written anew at each start, `etc` be copied up for
//! it, and all that be part of what the container changed: of its writable layer's size, and of an image made from it.
//! Lying lowest they show through only where an image has nothing, be it a file, a link or a whiteout; there they are made
//! through the overlay as before. What an image itself shows (as a volume) is without them.
//!
//! It is no layer of an image: no record, no user, no size, and so nothing that is ever collected.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{Lower, SnapshotRoot, Snapshots};
use crate::error::Error;
use crate::store::{Inner, Store};
use crate::trash::{Trash, remove_path};

const TREE: &str = "fs";
const UNFINISHED: &str = ".new";
const ASIDE: &str = ".old-";

/// Each directory, parents first, with how many entries it has.
const DIRECTORIES: [(&str, usize); 5] = [("", 4), ("dev", 0), ("etc", 3), ("proc", 0), ("sys", 0)];
const FILES: [&str; 3] = ["etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// An image with more layers goes without: overlayfs takes 500, and kernels before 6.7 want all names in one page, where
/// these of ours leave room for some 170.
const MOST_ABOVE: usize = 128;

/// The layer of mount points, where it could be made.
#[derive(Debug)]
pub(crate) struct MountPoints(Option<PathBuf>);

impl MountPoints {
    /// Finds the layer in `folder`, or makes it. Without it (the disk may be full) containers start all the same.
    pub(crate) fn open(folder: &Path, snapshots: &Snapshots, trash: &Trash) -> Self {
        let tree = folder.join(TREE);
        let in_use = !snapshots.known().is_empty();
        let opened = (|| {
            if !is_right(&tree) {
                let unfinished = make(folder)?;
                put_aside(folder, &tree)?;
                std::fs::rename(unfinished, &tree)?;
                File::open(folder)?.sync_all()?;
            }
            if in_use {
                Ok(())
            } else {
                forget_others(folder, &tree, trash)
            }
        })();
        match opened {
            Ok(()) => Self(Some(tree)),
            Err(error) => {
                tracing::warn!(path = %tree.display(), %error, "the layer of mount points cannot be made; containers make theirs");
                Self(None)
            }
        }
    }
}

impl Store {
    /// What to mount as the root of the container that a snapshot belongs to: [`Snapshot::root`](super::Snapshot::root),
    /// with the usual mount points below the image where overlayfs stacks it.
    ///
    /// # Errors
    /// As [`Store::snapshot`].
    pub fn container_root(&self, key: &str) -> Result<Option<SnapshotRoot>, Error> {
        let snapshot = self.snapshot(key)?;
        Ok(snapshot.map(|snapshot| self.inner.over_mount_points(snapshot.root)))
    }
}

impl Inner {
    fn over_mount_points(&self, mut root: SnapshotRoot) -> SnapshotRoot {
        if let (SnapshotRoot::Overlay { lower, .. }, Some(tree)) = (&mut root, &self.mount_points.0)
            && lower.len() <= MOST_ABOVE
        {
            lower.push(Lower::Directory(tree.clone()));
        }
        root
    }
}

/// Whether everything is there as it was made, and nothing besides.
fn is_right(tree: &Path) -> bool {
    let owned = |path: &Path, mode: u32| {
        let metadata = std::fs::symlink_metadata(path).ok()?;
        let right = (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777) == (0, 0, mode);
        right.then_some(metadata)
    };
    let is_directory = |(name, entries): (&str, usize)| {
        let path = tree.join(name);
        owned(&path, 0o755).is_some_and(|metadata| metadata.is_dir())
            && std::fs::read_dir(&path).is_ok_and(|found| found.count() == entries)
    };
    let is_file = |name: &str| {
        owned(&tree.join(name), 0o644).is_some_and(|metadata| metadata.is_file() && metadata.len() == 0)
    };
    DIRECTORIES.into_iter().all(is_directory) && FILES.into_iter().all(is_file)
}

/// Makes it beside its place, and on the disk, before it gets its name.
fn make(folder: &Path) -> io::Result<PathBuf> {
    let unfinished = folder.join(UNFINISHED);
    remove_path(&unfinished)?;
    for (name, _) in DIRECTORIES {
        DirBuilder::new().mode(0o700).create(unfinished.join(name))?;
    }
    for name in FILES {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(unfinished.join(name))?;
        finish(&file, 0o644)?;
    }
    for (name, _) in DIRECTORIES {
        finish(&File::open(unfinished.join(name))?, 0o755)?;
    }
    Ok(unfinished)
}

/// Makes room for the right one. What is wrong stays for those who run on it: where a directory below an overlay is
/// deleted, the overlay's is empty.
fn put_aside(folder: &Path, tree: &Path) -> io::Result<()> {
    for number in 1u32.. {
        let aside = folder.join(format!("{ASIDE}{number}"));
        match renameat_with(CWD, tree, CWD, &aside, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => break,
            other => return Ok(other?),
        }
    }
    Ok(())
}

/// Discards what was put aside, when nobody can run on it any more.
fn forget_others(folder: &Path, tree: &Path, trash: &Trash) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path != tree {
            trash.discard(&path)?;
        }
    }
    Ok(())
}

/// Whatever the umask and the group of the directory above.
fn finish(made: &File, mode: u32) -> io::Result<()> {
    std::os::unix::fs::fchown(made, Some(0), Some(0))?;
    made.set_permissions(PermissionsExt::from_mode(mode))?;
    made.sync_all()
}
