//! Directories: blocks of sorted entries, each with its names behind them.
//!
//! ```text
//!   block:  │ number 8 │ name at 2 │ kind 1 │ 0 │ × n │ names, end to end, the last one up to a NUL or the end │
//! ```
//!
//! The kernel searches by halves, first for the block and then inside it, so all names are in order of their bytes,
//! `.` and `..` among them.

use rustix::fs::FileType;

use super::BLOCK;
use super::inode::{Attributes, Nid};

const DIRENT: usize = 12;

/// A name in a directory.
#[derive(Debug)]
pub(crate) struct DirectoryEntry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) kind: FileType,
    pub(crate) target: Target,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// Something already written.
    Written(Nid),
    /// The directory with this index in the list given to the writer.
    Directory(usize),
}

/// A directory for [`Writer::finish`](super::Writer::finish).
pub(crate) struct DirectoryRecord<'a> {
    pub(crate) attributes: Attributes,
    /// The index of the one above it; the root's is its own.
    pub(crate) parent: usize,
    /// In any order, without `.` and `..`.
    pub(crate) entries: Vec<DirectoryEntry<'a>>,
}

impl DirectoryRecord<'_> {
    /// Its own name, the one in its parent, and one in each directory below.
    pub(super) fn links(&self) -> u32 {
        let below = self
            .entries
            .iter()
            .filter(|entry| entry.kind == FileType::Directory)
            .count();
        u32::try_from(below + 2).unwrap_or(u32::MAX)
    }

    /// Its content, the last block only as long as it is used.
    pub(super) fn content(&self, own: usize, nid: impl Fn(Target) -> Nid) -> Vec<u8> {
        let mut all: Vec<(&[u8], FileType, Target)> = self
            .entries
            .iter()
            .map(|entry| (entry.name, entry.kind, entry.target))
            .collect();
        all.push((b".", FileType::Directory, Target::Directory(own)));
        all.push((b"..", FileType::Directory, Target::Directory(self.parent)));
        all.sort_unstable_by_key(|(name, ..)| *name);
        let mut content = Vec::new();
        let mut rest = &all[..];
        while !rest.is_empty() {
            let (block, next) = rest.split_at(block_of(rest));
            content.resize(content.len().next_multiple_of(BLOCK as usize), 0);
            let mut name_at = block.len() * DIRENT;
            for (name, kind, target) in block {
                content.extend_from_slice(&nid(*target).0.to_le_bytes());
                content.extend_from_slice(&(name_at as u16).to_le_bytes());
                content.extend_from_slice(&[kind_code(*kind), 0]);
                name_at += name.len();
            }
            block
                .iter()
                .for_each(|(name, ..)| content.extend_from_slice(name));
            rest = next;
        }
        content
    }
}

/// How many of the entries go into the next block.
fn block_of(entries: &[(&[u8], FileType, Target)]) -> usize {
    let mut used = 0;
    let fitting = entries.iter().take_while(|(name, ..)| {
        used += DIRENT + name.len();
        used <= BLOCK as usize
    });
    fitting.count()
}

fn kind_code(kind: FileType) -> u8 {
    match kind {
        FileType::RegularFile => 1,
        FileType::Directory => 2,
        FileType::CharacterDevice => 3,
        FileType::BlockDevice => 4,
        FileType::Fifo => 5,
        FileType::Socket => 6,
        FileType::Symlink => 7,
        FileType::Unknown => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_blocks_full() {
        let names: Vec<Vec<u8>> = (0..1000)
            .map(|n| format!("{:0>20}", n * 7919 % 1000).into_bytes())
            .collect();
        let entry = |name| DirectoryEntry {
            name,
            kind: FileType::RegularFile,
            target: Target::Written(Nid(7)),
        };
        let record = DirectoryRecord {
            attributes: Attributes {
                mode: 0o755,
                uid: 0,
                gid: 0,
                mtime: (0, 0),
                xattrs: Vec::new(),
            },
            parent: 0,
            entries: names
                .iter()
                .map(|name| entry(name.as_slice()))
                .chain([entry(b"-first")])
                .collect(),
        };
        let content = record.content(1, |target| match target {
            Target::Written(nid) => nid,
            Target::Directory(index) => Nid(index as u64),
        });
        let mut found: Vec<Vec<u8>> = Vec::new();
        for block in content.chunks(BLOCK as usize) {
            let word = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]) as usize;
            let count = word(8) / DIRENT;
            for index in 0..count {
                let start = word(index * DIRENT + 8);
                let end = match index + 1 < count {
                    true => word((index + 1) * DIRENT + 8),
                    false => block[start..]
                        .iter()
                        .position(|b| *b == 0)
                        .map_or(block.len(), |n| start + n),
                };
                found.push(block[start..end].to_vec());
            }
        }
        assert!(found.is_sorted());
        assert_eq!(found.len(), 1003);
        assert_eq!(found[..3], [b"-first".to_vec(), b".".to_vec(), b"..".to_vec()]);
        assert_eq!(
            content.len().div_ceil(BLOCK as usize),
            8,
            "127 or 128 entries to a block"
        );
    }
}
