//! From an image reference to a mounted root.
//!
//! ```text
//!  reference ──► registry ──► manifest, configuration      documents: verified, bounded JSON
//!                   │
//!                   └──► layers ──► digest · decompress ──► digest · unpack ──► l/<key>/{fs,erofs}
//!                                                                │
//!  archive ──► import ──► the same layers                        └─ a recipe for its tar ──► export
//!
//!  images.db   names ─► images ─► layers ◄─ snapshots   rw/<container>/{fs,work}
//! ```
//!
//! An [`image`](Image) is the digest of a configuration, which lists the digests of its layers'
//! tars. A layer is made once for all images that have it on top of the same layers: one
//! directory in overlayfs's own format, or one EROFS image of such a directory. A [`Snapshot`] is
//! layers and a place to write, for the supervisor to stack. Nothing is mounted here on the host
//! but the tmpfs of one fallback, and the pin of a mount namespace that has the images.
//!
//! What holds at any time:
//! * An image in the catalog is whole: every layer was verified by two digests, renamed into
//!   place and synced before its record was written. After a crash or power loss an image is
//!   complete or absent.
//! * What a stranger wrote (names, manifests, archives) is parsed into types that cannot hold
//!   the dangerous forms: [`Digest`](digest::Digest), [`Reference`], `EntryPath`.
//! * All layers on their way together keep within one budget of memory (`budget`).
//! * Nothing in use is collected: pulls under way lease their layers, images and snapshots are
//!   users by record.
//! * Callers may leave at any time; a pull, a removal, a commit goes on to its end.
//! * Secrets go to the host they are for, and appear in no error, log or `Debug`.
//! * Whatever is removed is renamed away at once and deleted in the background.
//!
//! What it does not do: run or mount containers, know CRI, decide when an image is garbage (that
//! is kubelet's business).
//!
//! Where to read next: [`Store`] for what callers do, `pull` for the way in, `layer::stream` for
//! a byte's way from the socket to the disk, [`unpack`] for the rules about archives, `erofs` for
//! the writer of images and `layer::mounts` for how they are mounted,
//! `snapshot` for what becomes of it, [`database`] for the record files (those of pods too).

mod assemble;
mod blob;
mod budget;
mod capture;
mod catalog;
mod commit;
pub mod config;
pub mod database;
pub mod digest;
pub mod document;
mod erofs;
mod error;
mod export;
mod external;
mod image;
mod import;
mod layer;
pub mod manifest;
mod merged;
mod open;
mod pack;
pub mod platform;
mod progress;
mod pull;
mod push;
mod records;
pub mod reference;
pub mod registry;
mod remove;
mod snapshot;
mod spool;
mod store;
mod trash;
pub mod unpack;
mod usage;
mod verify;

pub use crate::image::{Image, ImageId};
pub use capture::CaptureOptions;
pub use error::{Error, ErrorKind};
pub use import::{ArchiveProblem, ImportOptions};
pub use layer::{ChainId, LayerFormat, LayerFormatChoice, LayerFormatInUse, LayerFormatReason};
pub use progress::{LayerProgress, LayerStage, PullProgress, PullStage};
pub use pull::PullRequest;
pub use push::{PushProgress, PushRequest};
pub use reference::Reference;
pub use registry::{AuthFields, Credentials, DockerConfig, RegistryConfig, RegistryError, RetryPolicy};
pub use remove::Removed;
pub use snapshot::{Lower, Snapshot, SnapshotChoice, SnapshotMode, SnapshotRoot};
pub use store::{OpenReport, Store, StoreConfig};
pub use unpack::{DiskUsage, Limits, UnpackError};
pub use usage::StoreUsage;
pub use verify::Verifier;
