//! The end of an image: what depends on the layers below, then the directories.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::inherit::{self, LayerView};
use super::metadata::read_xattrs;
use super::tar::Segment;
use super::tree::{Node, NodeId, Tree};
use super::whiteout::{OPAQUE_XATTR, Whiteouts};
use super::{DiskUsage, EntryPath, UnpackError, refused};
use crate::erofs::{self, Attributes, DirectoryEntry, DirectoryRecord, Target, Writer};

/// An image with all files of a layer, still without its directories and what depends on the layers below.
#[derive(Debug)]
pub struct UnsealedImage {
    pub(super) tree: Tree,
    pub(super) writer: Writer,
    /// Hard links whose target must be in a layer below.
    pub(super) links: Vec<(EntryPath, EntryPath)>,
    pub(super) whiteouts: Whiteouts,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedImage {
    /// The image itself.
    pub usage: DiskUsage,
    /// It hides everything below it.
    pub opaque_root: bool,
}

impl UnsealedImage {
    /// Whether the layers below matter for what is left to do.
    #[must_use]
    pub fn needs_layers_below(&self) -> bool {
        let described = |id| matches!(self.tree.node(id), Node::Directory(d) if d.attributes.is_some());
        !self.links.is_empty()
            || !self.whiteouts.is_empty()
            || !self.tree.directories().into_iter().all(described)
    }

    /// Puts whiteouts into place, fills in what the archive left out from the layers `below` (top first), and
    /// completes the image.
    ///
    /// # Errors
    /// A hard link to nothing, or the kernel's refusal.
    pub fn seal(mut self, below: &mut [LayerView]) -> Result<SealedImage, UnpackError> {
        self.place_whiteouts(below)?;
        self.inherit_links(below)?;
        let directories = self.tree.directories();
        for id in &directories {
            self.describe(*id, below)?;
        }
        let root = EntryPath::root();
        let records: Vec<DirectoryRecord<'_>> = self.tree.records(&directories);
        let linked = self.tree.linked();
        let bytes = self
            .writer
            .finish(&records, &linked)
            .map_err(refused(&root, "write the directories"))?;
        let opaque_root = matches!(self.tree.node(Tree::ROOT), Node::Directory(root) if root.opaque);
        Ok(SealedImage {
            usage: DiskUsage { bytes, inodes: 1 },
            opaque_root,
        })
    }

    fn place_whiteouts(&mut self, below: &mut [LayerView]) -> Result<(), UnpackError> {
        let tree = &mut self.tree;
        let whiteouts = std::mem::take(&mut self.whiteouts).effective(|path| tree.kind(path), below)?;
        for path in &whiteouts.opaque {
            let id = self.make_directories(path)?;
            self.tree
                .as_directory(id)
                .map_err(refused(path, "mark as opaque"))?
                .opaque = true;
        }
        for path in &whiteouts.gone {
            let Some((parent, name)) = path.split() else {
                continue;
            };
            let parent = self.make_directories(&parent)?;
            if self.tree.child(parent, name).is_some() {
                continue;
            }
            let attributes = Attributes { mode: 0, ..nobodys() };
            let step = refused(path, "make the whiteout");
            let nid = self
                .writer
                .node(&attributes, erofs::Node::Character(0, 0))
                .map_err(step)?;
            self.tree
                .insert(parent, name, Node::leaf(nid, FileType::CharacterDevice))
                .map_err(step)?;
        }
        Ok(())
    }

    fn make_directories(&mut self, path: &EntryPath) -> Result<NodeId, UnpackError> {
        self.tree
            .make_directories(path, |_| {})
            .map_err(refused(path, "make the parent directory"))
    }

    fn inherit_links(&mut self, below: &mut [LayerView]) -> Result<(), UnpackError> {
        for (path, target) in std::mem::take(&mut self.links) {
            let step = |step| refused(&path, step);
            let Some((parent, name)) = path.split() else {
                return Err(UnpackError::LinkTarget { path, target });
            };
            // An earlier link of the same archive may have brought it here.
            let own = self.tree.find(&target).map_err(step("look up the target"))?;
            let parent = self
                .tree
                .directory(&parent)
                .map_err(step("open the parent directory"))?;
            let found = match own {
                Some(_) => None,
                None => inherit::find(below, &target).map_err(step("look up the target"))?,
            };
            let is_directory = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if own.is_none() && found.is_none_or(|(_, stat)| is_directory(&stat)) {
                return Err(UnpackError::LinkTarget { path, target });
            }
            // A later entry took the name.
            if self.tree.child(parent, name).is_some() {
                return Err(step("link")(Errno::EXIST));
            }
            if let Some(own) = own {
                self.tree.link(parent, name, own).map_err(step("link"))?;
            }
            if let Some((index, stat)) = found {
                let node = copy(&mut self.writer, &mut below[index], &target, &stat)
                    .map_err(step("copy the target"))?;
                self.tree.insert(parent, name, node).map_err(step("link"))?;
            }
        }
        Ok(())
    }

    /// A directory that the archive did not describe takes its attributes from the layers below.
    fn describe(&mut self, id: NodeId, below: &mut [LayerView]) -> Result<(), UnpackError> {
        if matches!(self.tree.node(id), Node::Directory(directory) if directory.attributes.is_some()) {
            return Ok(());
        }
        let path = self.tree.path_of(id);
        let step = |step| refused(&path, step);
        let found = inherit::find(below, &path).map_err(step("look below"))?;
        let inherited = match found {
            Some((index, stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                let fd = below[index]
                    .root()
                    .look_up(&path, flags)
                    .map_err(step("look below"))?;
                attributes_of(&fd, &stat).map_err(step("take over attributes"))?
            }
            // Nobody described it anywhere: the same on every machine.
            _ => nobodys(),
        };
        let directory = self.tree.as_directory(id).map_err(step("open the directory"))?;
        directory.attributes = Some(inherited);
        Ok(())
    }
}

impl Tree {
    /// All directories, each after the one above it.
    fn directories(&self) -> Vec<NodeId> {
        let mut all = vec![Self::ROOT];
        let mut next = 0;
        while let Some(id) = all.get(next).copied() {
            next += 1;
            if let Node::Directory(directory) = self.node(id) {
                let below = directory.names.values().copied();
                all.extend(below.filter(|id| self.node(*id).kind() == FileType::Directory));
            }
        }
        all
    }

