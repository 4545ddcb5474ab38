//! Writing an image from front to back.

use std::fs::File;

use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use super::BLOCK;
use super::directory::{DirectoryRecord, Target};
use super::inode::{Attributes, Content, Nid, Node, encode, fits, length};
use super::places::{Places, place};
use super::superblock::Superblock;
use crate::unpack::tar::Segment;

/// Room for inodes is taken in pieces of this many bytes, each written at once.
const INODE_ROOM: u64 = 256 << 10;
/// Content is collected up to here before it is written.
const RUN: usize = 256 << 10;
/// A sparse file's map has at most this many chunks, of four bytes each.
const MOST_CHUNKS: u64 = 64 << 10;
/// A chunk that is a hole.
const HOLE: u32 = u32::MAX;
/// The longest target of a symlink (`PATH_MAX`, with its NUL).
const LONGEST_TARGET: usize = 4095;

/// An image in the making. Everything is written once, and memory does not grow with the content.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    /// The first byte that is nobody's; a multiple of the block size.
    end: u64,
    inodes: Inodes,
    /// Content that belongs at `run_at`.
    run: Vec<u8>,
    run_at: u64,
    count: u32,
    chunked: bool,
}

/// The piece of the image that is being filled with inodes.
#[derive(Debug, Default)]
struct Inodes {
    bytes: Vec<u8>,
    at: u64,
    room: u64,
}

/// A regular file whose content is still to come.
#[derive(Debug)]
pub(crate) struct FileInProgress {
    attributes: Attributes,
    size: u64,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    /// Blocks from `at` on; what lies beyond them follows the inode.
    Dense { at: u64, tail: Vec<u8> },
    /// The block of each chunk of `BLOCK << bits` bytes.
    Sparse { bits: u8, map: Vec<u32> },
}

