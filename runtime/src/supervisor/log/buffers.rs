//! A container's bytes between a read and its file.
//!
//! ```text
//!   input:  │ held back │      one read       │          batch:  │ record │ record │ … │
//!           └──── uncut: not in records yet ──┘                  └─ unwritten ─────────┘
//! ```
//! Both ranges are empty while the file takes what comes. When it does not, they are what the container has to wait for.

use std::ops::Range;

use super::line::{Output, PIECE, RECORD_MAX};
use super::slot::StreamName;
use crate::sys::pages::Pages;

/// Bytes asked for in one read: the capacity of a pipe, as it is made.
pub(super) const READ: usize = 64 * 1024;
/// Room for records, to be written at once: two full reads of lines of a hundred bytes, with their prefixes. What a
/// file system does for each write costs as much as a hundred kilobytes more.
const BATCH: usize = 256 * 1024;

/// The buffers of one container. Their memory is used only while bytes flow.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// Room for held bytes, then for one read.
    pub(super) input: Pages,
    pub(super) batch: Pages,
    pub(super) uncut: Range<usize>,
    /// Whose bytes `uncut` are.
    pub(super) stream: StreamName,
    /// Length of the beginning of `uncut` that is known to have no line end.
    pub(super) known: usize,
    pub(super) unwritten: Range<usize>,
}

impl Buffers {
    pub(super) fn new() -> Buffers {
        Buffers {
            input: Pages::new(PIECE + READ),
            batch: Pages::new(BATCH),
            uncut: 0..0,
            stream: StreamName::Stdout,
            known: 0,
            unwritten: 0..0,
        }
    }

    /// What waits for the file: records, and bytes of a stream that are not in records yet.
    pub(crate) fn pending(&self) -> (&[u8], &[u8], StreamName) {
        let (unwritten, uncut) = (self.unwritten.clone(), self.uncut.clone());
        (&self.batch[unwritten], &self.input[uncut], self.stream)
    }

    /// Takes up what waited for the file in another supervisor image; what no image could have left is cut off.
    pub(crate) fn resume(&mut self, unwritten: &[u8], uncut: &[u8], stream: StreamName) {
        let unwritten = &unwritten[..unwritten.len().min(BATCH)];
        self.batch[..unwritten.len()].copy_from_slice(unwritten);
        self.unwritten = 0..unwritten.len();
        let uncut = &uncut[..uncut.len().min(PIECE + READ)];
        self.input[..uncut.len()].copy_from_slice(uncut);
        (self.uncut, self.stream, self.known) = (0..uncut.len(), stream, 0);
    }

    /// Whether another read is likely to find room, with its prefixes.
    pub(super) fn takes_more(&self) -> bool {
        self.uncut.is_empty() && self.unwritten.end < BATCH / 2
    }

    /// Drops all that waits; returns how much that was.
    pub(super) fn clear(&mut self) -> usize {
        let dropped = self.unwritten.len() + self.uncut.len();
        (self.unwritten, self.uncut) = (0..0, 0..0);
        dropped
    }

    /// Gives the memory back until the next read. Nothing must be pending.
    pub(super) fn release(&mut self) {
        debug_assert!(self.unwritten.is_empty() && self.uncut.is_empty());
        self.input.release();
        self.batch.release();
    }
}

/// Records on their way into a batch.
pub(super) struct Batch<'a> {
    pub(super) room: &'a mut [u8],
    pub(super) used: usize,
}

impl Output for Batch<'_> {
    fn room(&mut self, length: usize) -> Option<&mut [u8]> {
        const { assert!(BATCH >= RECORD_MAX) }
        let start = self.used;
        let room = self.room.get_mut(start..start + length)?;
        self.used += length;
        Some(room)
    }
}
