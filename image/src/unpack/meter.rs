//! Counting what a layer costs while it is unpacked, so that it ends before the disk or the memory does.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::{EntryPath, Limits, UnpackError};

/// The disk's free space is looked at after this many bytes.
const HEADROOM_INTERVAL: u64 = 64 << 20;
/// What an entry takes in memory besides its name, about.
const ENTRY_MEMORY: u64 = 128;

/// What a layer may remember before it has to ask for more.
const SHARE: u64 = 3 << 20;

/// What was counted so far.
pub(super) struct Meter<'a> {
    limits: Limits,
    /// Whether more than [`SHARE`] may be remembered.
    more: &'a dyn Fn() -> bool,
    entries: u64,
    written: u64,
    remembered: u64,
    next_look: u64,
}

impl<'a> Meter<'a> {
    pub(super) fn new(limits: Limits, more: &'a dyn Fn() -> bool) -> Self {
        Self {
            limits,
            more,
            entries: 0,
            written: 0,
            remembered: 0,
            next_look: 0,
        }
    }

    /// One more entry.
    pub(super) fn entry(&mut self) -> Result<(), UnpackError> {
        self.entries += 1;
        within(self.entries, self.limits.entries, "entries")
    }

    /// One more name (or target) of so many bytes that stays in memory to the end.
    pub(super) fn remember(&mut self, bytes: usize) -> Result<(), UnpackError> {
        let before = self.remembered;
        self.remembered += ENTRY_MEMORY + bytes as u64;
        if before <= SHARE && self.remembered > SHARE && !(self.more)() {
            return Err(UnpackError::Limit {
                what: "bytes of names for now",
                limit: SHARE,
            });
        }
        within(self.remembered, self.limits.names, "bytes of names")
    }

    /// The size that a file claims.
    pub(super) fn file(&self, size: u64) -> Result<(), UnpackError> {
        within(size, self.limits.bytes, "bytes in a file")
    }

    /// So many more bytes of content go to the file system of `disk`.
    pub(super) fn bytes(&mut self, disk: impl AsFd, count: u64) -> Result<(), UnpackError> {
        self.written += count;
        within(self.written, self.limits.bytes, "bytes")?;
        if self.written < self.next_look {
            return Ok(());
        }
        self.next_look = self.written + HEADROOM_INTERVAL;
        let look = |errno: Errno| UnpackError::Step {
            path: EntryPath::root(),
            step: "look at the disk",
            errno,
        };
        let disk = rustix::fs::fstatvfs(disk).map_err(look)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < self.limits.headroom {
            return Err(UnpackError::NoSpace {
                headroom: self.limits.headroom,
            });
        }
        Ok(())
    }
}

fn within(count: u64, limit: u64, what: &'static str) -> Result<(), UnpackError> {
    if count > limit {
        Err(UnpackError::Limit { what, limit })
    } else {
        Ok(())
    }
}
