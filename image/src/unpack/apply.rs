//! One archive entry after the other, onto the disk.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::BufRead;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::metadata::{self, Attributes};
use super::meter::Meter;
use super::path::EntryPath;
use super::recipe::RecipeWriter;
use super::root::{Root, stat_at};
use super::tar::{Entry, Kind, Segment, TarReader};
use super::whiteout::{Marker, Whiteouts, is_whiteout_device};
use super::{DiskUsage, UnpackError, Unsealed, refused};
use crate::usage::measure_at;

const BLOCK: u64 = 4096;

pub(super) struct Unpacker<'a> {
    root: Root,
    times: Vec<(EntryPath, (i64, u32))>,
    implicit: BTreeSet<EntryPath>,
    links: Vec<(EntryPath, EntryPath)>,
    whiteouts: Whiteouts,
    usage: DiskUsage,
    meter: Meter<'a>,
}

type Tar<R> = TarReader<R, RecipeWriter>;

impl<'a> Unpacker<'a> {
    pub(super) fn new(root: Root, meter: Meter<'a>) -> Self {
        Self {
            root,
            times: Vec::new(),
            // Until an entry describes it.
            implicit: BTreeSet::from([EntryPath::root()]),
            links: Vec::new(),
            whiteouts: Whiteouts::default(),
            usage: DiskUsage {
                bytes: BLOCK,
                inodes: 1,
            },
            meter,
        }
    }

    pub(super) fn run(
        mut self,
        archive: impl BufRead,
        recipe: RecipeWriter,
    ) -> Result<Unsealed, UnpackError> {
        let mut tar = TarReader::new(archive, recipe);
        while let Some(entry) = tar.next_entry()? {
            self.meter.entry()?;
            self.entry(entry, &mut tar)?;
        }
        tar.drain()?;
        tar.structure.finish().map_err(UnpackError::Recipe)?;
        Ok(Unsealed {
            root: self.root,
            times: self.times,
            implicit: self.implicit,
            links: self.links,
            whiteouts: self.whiteouts,
            usage: self.usage,
        })
    }

    fn entry(&mut self, entry: Entry, tar: &mut Tar<impl BufRead>) -> Result<(), UnpackError> {
        let path = named(&entry.path)?;
        match Marker::of(&path) {
            Ok(None) => {}
            Ok(Some(marker)) => {
                self.meter.remember(path.as_bytes().len())?;
                self.whiteouts.add(marker);
                return Ok(());
            }
            Err(problem) => {
                return Err(UnpackError::Name {
                    name: path.to_string(),
                    problem,
                });
            }
        }
        if let Kind::Directory = entry.kind {
            return self.directory(path, &entry);
        }
        let Some((parent, name)) = path.split() else {
            return Err(UnpackError::Name {
                name: path.to_string(),
                problem: super::PathProblem::Root,
            });
        };
        let parent = self.parent(&parent)?;
        let step = |step| refused(&path, step);
        if let Kind::HardLink(target) = &entry.kind {
            return self.hard_link(&path, &parent, name, named(target)?);
        }
        match &entry.kind {
            Kind::File { size, segments } => {
                let file = self
                    .replacing(&parent, name, || create(&parent, name))
                    .map_err(step("create"))?;
                tar.structure.file(&path, segments);
                self.contents(&path, &file, *size, segments, tar)?;
                metadata::apply(file.as_fd(), &Attributes::of(&entry)).map_err(step("set attributes"))?;
                metadata::set_time(file.as_fd(), entry.mtime).map_err(step("set the time"))?;
            }
            Kind::Symlink(target) => {
                if target.contains(&0) || target.is_empty() {
                    return Err(step("make the symlink")(Errno::INVAL));
                }
                let target = OsStr::from_bytes(target);
                self.replacing(&parent, name, || fs::symlinkat(target, &parent, name))
                    .map_err(step("make the symlink"))?;
                metadata::apply_to_symlink(parent.as_fd(), name, &entry).map_err(step("set attributes"))?;
            }
            Kind::Character(0, 0) => return Err(UnpackError::ForgedWhiteout { path }),
            Kind::Character(major, minor) => {
                let node = (FileType::CharacterDevice, fs::makedev(*major, *minor));
                self.node(&parent, name, node, &entry)
                    .map_err(step("make the node"))?;
            }
            Kind::Block(major, minor) => {
                let node = (FileType::BlockDevice, fs::makedev(*major, *minor));
                self.node(&parent, name, node, &entry)
                    .map_err(step("make the node"))?;
            }
            Kind::Fifo => {
                self.node(&parent, name, (FileType::Fifo, 0), &entry)
                    .map_err(step("make the node"))?;
            }
            Kind::Directory | Kind::HardLink(_) => {}
        }
        self.usage.inodes += 1;
        Ok(())
    }

    fn directory(&mut self, path: EntryPath, entry: &Entry) -> Result<(), UnpackError> {
        let step = |step| refused(&path, step);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match path.split() {
            None => self.root.look_up(&path, flags).map_err(step("open the root"))?,
            Some((parent, name)) => {
                let parent = self.parent(&parent)?;
                if self
                    .make_directory(&parent, name)
                    .map_err(step("make the directory"))?
                {
                    self.count_directory();
                }
                fs::openat(&parent, name, flags, Mode::empty()).map_err(step("open the directory"))?
            }
        };
        metadata::apply(fd.as_fd(), &Attributes::of(entry)).map_err(step("set attributes"))?;
        self.meter.remember(path.as_bytes().len())?;
        self.implicit.remove(&path);
        self.times.push((path, entry.mtime));
        Ok(())
    }

