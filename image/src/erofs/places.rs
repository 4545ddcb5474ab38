//! Where inodes and directories go in an image.

use rustix::io::{Errno, Result};

use super::BLOCK;
use super::directory::DirectoryRecord;
use super::inode::{Nid, SLOT, length};
use super::superblock::ROOT_AT;

/// Where directories are, decided before any is written: each names others.
pub(super) struct Places {
    pub(super) list: Vec<Place>,
    /// The first byte after all of them.
    pub(super) end: u64,
}

pub(super) struct Place {
    pub(super) inode: u64,
    /// How many bytes of its content follow the inode.
    pub(super) tail: usize,
    /// Where the rest is, in whole blocks.
    pub(super) blocks: u64,
}

impl Places {
    /// Lays them out from `start` on.
    ///
    /// # Errors
    /// `E2BIG` for attributes that no inode can carry, `ENOSPC` for those of a root that do not fit into the first block.
    pub(super) fn of(directories: &[DirectoryRecord<'_>], start: u64) -> Result<Self> {
        let mut list: Vec<Place> = Vec::with_capacity(directories.len());
        let mut wholes = Vec::with_capacity(directories.len());
        let mut next = start;
        for (index, directory) in directories.iter().enumerate() {
            let inode = length(&directory.attributes).ok_or(Errno::TOOBIG)?;
            let content = directory.content(index, |_| Nid::at(0)).len() as u64;
            let is_root = index == 0;
            let room = if is_root { BLOCK - ROOT_AT } else { BLOCK };
            if is_root && inode > room {
                return Err(Errno::NOSPC);
            }
            let tail = content % BLOCK;
            let tail = if inode + tail <= room { tail } else { 0 };
            let at = match is_root {
                true => ROOT_AT,
                false => place(next, inode + tail),
            };
            if !is_root {
                next = at + inode + tail;
            }
            wholes.push((content - tail).div_ceil(BLOCK));
            list.push(Place {
                inode: at,
                tail: tail as usize,
                blocks: 0,
            });
        }
        let mut end = next.next_multiple_of(BLOCK);
        for (place, blocks) in list.iter_mut().zip(wholes) {
            place.blocks = end;
            end += blocks * BLOCK;
        }
        Ok(Self { list, end })
    }
}

/// Where something of this length goes: on the next slot, and if it fits into a block, then into one.
pub(super) fn place(next: u64, length: u64) -> u64 {
    let at = next.next_multiple_of(SLOT);
    let crosses = at / BLOCK != (at + length - 1) / BLOCK;
    if crosses && length <= BLOCK {
        at.next_multiple_of(BLOCK)
    } else {
        at
    }
}