    /// Where a directory is. Never kept for all of them: their lengths add up to more than the names do.
    fn path_of(&self, id: NodeId) -> EntryPath {
        let mut names = Vec::new();
        let mut here = id;
        while let Node::Directory(directory) = self.node(here)
            && here != Self::ROOT
        {
            names.push(&directory.name[..]);
            here = directory.parent;
        }
        names.reverse();
        // Each is a clean component.
        EntryPath::parse(&names.join(&b'/')).unwrap_or_default()
    }

    /// The directories as the writer takes them.
    fn records(&self, directories: &[NodeId]) -> Vec<DirectoryRecord<'_>> {
        let index: std::collections::HashMap<NodeId, usize> = directories
            .iter()
            .enumerate()
            .map(|(index, id)| (*id, index))
            .collect();
        let of = |id: &NodeId| index.get(id).copied().unwrap_or(0);
        let record = |id: &NodeId| {
            let Node::Directory(directory) = self.node(*id) else {
                return None;
            };
            let mut attributes = directory.attributes.clone().unwrap_or_else(nobodys);
            if directory.opaque {
                attributes
                    .xattrs
                    .push((OPAQUE_XATTR.as_bytes().to_vec(), b"y".to_vec()));
            }
            let entry = |(name, id): (_, &NodeId)| DirectoryEntry {
                name,
                kind: self.node(*id).kind(),
                target: match self.node(*id) {
                    Node::Directory(_) => Target::Directory(of(id)),
                    Node::Leaf(leaf) => Target::Written(leaf.nid),
                },
            };
            let named = directory.names.iter().map(|(name, id)| (&**name, id));
            Some(DirectoryRecord {
                attributes,
                parent: of(&directory.parent),
                entries: named.map(entry).collect(),
            })
        };
        directories.iter().filter_map(record).collect()
    }
}

/// Of a directory that nobody described.
fn nobodys() -> Attributes {
    Attributes {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        xattrs: Vec::new(),
    }
}

fn attributes_of(fd: impl AsFd, stat: &Stat) -> Result<Attributes, Errno> {
    Ok(Attributes {
        xattrs: read_xattrs(fd.as_fd())?,
        ..plain_attributes_of(stat)
    })
}

fn plain_attributes_of(stat: &Stat) -> Attributes {
    Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        xattrs: Vec::new(),
    }
}

/// Copies what a layer below has at `path` (anything but a directory) into the image.
fn copy(writer: &mut Writer, layer: &mut LayerView, path: &EntryPath, stat: &Stat) -> Result<Node, Errno> {
    let (parent, name) = path.split().ok_or(Errno::ISDIR)?;
    let parent = layer.root().directory(&parent)?;
    let attributes = plain_attributes_of(stat);
    let kind = FileType::from_raw_mode(stat.st_mode);
    let (major, minor) = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
    let node = match kind {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = File::from(fs::openat(&parent, name, flags, Mode::empty())?);
            let nid = copy_file(writer, &source, stat)?;
            return Ok(Node::leaf(nid, kind));
        }
        FileType::Symlink => {
            let target = fs::readlinkat(&parent, name, Vec::new())?;
            let nid = writer.symlink(&attributes, target.as_bytes())?;
            return Ok(Node::symlink(nid, target.as_bytes()));
        }
        FileType::CharacterDevice => erofs::Node::Character(major, minor),
        FileType::BlockDevice => erofs::Node::Block(major, minor),
        FileType::Fifo => erofs::Node::Fifo,
        _ => return Err(Errno::INVAL),
    };
    Ok(Node::leaf(writer.node(&attributes, node)?, kind))
}

fn copy_file(writer: &mut Writer, source: &File, stat: &Stat) -> Result<erofs::Nid, Errno> {
    let size = stat.st_size.cast_unsigned();
    let segments = data_of(source, size)?;
    let mut file = writer.begin(attributes_of(source, stat)?, size, &segments)?;
    let mut buffer = vec![0; 128 << 10];
    for segment in segments {
        let (mut offset, end) = (segment.offset, segment.offset + segment.length);
        while offset < end {
            let wanted = buffer
                .len()
                .min(usize::try_from(end - offset).unwrap_or(usize::MAX));
            let count = rustix::io::pread(source, &mut buffer[..wanted], offset)?;
            if count == 0 {
                return Err(Errno::IO);
            }
            writer.write(&mut file, offset, &buffer[..count])?;
            offset += count as u64;
        }
    }
    writer.end(file)
}

/// Where a file has data; holes stay holes.
fn data_of(file: &File, size: u64) -> Result<Vec<Segment>, Errno> {
    let mut segments = Vec::new();
    let mut position = 0;
    while position < size {
        let start = match fs::seek(file, fs::SeekFrom::Data(position)) {
            Err(Errno::NXIO) => break,
            other => other?,
        };
        let end = fs::seek(file, fs::SeekFrom::Hole(start))?.min(size);
        segments.push(Segment {
            offset: start,
            length: end - start,
        });
        position = end;
    }
    Ok(segments)
}
