//! EROFS images (kernel `Documentation/filesystems/erofs.rst`, `fs/erofs/erofs_fs.h`), written in a stream.
//!
//! ```text
//!  block 0                 as the archive brings them                       when all names are known
//!  ┌────┬──────────┬─────┐┌──────────┬───────┬────────┬──────────┬────────┐┌─────────────┬─────────────┐
//!  │    │superblock│root ││ inodes,  │ data  │ data   │ inodes,  │ data   ││ directories:│ blocks of   │
//!  │1024│  128     │inode││ tails    │ file 1│ file 2 │ tails    │ file 9 ││ inode, tail │ large ones  │
//!  └────┴──────────┴─────┘└──────────┴───────┴────────┴──────────┴────────┘└─────────────┴─────────────┘
//!         │           ▲                                                        │
//!         └───────────┘ number = byte offset / 32                              └─ dirents: number of the inode
//! ```
//!
//! A file's size precedes its content in an archive, so its place is known before its first byte: whole blocks go to
//! a run of their own, and what is left (all of a small file) is kept until the inode is written right before it.
//! Nothing is moved or read back. Only names stay in memory, for the directories at the end. A hole is a block number
//! of all ones in a map of chunks.
//!
//! Nothing is compressed: the page cache then holds what programs map, and reading costs no processor. Images are the
//! same for the same entries: no time, no random identifier.

mod directory;
mod inode;
mod places;
mod superblock;
mod writer;

pub(crate) use self::directory::{DirectoryEntry, DirectoryRecord, Target};
pub(crate) use self::inode::{Attributes, Nid, Node};
pub(crate) use self::superblock::check;
pub(crate) use self::writer::{FileInProgress, Writer};

/// The unit of everything; also the page size of the machines that mount these images.
pub(crate) const BLOCK: u64 = 4096;
