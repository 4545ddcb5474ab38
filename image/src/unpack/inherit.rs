//! Looking something up in a stack of layers, the way overlayfs would.
//!
//! Archives leave out directories (`usr/bin/tool` without `usr/`) and some link to files of
//! layers below. Both mean what the stack shows there.

use std::io;
use std::path::Path;

use rustix::fs::{self, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::path::EntryPath;
use super::root::Root;
use super::whiteout::{OPAQUE_XATTR, Whiteouts, is_whiteout};

/// One finished layer, opened for looking.
#[derive(Debug)]
pub struct LayerView {
    root: Root,
    side: Whiteouts,
}

impl LayerView {
    /// Opens a layer from its tree and its (possibly absent) side file.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(tree: &Path, side_file: &Path) -> io::Result<Self> {
        Self::new(Root::open(tree)?, side_file)
    }

    /// A layer from its opened tree and its (possibly absent) side file.
    ///
    /// # Errors
    /// The side file's.
    pub fn new(root: Root, side_file: &Path) -> io::Result<Self> {
        Ok(Self {
            root,
            side: Whiteouts::read(side_file)?,
        })
    }

    /// A layer whose whiteouts are all in its tree.
    #[must_use]
    pub fn of(root: Root) -> Self {
        Self {
            root,
            side: Whiteouts::default(),
        }
    }

    /// The tree.
    pub fn root(&mut self) -> &mut Root {
        &mut self.root
    }

    /// The whiteouts that are not in the tree.
    pub fn side(&self) -> &Whiteouts {
        &self.side
    }

    /// Whether nothing of below shows in this directory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_opaque(&self, path: &EntryPath) -> Result<bool, Errno> {
        if self.side.opaque.contains(path) {
            return Ok(true);
        }
        let fd = self
            .root
            .look_up(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
        let mut value = [0u8; 1];
        match fs::fgetxattr(&fd, OPAQUE_XATTR, &mut value) {
            Ok(1) => Ok(value[0] == b'y'),
            _ => Ok(false),
        }
    }

    fn find(&mut self, path: &EntryPath) -> Result<Found, Errno> {
        let mut here = EntryPath::root();
        let mut opaque = self.is_opaque(&here)?;
        let mut components = path.components();
        while let Some(component) = components.next() {
            here = here.join(component);
            match self.root.stat(&here)? {
                Some(stat) if is_whiteout(&stat) => return Ok(Found::Nothing),
                Some(stat) if here == *path => return Ok(Found::Here(stat)),
                Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    opaque |= self.is_opaque(&here)?;
                }
                // Something else in the place of a parent hides everything.
                Some(_) => return Ok(Found::Nothing),
                None => {
                    let mut gone = opaque || self.side.gone.contains(&here);
                    for component in components {
                        here = here.join(component);
                        gone |= self.side.gone.contains(&here);
                    }
                    return Ok(if gone { Found::Nothing } else { Found::Below });
                }
            }
        }
        fs::fstat(self.root.as_fd()).map(Found::Here)
    }
}

enum Found {
    Here(Stat),
    Below,
    Nothing,
}

/// What the stack shows at `path`: the index of its layer, and what it is.
///
/// `layers` are given top first.
///
/// # Errors
/// The kernel's.
pub fn find(layers: &mut [LayerView], path: &EntryPath) -> Result<Option<(usize, Stat)>, Errno> {
    for (index, layer) in layers.iter_mut().enumerate() {
        match layer.find(path)? {
            Found::Here(stat) => return Ok(Some((index, stat))),
            Found::Nothing => return Ok(None),
            Found::Below => {}
        }
    }
    Ok(None)
}
