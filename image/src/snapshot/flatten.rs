//! A copy of what overlayfs would show, for machines where it cannot be mounted.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::Error;
use crate::trash::remove_tree;
use crate::unpack::inherit::LayerView;
use crate::unpack::root::{Root, stat_at};
use crate::unpack::whiteout::is_whiteout;
use crate::unpack::{EntryPath, copy_metadata, copy_node, times_of};

/// The walk holds three open files per level.
const DEEPEST: usize = 300;

/// Copies the layers (lowest first) one over the other into an empty directory.
pub(super) fn flatten(layers: Vec<LayerView>, target: &Path) -> Result<(), Error> {
    let io = |errno: Errno| Error::io("copy layers to", target)(errno.into());
    for mut layer in layers {
        apply_side_file(&layer, target).map_err(io)?;
        let from = layer
            .root()
            .look_up(&EntryPath::root(), OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(io)?;
        let root = Root::open(target).map_err(io)?;
        let to = root
            .look_up(&EntryPath::root(), OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(io)?;
        let mut copier = Copier {
            layer: &layer,
            root,
            links: HashMap::new(),
        };
        copier.directory(&EntryPath::root(), &from, &to).map_err(io)?;
    }
    Ok(())
}

/// What the layer deletes from those below, where it is not told by devices.
fn apply_side_file(layer: &LayerView, target: &Path) -> Result<(), Errno> {
    let mut root = Root::open(target)?;
    for path in &layer.side().gone {
        let Some((parent, name)) = path.split() else {
            continue;
        };
        let Some(found) = root.stat(path)? else { continue };
        let parent = root.directory(&parent)?;
        root.remove(parent.as_fd(), name, FileType::from_raw_mode(found.st_mode))?;
    }
    Ok(())
}

struct Copier<'a> {
    layer: &'a LayerView,
    root: Root,
    /// Where the first name of an inode went.
    links: HashMap<u64, EntryPath>,
}

impl Copier<'_> {
    fn directory(&mut self, path: &EntryPath, from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
        if path.components().count() > DEEPEST {
            return Err(Errno::NAMETOOLONG);
        }
        if self.layer.is_opaque(path)? {
            clear(to.as_fd())?;
        }
        let mut names = Vec::new();
        let mut entries = Dir::read_from(from)?;
        while let Some(entry) = entries.read() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from(OsStr::from_bytes(&name)));
            }
        }
        drop(entries);
        for name in names {
            self.entry(path, &name, from, to)?;
        }
        let stat = copy_metadata(from.as_fd(), to.as_fd())?;
        fs::futimens(to, &times_of(&stat))
    }

    fn entry(&mut self, path: &EntryPath, name: &OsStr, from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
        let Some(stat) = stat_at(from.as_fd(), name)? else {
            return Ok(());
        };
        let below = stat_at(to.as_fd(), name)?.map(|stat| FileType::from_raw_mode(stat.st_mode));
        let kind = FileType::from_raw_mode(stat.st_mode);
        if let Some(below) = below
            && (kind != FileType::Directory || below != FileType::Directory)
        {
            remove(to.as_fd(), name, below)?;
        }
        if is_whiteout(&stat) {
            return Ok(());
        }
        if kind == FileType::Directory {
            if below != Some(FileType::Directory) {
                fs::mkdirat(to, name, Mode::RWXU)?;
            }
            let (from, to) = (open_at(from.as_fd(), name)?, open_at(to.as_fd(), name)?);
            return self.directory(&path.join(name), &from, &to);
        }
        if stat.st_nlink > 1 {
            match self.links.get(&stat.st_ino).and_then(EntryPath::split) {
                Some((directory, first)) => {
                    let directory = self.root.directory(&directory)?;
                    return fs::linkat(&directory, first, to, name, AtFlags::empty());
                }
                None => drop(self.links.insert(stat.st_ino, path.join(name))),
            }
        }
        copy_node(from.as_fd(), name, &stat, to.as_fd(), name)
    }
}

fn clear(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut entries = Dir::read_from(directory)?;
    let mut names = Vec::new();
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((OsString::from(OsStr::from_bytes(name)), entry.file_type()));
        }
    }
    drop(entries);
    names
        .into_iter()
        .try_for_each(|(name, kind)| remove(directory, &name, kind))
}

fn remove(parent: BorrowedFd<'_>, name: &OsStr, kind: FileType) -> Result<(), Errno> {
    match kind {
        FileType::Directory => remove_tree(parent, name),
        _ => fs::unlinkat(parent, name, AtFlags::empty()),
    }
}

fn open_at(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    fs::openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}
