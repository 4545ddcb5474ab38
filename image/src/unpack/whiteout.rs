//! What a layer deletes from the layers below it.
//!
//! | in the archive | in the directory overlayfs reads | where devices cannot be made |
//! |---|---|---|
//! | `dir/.wh.name` | `dir/name`, a character device 0:0 | a line in the side file |
//! | `dir/.wh..wh..opq` | `trusted.overlay.opaque=y` on `dir` | a line in the side file |
//!
//! (image-spec layer.md; kernel `Documentation/filesystems/overlayfs.rst`.) Markers are collected
//! while unpacking and put into place when the layer is sealed: they speak of the layers below,
//! so their order among the entries must not matter.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::inherit::{self, LayerView};
use super::path::{EntryPath, PathProblem};
use super::{UnpackError, refused};

const PREFIX: &[u8] = b".wh.";
const META_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
pub(super) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// How whiteouts are kept on this disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As overlayfs reads them.
    Devices,
    /// In a file beside the tree: the disk is itself an overlay or forbids devices.
    SideFile,
}

/// What the name of an entry marks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// This path is gone.
    Gone(EntryPath),
    /// Nothing of this directory's content below shows.
    Opaque(EntryPath),
    /// Bookkeeping of aufs; means nothing here.
    Ignored,
}

impl Marker {
    /// `None` for an ordinary name.
    pub(super) fn of(path: &EntryPath) -> Result<Option<Self>, PathProblem> {
        let Some((parent, name)) = path.split() else {
            return Ok(None);
        };
        if path
            .components()
            .any(|component| component.as_bytes().starts_with(META_PREFIX))
        {
            let opaque = name.as_bytes() == OPAQUE;
            return Ok(Some(if opaque {
                Self::Opaque(parent)
            } else {
                Self::Ignored
            }));
        }
        if parent
            .components()
            .any(|component| component.as_bytes().starts_with(PREFIX))
        {
            return Err(PathProblem::Whiteout);
        }
        match name.as_bytes().strip_prefix(PREFIX) {
            None => Ok(None),
            Some(b"" | b"." | b"..") => Err(PathProblem::Whiteout),
            Some(hidden) => Ok(Some(Self::Gone(parent.join(OsStr::from_bytes(hidden))))),
        }
    }
}

/// All markers of one layer.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Whiteouts {
    /// Paths that are gone.
    pub gone: BTreeSet<EntryPath>,
    /// Directories that show nothing of below.
    pub opaque: BTreeSet<EntryPath>,
}

impl Whiteouts {
    pub(super) fn add(&mut self, marker: Marker) {
        match marker {
            Marker::Gone(path) => drop(self.gone.insert(path)),
            Marker::Opaque(path) => drop(self.opaque.insert(path)),
            Marker::Ignored => {}
        }
    }

    /// Those that have an effect, given what the layer itself has at a path, and the layers `below` (top first).
    ///
    /// A name that is both deleted and there: a directory shows nothing of below, a file hides what is below anyway. A
    /// whiteout of nothing is left out: in a directory that only this layer has, overlayfs would list it.
    pub(super) fn effective(
        self,
        mut own: impl FnMut(&EntryPath) -> Result<Option<FileType>, Errno>,
        below: &mut [LayerView],
    ) -> Result<Self, UnpackError> {
        let Self { gone, mut opaque } = self;
        let mut left = BTreeSet::new();
        for path in gone {
            match own(&path).map_err(refused(&path, "look up"))? {
                Some(FileType::Directory) => drop(opaque.insert(path)),
                Some(_) => {}
                None => {
                    let found = inherit::find(below, &path).map_err(refused(&path, "look below"))?;
                    if found.is_some() {
                        left.insert(path);
                    }
                }
            }
        }
        // What lies under something deleted or opaque is hidden with it.
        let hidden = |path: &EntryPath| {
            opaque.contains(&EntryPath::root())
                || path
                    .ancestors()
                    .any(|above| left.contains(&above) || opaque.contains(&above))
        };
        let gone = left.iter().filter(|path| !hidden(path)).cloned().collect();
        Ok(Self { gone, opaque })
    }

    /// Whether the layer deletes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.opaque.is_empty()
    }

    /// Reads the side file; none means no whiteouts (or that they are devices in the tree).
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn read(file: &Path) -> io::Result<Self> {
        let bytes = match std::fs::read(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other?,
        };
        let mut whiteouts = Self::default();
        for line in bytes.split(|b| *b == 0).filter(|line| !line.is_empty()) {
            let path = EntryPath::parse(&line[1..]).map_err(|_| io::ErrorKind::InvalidData)?;
            match line[0] {
                b'g' => whiteouts.gone.insert(path),
                b'o' => whiteouts.opaque.insert(path),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            };
        }
        Ok(whiteouts)
    }

    /// Writes the side file.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (kind, paths) in [(b'g', &self.gone), (b'o', &self.opaque)] {
            for path in paths {
                bytes.push(kind);
                bytes.extend_from_slice(path.as_bytes());
                bytes.push(0);
            }
        }
        std::fs::write(file, bytes)
    }
}

/// Whether overlayfs takes a node for a whiteout.
pub fn is_whiteout_device(kind: FileType, device: u64) -> bool {
    kind == FileType::CharacterDevice && device == 0
}

/// Whether overlayfs takes what was found for a whiteout.
pub fn is_whiteout(stat: &Stat) -> bool {
    is_whiteout_device(FileType::from_raw_mode(stat.st_mode), stat.st_rdev)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn tells_markers_from_names() {
        let marker = |text| Marker::of(&path(text));
        assert_eq!(marker("a/b"), Ok(None));
        assert_eq!(marker(""), Ok(None));
        assert_eq!(marker("a/.wh.b"), Ok(Some(Marker::Gone(path("a/b")))));
        assert_eq!(marker("a/.wh..wh..opq"), Ok(Some(Marker::Opaque(path("a")))));
        assert_eq!(marker(".wh..wh..opq"), Ok(Some(Marker::Opaque(path("")))));
        assert_eq!(marker(".wh..wh.plnk/1.2"), Ok(Some(Marker::Ignored)));
        assert_eq!(marker("a/.wh....b"), Ok(Some(Marker::Gone(path("a/...b")))));
        for bad in ["a/.wh.", "a/.wh..", "a/.wh...", ".wh.a/b"] {
            assert_eq!(marker(bad), Err(PathProblem::Whiteout), "{bad}");
        }
    }

    #[test]
    fn side_file_round_trips() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("whiteouts");
        assert!(Whiteouts::read(&file).unwrap().is_empty());
        let mut whiteouts = Whiteouts::default();
        whiteouts.add(Marker::Gone(path("a/new\nline")));
        whiteouts.add(Marker::Opaque(path("")));
        whiteouts.write(&file).unwrap();
        assert_eq!(Whiteouts::read(&file).unwrap(), whiteouts);
    }
}
