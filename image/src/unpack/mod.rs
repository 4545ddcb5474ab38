//! From a tar stream to a directory that overlayfs can stack.
//!
//! ```text
//!   tar bytes ─► TarReader ─► Entry ─► Unpacker ─► Unsealed ──seal(layers below)──► fs/
//!                   │                     │            │
//!                   └─ structure ─► Recipe│            ├ whiteouts become devices or a side file
//!                                         │            ├ parents that the archive left out take the
//!                     every look-up by    │            │  metadata of the layers below
//!                     openat2 IN_ROOT ◄───┘            └ directory times, last
//! ```
//!
//! An archive is a stranger's program for this interpreter. The rules:
//! * names only go down ([`EntryPath`]); symlinks of the archive are followed inside its root;
//! * a later entry replaces an earlier one, but never the root;
//! * whiteouts speak of the layers below, whatever their order in the archive;
//! * ownership, then mode (set-id bits survive), then attributes; only `user.*` (not overlay's
//!   own), `security.capability` and POSIX ACLs are kept;
//! * a character device 0:0 is refused: it would be a forged whiteout;
//! * counts, bytes and free disk are bounded.

mod apply;
pub mod decompress;
mod header;
mod image;
mod image_seal;
pub mod inherit;
mod metadata;
mod meter;
pub mod path;
mod pax;
pub mod recipe;
pub mod root;
mod seal;
mod sparse;
pub mod tar;
mod tree;
pub mod whiteout;

use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::Path;

use rustix::io::Errno;

pub use self::image::unpack_image;
pub(crate) use self::image::unpack_image_sharing;
pub use self::image_seal::{SealedImage, UnsealedImage};
pub(crate) use self::metadata::{copy_metadata, copy_node, read_xattrs, times_of};
use self::meter::Meter;
pub use self::path::{EntryPath, PathProblem};
use self::recipe::RecipeWriter;
use self::root::Root;
pub use self::tar::TarError;

/// What a layer may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries of one archive.
    pub entries: u64,
    /// Bytes of one archive, uncompressed.
    pub bytes: u64,
    /// Uncompressed bytes per compressed one.
    pub ratio: u64,
    /// Uncompressed bytes up to which the ratio does not count: small archives of zeros are harmless.
    pub ratio_free: u64,
    /// Bytes of the disk that must stay free.
    pub headroom: u64,
    /// Bytes of memory for names: of all that is in a layer that becomes one image, of the directories of another.
    pub names: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            bytes: 128 << 30,
            ratio: 2000,
            ratio_free: 1 << 30,
            headroom: 64 << 20,
            names: 256 << 20,
        }
    }
}

/// What a tree takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes, in whole blocks.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl std::ops::AddAssign for DiskUsage {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is malformed.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A name is refused.
    #[error("entry {name}: {problem}")]
    Name {
        /// The name, escaped and shortened.
        name: String,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// The kernel refused a step.
    #[error("entry {path}: {step}: {errno}")]
    Step {
        /// The entry.
        path: EntryPath,
        /// What was being done.
        step: &'static str,
        /// The refusal.
        errno: Errno,
    },
    /// A device that overlayfs would take for a whiteout.
    #[error("entry {path}: a device 0:0 is a forged whiteout")]
    ForgedWhiteout {
        /// The entry.
        path: EntryPath,
    },
    /// A hard link to something that is neither in this layer nor below it.
    #[error("entry {path}: hard link to {target}, which does not exist")]
    LinkTarget {
        /// The entry.
        path: EntryPath,
        /// What it names.
        target: EntryPath,
    },
    /// More than a layer may cost.
    #[error("more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The disk would become too full.
    #[error("unpacking would leave less than {headroom} bytes of the disk free")]
    NoSpace {
        /// What must stay free.
        headroom: u64,
    },
    /// The recipe could not be written.
    #[error("writing the recipe: {0}")]
    Recipe(std::io::Error),
}

impl UnpackError {
    /// Whether the disk (not the archive) is to blame.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Step { errno, .. } => matches!(*errno, Errno::NOSPC | Errno::DQUOT),
            Self::Recipe(error) => error.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

/// A tree with all files of a layer, still without what depends on the layers below.
#[derive(Debug)]
pub struct Unsealed {
    root: Root,
    /// Times of directories, in the archive's order.
    times: Vec<(EntryPath, (i64, u32))>,
    /// Directories that the archive did not describe.
    implicit: BTreeSet<EntryPath>,
    /// Hard links whose target must be in a layer below.
    links: Vec<(EntryPath, EntryPath)>,
    whiteouts: whiteout::Whiteouts,
    usage: DiskUsage,
}

/// Unpacks the archive into the existing, empty directory `target`.
///
/// Reads to the end of the stream (so that a digest over it is complete).
///
/// # Errors
/// [`UnpackError`]; the directory is then to be thrown away.
pub fn unpack(
    archive: impl BufRead,
    target: &Path,
    recipe: RecipeWriter,
    limits: &Limits,
) -> Result<Unsealed, UnpackError> {
    unpack_sharing(archive, target, recipe, limits, &|| true)
}

/// As [`unpack`], but before it remembers very many names, it asks whether it may.
pub(crate) fn unpack_sharing(
    archive: impl BufRead,
    target: &Path,
    recipe: RecipeWriter,
    limits: &Limits,
    more: &dyn Fn() -> bool,
) -> Result<Unsealed, UnpackError> {
    let root = Root::open(target).map_err(|errno| UnpackError::Step {
        path: EntryPath::root(),
        step: "open the layer's root",
        errno,
    })?;
    apply::Unpacker::new(root, Meter::new(*limits, more)).run(archive, recipe)
}

fn refused<'a>(path: &'a EntryPath, step: &'static str) -> impl Fn(Errno) -> UnpackError + Copy + 'a {
    move |errno| UnpackError::Step {
        path: path.clone(),
        step,
        errno,
    }
}