    fn hard_link(
        &mut self,
        path: &EntryPath,
        parent: &OwnedFd,
        name: &OsStr,
        target: EntryPath,
    ) -> Result<(), UnpackError> {
        let step = |step| refused(path, step);
        let Some((target_parent, target_name)) = target.split() else {
            return Err(step("link to the root")(Errno::ISDIR));
        };
        if target == *path {
            return Err(UnpackError::LinkTarget {
                path: path.clone(),
                target,
            });
        }
        let found = match self.root.directory(&target_parent) {
            Ok(directory) => stat_at(directory.as_fd(), target_name)
                .map_err(step("look up the target"))?
                .map(|_| directory),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(step("look up the target")(errno)),
        };
        self.clear(parent, name).map_err(step("replace"))?;
        match found {
            // A directory answers EPERM; a symlink is linked itself, not what it points at.
            Some(directory) => {
                fs::linkat(&directory, target_name, parent, name, AtFlags::empty()).map_err(step("link"))
            }
            None => {
                self.meter
                    .remember(path.as_bytes().len() + target.as_bytes().len())?;
                self.links.push((path.clone(), target));
                Ok(())
            }
        }
    }

    fn contents(
        &mut self,
        path: &EntryPath,
        file: &OwnedFd,
        size: u64,
        segments: &[Segment],
        tar: &mut Tar<impl BufRead>,
    ) -> Result<(), UnpackError> {
        let step = |step| refused(path, step);
        self.meter.file(size)?;
        for segment in segments {
            let (mut offset, end) = (segment.offset, segment.offset + segment.length);
            self.usage.bytes += segment.length.next_multiple_of(BLOCK);
            while offset < end {
                let piece = tar.payload()?;
                let take = piece
                    .len()
                    .min(usize::try_from(end - offset).unwrap_or(usize::MAX));
                let count = rustix::io::pwrite(file, &piece[..take], offset).map_err(step("write"))?;
                tar.consume(count);
                offset += count as u64;
                self.meter.bytes(file, count as u64)?;
            }
        }
        if segments
            .last()
            .is_none_or(|last| last.offset + last.length < size)
            && size > 0
        {
            fs::ftruncate(file, size).map_err(step("set the size"))?;
        }
        Ok(())
    }

    /// Opens the directory an entry goes to; makes what the archive left out on the way.
    fn parent(&mut self, path: &EntryPath) -> Result<Arc<OwnedFd>, UnpackError> {
        match self.root.directory(path) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(refused(path, "open the parent directory")(errno)),
        }
        let mut here = EntryPath::root();
        let mut fd = self
            .root
            .directory(&here)
            .map_err(refused(path, "open the root"))?;
        for name in path.components() {
            let below = here.join(name);
            fd = match self.root.directory(&below) {
                Err(Errno::NOENT) => {
                    fs::mkdirat(
                        &fd,
                        name,
                        Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH,
                    )
                    .map_err(refused(&below, "make the parent directory"))?;
                    self.count_directory();
                    self.meter.remember(below.as_bytes().len())?;
                    self.implicit.insert(below.clone());
                    self.root.directory(&below)
                }
                other => other,
            }
            .map_err(refused(&below, "open the parent directory"))?;
            here = below;
        }
        Ok(fd)
    }

    /// Whether it had to be made; an earlier entry may have made it.
    fn make_directory(&mut self, parent: &OwnedFd, name: &OsStr) -> Result<bool, Errno> {
        match fs::mkdirat(parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            other => return other.map(|()| true),
        }
        let found = stat_at(parent.as_fd(), name)?;
        if found.is_some_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory) {
            return Ok(false);
        }
        self.clear(parent, name)?;
        fs::mkdirat(parent, name, Mode::RWXU).map(|()| true)
    }

    fn node(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        node: (FileType, u64),
        entry: &Entry,
    ) -> Result<(), Errno> {
        let (kind, device) = node;
        debug_assert!(!is_whiteout_device(kind, device));
        let mode = Mode::RUSR | Mode::WUSR;
        self.replacing(parent, name, || fs::mknodat(parent, name, kind, mode, device))?;
        metadata::apply_to_node(parent.as_fd(), name, entry)
    }

    /// Makes something where hardly ever something is already.
    fn replacing<T>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match make() {
            Err(Errno::EXIST) => {
                self.clear(parent, name)?;
                make()
            }
            other => other,
        }
    }

    /// Removes what an earlier entry put in this place.
    fn clear(&mut self, parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        let Some(found) = stat_at(parent.as_fd(), name)? else {
            return Ok(());
        };
        let kind = FileType::from_raw_mode(found.st_mode);
        let gone = match kind {
            FileType::Directory => measure_at(parent.as_fd(), name)?,
            // Another name of it remains.
            _ if found.st_nlink > 1 => DiskUsage::default(),
            FileType::RegularFile => DiskUsage {
                bytes: found.st_blocks.cast_unsigned() * 512,
                inodes: 1,
            },
            _ => DiskUsage { bytes: 0, inodes: 1 },
        };
        self.usage.bytes = self.usage.bytes.saturating_sub(gone.bytes);
        self.usage.inodes = self.usage.inodes.saturating_sub(gone.inodes);
        self.root.remove(parent.as_fd(), name, kind)
    }

    fn count_directory(&mut self) {
        self.usage.inodes += 1;
        self.usage.bytes += BLOCK;
    }
}

pub(super) fn named(raw: &[u8]) -> Result<EntryPath, UnpackError> {
    EntryPath::parse(raw).map_err(|problem| UnpackError::Name {
        name: raw[..raw.len().min(256)].escape_ascii().to_string(),
        problem,
    })
}

fn create(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
}