impl Writer {
    /// Begins an image in an empty file.
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            // The first block is for the superblock and the root.
            end: BLOCK,
            inodes: Inodes::default(),
            run: Vec::with_capacity(RUN),
            run_at: 0,
            count: 1,
            chunked: false,
        }
    }

    /// The file that is written to.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Begins a regular file, whose data will come in these segments (in order, not overlapping).
    ///
    /// # Errors
    /// `E2BIG` for attributes that no inode can carry, `EFBIG` for an image beyond 16 TiB.
    pub(crate) fn begin(
        &mut self,
        attributes: Attributes,
        size: u64,
        segments: &[Segment],
    ) -> Result<FileInProgress> {
        let inode = length(&attributes).ok_or(Errno::TOOBIG)?;
        let covered: u64 = segments.iter().map(|segment| segment.length).sum();
        let shape = if covered == size {
            let tail = size % BLOCK;
            let tail = if fits(inode, tail) { tail } else { 0 };
            Shape::Dense {
                at: self.take((size - tail).div_ceil(BLOCK))?,
                tail: vec![0; tail as usize],
            }
        } else {
            self.sparse(size, segments)?
        };
        Ok(FileInProgress {
            attributes,
            size,
            shape,
        })
    }

    /// Takes blocks for the chunks that have data in them.
    fn sparse(&mut self, size: u64, segments: &[Segment]) -> Result<Shape> {
        let bits = (0..31)
            .find(|bits| size.div_ceil(BLOCK << bits) <= MOST_CHUNKS)
            .ok_or(Errno::FBIG)?;
        let chunk = BLOCK << bits;
        let count = size.div_ceil(chunk);
        let mut map = vec![HOLE; count as usize];
        for segment in segments.iter().filter(|segment| segment.length > 0) {
            let last = (segment.offset + segment.length - 1) / chunk;
            for index in segment.offset / chunk..=last {
                let slot = map.get_mut(index as usize).ok_or(Errno::INVAL)?;
                if *slot == HOLE {
                    *slot = block_number(self.take(chunk / BLOCK)?)?;
                }
            }
        }
        self.chunked = true;
        Ok(Shape::Sparse { bits, map })
    }

    /// Takes the next bytes of a file, which belong at `offset` of it.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn write(&mut self, file: &mut FileInProgress, offset: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if offset + bytes.len() as u64 > file.size {
            return Err(Errno::INVAL);
        }
        match &mut file.shape {
            Shape::Dense { at, tail } => {
                let whole = file.size - tail.len() as u64;
                let head = usize::try_from(whole.saturating_sub(offset)).unwrap_or(usize::MAX);
                let (head, rest) = bytes.split_at(head.min(bytes.len()));
                if !head.is_empty() {
                    put(&self.file, &mut self.run, &mut self.run_at, *at + offset, head)?;
                }
                if !rest.is_empty() {
                    let start = (offset + head.len() as u64 - whole) as usize;
                    tail[start..start + rest.len()].copy_from_slice(rest);
                }
                Ok(())
            }
            Shape::Sparse { bits, map } => {
                let chunk = BLOCK << *bits;
                let (mut offset, mut rest) = (offset, bytes);
                while !rest.is_empty() {
                    let within = offset % chunk;
                    let take = usize::try_from(chunk - within)
                        .unwrap_or(usize::MAX)
                        .min(rest.len());
                    let block = map[(offset / chunk) as usize];
                    if block == HOLE {
                        return Err(Errno::INVAL);
                    }
                    let at = u64::from(block) * BLOCK + within;
                    put(&self.file, &mut self.run, &mut self.run_at, at, &rest[..take])?;
                    rest = &rest[take..];
                    offset += take as u64;
                }
                Ok(())
            }
        }
    }

    /// Completes a file whose content has come.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn end(&mut self, file: FileInProgress) -> Result<Nid> {
        let size = file.size;
        let (content, after) = match file.shape {
            Shape::Dense { at, tail } => {
                let first = block_number(at)?;
                let content = match tail.is_empty() {
                    true => Content::Blocks { first, size },
                    false => Content::Tail { first, size },
                };
                (content, tail)
            }
            Shape::Sparse { bits, map } => {
                let map = map.iter().flat_map(|block| block.to_le_bytes()).collect();
                (Content::Chunks { bits, size }, map)
            }
        };
        self.inode(&file.attributes, FileType::RegularFile, &content, &after)
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// `ENAMETOOLONG`, or the file system's.
    pub(crate) fn symlink(&mut self, attributes: &Attributes, target: &[u8]) -> Result<Nid> {
        if target.len() > LONGEST_TARGET {
            return Err(Errno::NAMETOOLONG);
        }
        let size = target.len() as u64;
        let inode = length(attributes).ok_or(Errno::TOOBIG)?;
        if fits(inode, size) {
            let content = Content::Tail { first: 0, size };
            return self.inode(attributes, FileType::Symlink, &content, target);
        }
        let at = self.take(1)?;
        put(&self.file, &mut self.run, &mut self.run_at, at, target)?;
        let content = Content::Blocks {
            first: block_number(at)?,
            size,
        };
        self.inode(attributes, FileType::Symlink, &content, &[])
    }

    /// A device or pipe; a character device 0:0 is a whiteout.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn node(&mut self, attributes: &Attributes, node: Node) -> Result<Nid> {
        let content = Content::None {
            device: node.device(),
        };
        self.inode(attributes, node.kind(), &content, &[])
    }

    /// Writes the directories (the root first) and the superblock; `links` are the inodes that have another number
    /// of names than one. Gives the length of the image.
    ///
    /// # Errors
    /// `ENOSPC` for attributes of the root that do not fit into the first block, or the file system's.
    pub(crate) fn finish(mut self, directories: &[DirectoryRecord<'_>], links: &[(Nid, u32)]) -> Result<u64> {
        self.flush_inodes()?;
        if self.inodes.at + self.inodes.room == self.end {
            self.end = (self.inodes.at + self.inodes.bytes.len() as u64).next_multiple_of(BLOCK);
        }
        for (nid, count) in links {
            self.flush_run()?;
            write_all(&self.file, &count.to_le_bytes(), nid.links_at())?;
        }
        let mut first = vec![0; BLOCK as usize];
        let places = Places::of(directories, self.end)?;
        self.end = places.end;
        for (index, directory) in directories.iter().enumerate() {
            self.directory(index, directory, &places, &mut first)?;
        }
        self.flush_run()?;
        let superblock = Superblock {
            inodes: u64::from(self.count) - 1,
            blocks: block_number(self.end)?,
            chunked: self.chunked,
        };
        superblock.write(&mut first);
        rustix::fs::ftruncate(&self.file, self.end)?;
        write_all(&self.file, &first, 0)?;
        Ok(self.end)
    }

    fn directory(
        &mut self,
        index: usize,
        directory: &DirectoryRecord<'_>,
        places: &Places,
        first: &mut [u8],
    ) -> Result<()> {
        let place = &places.list[index];
        let nid = |target| match target {
            Target::Written(nid) => nid,
            Target::Directory(index) => Nid::at(places.list[index].inode),
        };
        let all = directory.content(index, nid);
        let (whole, tail) = all.split_at(all.len() - place.tail);
        let (at, size) = (block_number(place.blocks)?, all.len() as u64);
        let content = match tail.is_empty() {
            true => Content::Blocks { first: at, size },
            false => Content::Tail { first: at, size },
        };
        let number = self.next_number()?;
        let mut raw = encode(
            &directory.attributes,
            FileType::Directory,
            directory.links(),
            number,
            &content,
        )
        .ok_or(Errno::TOOBIG)?;
        raw.extend_from_slice(tail);
        write_all(&self.file, whole, place.blocks)?;
        if place.inode < BLOCK {
            let start = place.inode as usize;
            first[start..start + raw.len()].copy_from_slice(&raw);
            return Ok(());
        }
        put(&self.file, &mut self.run, &mut self.run_at, place.inode, &raw)
    }

    fn next_number(&mut self) -> Result<u32> {
        let number = self.count;
        self.count = number.checked_add(1).ok_or(Errno::NOSPC)?;
        Ok(number)
    }

    /// Takes whole blocks at the end; gives where they start.
    fn take(&mut self, blocks: u64) -> Result<u64> {
        let at = self.end;
        self.end = blocks
            .checked_mul(BLOCK)
            .and_then(|bytes| at.checked_add(bytes))
            .ok_or(Errno::FBIG)?;
        block_number(self.end)?;
        Ok(at)
    }

    /// Writes an inode and what has to follow it.
    fn inode(
        &mut self,
        attributes: &Attributes,
        kind: FileType,
        content: &Content,
        after: &[u8],
    ) -> Result<Nid> {
        let number = self.next_number()?;
        let raw = encode(attributes, kind, 1, number, content).ok_or(Errno::TOOBIG)?;
        let length = (raw.len() + after.len()) as u64;
        let used = self.inodes.bytes.len() as u64;
        let mut at = place(self.inodes.at + used, length);
        if at + length > self.inodes.at + self.inodes.room {
            self.flush_inodes()?;
            let room = length.next_multiple_of(BLOCK).max(INODE_ROOM);
            at = self.take(room / BLOCK)?;
            self.inodes = Inodes {
                bytes: std::mem::take(&mut self.inodes.bytes),
                at,
                room,
            };
            self.inodes.bytes.clear();
        }
        let bytes = &mut self.inodes.bytes;
        bytes.resize((at - self.inodes.at) as usize, 0);
        bytes.extend_from_slice(&raw);
        bytes.extend_from_slice(after);
        Ok(Nid::at(at))
    }

    fn flush_inodes(&mut self) -> Result<()> {
        write_all(&self.file, &self.inodes.bytes, self.inodes.at)
    }

    fn flush_run(&mut self) -> Result<()> {
        write_all(&self.file, &self.run, self.run_at)?;
        self.run_at += self.run.len() as u64;
        self.run.clear();
        Ok(())
    }
}

fn block_number(at: u64) -> Result<u32> {
    // The last number means a hole.
    u32::try_from(at / BLOCK)
        .ok()
        .filter(|number| *number != HOLE)
        .ok_or(Errno::FBIG)
}

/// Adds to the run what continues it (zeros up to the next block included), and writes what it has otherwise.
fn put(file: &File, run: &mut Vec<u8>, run_at: &mut u64, at: u64, bytes: &[u8]) -> Result<()> {
    let end = *run_at + run.len() as u64;
    let gap = at.checked_sub(end).filter(|gap| *gap < BLOCK);
    match gap {
        Some(gap) if run.len() + gap as usize + bytes.len() <= RUN => {
            run.resize(run.len() + gap as usize, 0);
        }
        _ => {
            write_all(file, run, *run_at)?;
            run.clear();
            *run_at = at;
            if bytes.len() >= RUN / 2 {
                *run_at += bytes.len() as u64;
                return write_all(file, bytes, at);
            }
        }
    }
    run.extend_from_slice(bytes);
    Ok(())
}

fn write_all(file: &File, mut bytes: &[u8], mut at: u64) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => {
                bytes = &bytes[count..];
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
