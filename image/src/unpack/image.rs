//! One archive entry after the other, into one EROFS image.
//!
//! The rules are those of `apply`, which makes a directory: same names, same order of effects, same refusals. What
//! the kernel does there is done here by [`Tree`]. `tests/unpack` holds both to the same cases.

use std::ffi::OsStr;
use std::fs::File;
use std::io::BufRead;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::apply::named;
use super::image_seal::UnsealedImage;
use super::metadata::kept;
use super::meter::Meter;
use super::path::EntryPath;
use super::recipe::RecipeWriter;
use super::tar::{Entry, Kind, Segment, TarReader};
use super::tree::{Node, NodeId, Tree};
use super::whiteout::{Marker, Whiteouts};
use super::{Limits, PathProblem, UnpackError, refused};
use crate::erofs::{self, Attributes, Writer};

type Tar<R> = TarReader<R, RecipeWriter>;

/// Unpacks the archive into `target`, a new file.
///
/// Reads to the end of the stream (so that a digest over it is complete).
///
/// # Errors
/// [`UnpackError`]; the file is then to be thrown away.
pub fn unpack_image(
    archive: impl BufRead,
    target: &Path,
    recipe: RecipeWriter,
    limits: &Limits,
) -> Result<UnsealedImage, UnpackError> {
    unpack_image_sharing(archive, target, recipe, limits, &|| true)
}

/// As [`unpack_image`], but before it remembers very many names, it asks whether it may.
pub(crate) fn unpack_image_sharing(
    archive: impl BufRead,
    target: &Path,
    recipe: RecipeWriter,
    limits: &Limits,
    more: &dyn Fn() -> bool,
) -> Result<UnsealedImage, UnpackError> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(target)
        .map_err(|error| UnpackError::Step {
            path: EntryPath::root(),
            step: "make the layer's image",
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        })?;
    let unpacker = ImageUnpacker {
        tree: Tree::new(),
        writer: Writer::new(file),
        meter: Meter::new(*limits, more),
        links: Vec::new(),
        whiteouts: Whiteouts::default(),
    };
    unpacker.run(archive, recipe)
}

struct ImageUnpacker<'a> {
    tree: Tree,
    writer: Writer,
    meter: Meter<'a>,
    /// Hard links whose target must be in a layer below.
    links: Vec<(EntryPath, EntryPath)>,
    whiteouts: Whiteouts,
}

impl ImageUnpacker<'_> {
    fn run(mut self, archive: impl BufRead, recipe: RecipeWriter) -> Result<UnsealedImage, UnpackError> {
        let mut tar = TarReader::new(archive, recipe);
        while let Some(entry) = tar.next_entry()? {
            self.meter.entry()?;
            self.entry(entry, &mut tar)?;
        }
        tar.drain()?;
        tar.structure.finish().map_err(UnpackError::Recipe)?;
        Ok(UnsealedImage {
            tree: self.tree,
            writer: self.writer,
            links: self.links,
            whiteouts: self.whiteouts,
        })
    }

    fn entry(&mut self, entry: Entry, tar: &mut Tar<impl BufRead>) -> Result<(), UnpackError> {
        let path = named(&entry.path)?;
        let wrong = |problem| UnpackError::Name {
            name: path.to_string(),
            problem,
        };
        if let Some(marker) = Marker::of(&path).map_err(wrong)? {
            self.meter.remember(path.as_bytes().len())?;
            self.whiteouts.add(marker);
            return Ok(());
        }
        if let Kind::Directory = entry.kind {
            return self.directory(&path, entry);
        }
        let (parent, name) = path.split().ok_or_else(|| wrong(PathProblem::Root))?;
        let parent = self.parent(&parent)?;
        if let Kind::HardLink(target) = &entry.kind {
            return self.hard_link(&path, parent, name, named(target)?);
        }
        self.meter.remember(name.len())?;
        let node = match entry.kind {
            Kind::File { size, ref segments } => {
                self.meter.file(size)?;
                let file = self
                    .begin(&path, &entry, size, segments)
                    .map_err(refused(&path, "create"))?;
                tar.structure.file(&path, segments);
                self.contents(&path, file, segments, tar)?
            }
            Kind::Symlink(ref target) => self.symlink(&path, &entry, target)?,
            Kind::Character(0, 0) => return Err(UnpackError::ForgedWhiteout { path }),
            Kind::Character(major, minor) => {
                self.node(&path, &entry, erofs::Node::Character(major, minor))?
            }
            Kind::Block(major, minor) => self.node(&path, &entry, erofs::Node::Block(major, minor))?,
            Kind::Fifo => self.node(&path, &entry, erofs::Node::Fifo)?,
            Kind::Directory | Kind::HardLink(_) => return Ok(()),
        };
        self.tree
            .insert(parent, name, node)
            .map(drop)
            .map_err(refused(&path, "create"))
    }

    fn directory(&mut self, path: &EntryPath, entry: Entry) -> Result<(), UnpackError> {
        let id = match path.split() {
            None => Tree::ROOT,
            Some((parent, name)) => {
                let parent = self.parent(&parent)?;
                self.meter.remember(name.len())?;
                match self.tree.child(parent, name) {
                    Some(id) if self.tree.node(id).kind() == FileType::Directory => id,
                    _ => self
                        .tree
                        .insert(parent, name, Node::directory(parent, name))
                        .map_err(refused(path, "make the directory"))?,
                }
            }
        };
        let directory = self
            .tree
            .as_directory(id)
            .map_err(refused(path, "open the directory"))?;
        let mut attributes = attributes(&entry, true);
        // What an earlier entry gave stays, where this one gives nothing instead.
        for (name, value) in directory
            .attributes
            .take()
            .map(|old| old.xattrs)
            .unwrap_or_default()
        {
            if attributes.xattrs.iter().all(|(known, _)| *known != name) {
                attributes.xattrs.push((name, value));
            }
        }
        let size = attributes
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len());
        self.meter.remember(size.sum())?;
        directory.attributes = Some(attributes);
        Ok(())
    }

    fn hard_link(
        &mut self,
        path: &EntryPath,
        parent: NodeId,
        name: &OsStr,
        target: EntryPath,
    ) -> Result<(), UnpackError> {
        let step = |step| refused(path, step);
        self.meter.remember(name.len())?;
        let Some((target_parent, target_name)) = target.split() else {
            return Err(step("link to the root")(Errno::ISDIR));
        };
        if target == *path {
            return Err(UnpackError::LinkTarget {
                path: path.clone(),
                target,
            });
        }
        let look_up = |tree: &mut Tree| match tree.directory(&target_parent) {
            Ok(directory) => Ok(tree.child(directory, target_name)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        };
        let found = look_up(&mut self.tree).map_err(step("look up the target"))?;
        self.tree.remove(parent, name).map_err(step("replace"))?;
        if found.is_none() {
            self.meter
                .remember(path.as_bytes().len() + target.as_bytes().len())?;
            self.links.push((path.clone(), target));
            return Ok(());
        }
        // What was replaced may have been the target's directory.
        let found = look_up(&mut self.tree).and_then(|found| found.ok_or(Errno::NOENT));
        // A symlink is linked itself, not what it points at.
        found
            .and_then(|found| self.tree.link(parent, name, found))
            .map_err(step("link"))
    }

    fn begin(
        &mut self,
        path: &EntryPath,
        entry: &Entry,
        size: u64,
        segments: &[Segment],
    ) -> Result<erofs::FileInProgress, Errno> {
        debug_assert!(!path.is_root());
        self.writer.begin(attributes(entry, true), size, segments)
    }

    fn contents(
        &mut self,
        path: &EntryPath,
        mut file: erofs::FileInProgress,
        segments: &[Segment],
        tar: &mut Tar<impl BufRead>,
    ) -> Result<Node, UnpackError> {
        let step = |step| refused(path, step);
        for segment in segments {
            let (mut offset, end) = (segment.offset, segment.offset + segment.length);
            while offset < end {
                let piece = tar.payload()?;
                let take = piece
                    .len()
                    .min(usize::try_from(end - offset).unwrap_or(usize::MAX));
                self.writer
                    .write(&mut file, offset, &piece[..take])
                    .map_err(step("write"))?;
                tar.consume(take);
                offset += take as u64;
                self.meter.bytes(self.writer.file(), take as u64)?;
            }
        }
        let nid = self.writer.end(file).map_err(step("write"))?;
        Ok(Node::leaf(nid, FileType::RegularFile))
    }

    fn symlink(&mut self, path: &EntryPath, entry: &Entry, target: &[u8]) -> Result<Node, UnpackError> {
        let step = refused(path, "make the symlink");
        if target.contains(&0) || target.is_empty() {
            return Err(step(Errno::INVAL));
        }
        self.meter.remember(target.len())?;
        let attributes = Attributes {
            mode: 0o777,
            ..attributes(entry, false)
        };
        let nid = self.writer.symlink(&attributes, target).map_err(step)?;
        Ok(Node::symlink(nid, target))
    }

    fn node(&mut self, path: &EntryPath, entry: &Entry, node: erofs::Node) -> Result<Node, UnpackError> {
        let written = self.writer.node(&attributes(entry, false), node);
        let nid = written.map_err(refused(path, "make the node"))?;
        Ok(Node::leaf(nid, node.kind()))
    }

    /// The directory an entry goes to; makes what the archive left out on the way.
    fn parent(&mut self, path: &EntryPath) -> Result<NodeId, UnpackError> {
        let mut names = 0;
        let made = self.tree.make_directories(path, |name| names += 1 + name.len());
        self.meter.remember(names)?;
        made.map_err(refused(path, "open the parent directory"))
    }
}

/// Of an entry; only files and directories keep extended attributes.
fn attributes(entry: &Entry, xattrs: bool) -> Attributes {
    Attributes {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: if xattrs { kept(&entry.xattrs) } else { Vec::new() },
    }
}
