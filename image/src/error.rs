//! What can go wrong between a reference and a mounted root.

use std::path::PathBuf;

use crate::database::DatabaseError;
use crate::digest::Digest;
use crate::document::DocumentError;
use crate::import::ArchiveProblem;
use crate::reference::ReferenceError;
use crate::registry::RegistryError;
use crate::unpack::UnpackError;

/// An operation on the image store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no image reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The store has no such image.
    #[error("image {name:?}: not found in the store")]
    NoSuchImage {
        /// As asked for.
        name: String,
    },
    /// More than one image id begins like this.
    #[error("image {prefix:?}: {matches} images have an id that begins so; give more digits")]
    AmbiguousId {
        /// As asked for.
        prefix: String,
        /// How many images.
        matches: usize,
    },
    /// The registry did not deliver.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A manifest, index or configuration is refused.
    #[error("{what}: {problem}")]
    Document {
        /// Its digest, or the reference it came for.
        what: String,
        /// Why.
        problem: DocumentError,
    },
    /// A blob's bytes are not the promised ones.
    #[error("blob {wanted}: its content has the digest {found}; the download was discarded")]
    WrongDigest {
        /// As the manifest says.
        wanted: Digest,
        /// As received.
        found: Digest,
    },
    /// An uncompressed layer is not what the configuration says.
    #[error("layer {digest}: uncompressed it is {found}, but the image's configuration says {wanted}")]
    WrongDiffId {
        /// The compressed layer.
        digest: Digest,
        /// As the configuration says.
        wanted: Digest,
        /// As unpacked.
        found: Digest,
    },
    /// Layers are to be EROFS images, which cannot be used here.
    #[error(
        "layer format \"erofs\": this kernel cannot stack images that are files ({source}); \
         choose \"auto\" or \"directory\", or Linux 6.15"
    )]
    ImagesNotStackable {
        /// What it answers.
        source: rustix::io::Errno,
    },
    /// The administrator's verifier does not allow the image.
    #[error("{image}: {reason}")]
    Unverified {
        /// As asked for.
        image: String,
        /// In the verifier's words.
        reason: String,
    },
    /// A layer's compression is damaged or unknown.
    #[error("layer {digest}: cannot be decompressed: {problem}")]
    Decompress {
        /// The compressed layer.
        digest: Digest,
        /// What the decoder says.
        problem: String,
    },
    /// A layer's content is refused.
    #[error("layer {digest}: {source}")]
    Unpack {
        /// The compressed layer.
        digest: Digest,
        /// Why.
        source: UnpackError,
    },
    /// An archive to import is no image archive.
    #[error("image archive: {problem}")]
    Archive {
        /// Why.
        problem: ArchiveProblem,
    },
    /// The files of a layer do not give the tar that they were unpacked from.
    #[error("layer {diff_id}: its files were changed or its recipe is missing; pull the image again")]
    Irreproducible {
        /// The layer.
        diff_id: Digest,
    },
    /// A snapshot's name is not usable as a file name.
    #[error("snapshot key {key:?}: must be letters, digits, '_', '.' or '-', not starting with '.'")]
    SnapshotKey {
        /// As given.
        key: String,
    },
    /// There is no snapshot of this name.
    #[error("snapshot {key}: does not exist")]
    NoSuchSnapshot {
        /// Its key.
        key: String,
    },
    /// A snapshot is a full copy: what was changed in it cannot be told from what was there.
    #[error(
        "snapshot {key}: is a full copy of its image, so its changes are not known; this needs a data directory that can carry an overlay"
    )]
    NoChanges {
        /// Its key.
        key: String,
    },
    /// A push whose result cannot be known beforehand.
    #[error("push to {destination:?}: a digest cannot be chosen; give a tag")]
    PushToDigest {
        /// As asked for.
        destination: String,
    },
    /// There is a snapshot of this name already.
    #[error("snapshot {key}: exists already")]
    SnapshotExists {
        /// Its key.
        key: String,
    },
    /// Another store works in this directory.
    #[error("{}: in use by another process", path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// The record store refused.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The file system refused.
    #[error("{step} {}: {source}", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// The refusal.
        source: std::io::Error,
    },
    /// A task of the store ended early: the process is shutting down, or it panicked.
    #[error("{operation}: interrupted")]
    Interrupted {
        /// Of which operation.
        operation: &'static str,
    },
}

/// What a caller has to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request makes no sense.
    InvalidArgument,
    /// There is no such image, here or at the registry.
    NotFound,
    /// The registry wants other credentials.
    Unauthorized,
    /// The registry cannot be reached or is out of order: later it may work.
    RegistryUnavailable,
    /// The administrator's verifier refuses it.
    Unverified,
    /// What came is damaged, hostile or of an unsupported kind.
    Invalid,
    /// The disk is full.
    NoSpace,
    /// It exists already.
    AlreadyExists,
    /// Something here is wrong.
    Internal,
}

impl Error {
    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference(_)
            | Self::AmbiguousId { .. }
            | Self::SnapshotKey { .. }
            | Self::PushToDigest { .. } => ErrorKind::InvalidArgument,
            Self::NoSuchImage { .. } | Self::NoSuchSnapshot { .. } => ErrorKind::NotFound,
            Self::Unverified { .. } => ErrorKind::Unverified,
            Self::Registry(error) => match error {
                RegistryError::NotFound { .. } => ErrorKind::NotFound,
                RegistryError::Unauthorized { .. } | RegistryError::Helper { .. } => ErrorKind::Unauthorized,
                RegistryError::Unavailable { .. } => ErrorKind::RegistryUnavailable,
                RegistryError::Refused { .. }
                | RegistryError::Protocol { .. }
                | RegistryError::WrongSize { .. } => ErrorKind::Invalid,
                RegistryError::Config { .. } | RegistryError::Abandoned { .. } => ErrorKind::Internal,
            },
            Self::Unpack { source, .. } if source.is_no_space() => ErrorKind::NoSpace,
            Self::Document { .. }
            | Self::WrongDigest { .. }
            | Self::WrongDiffId { .. }
            | Self::Decompress { .. }
            | Self::Unpack { .. }
            | Self::Archive { .. } => ErrorKind::Invalid,
            Self::SnapshotExists { .. } => ErrorKind::AlreadyExists,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            Self::InUse { .. }
            | Self::Irreproducible { .. }
            | Self::ImagesNotStackable { .. }
            | Self::NoChanges { .. }
            | Self::Database(_)
            | Self::Io { .. }
            | Self::Interrupted { .. } => ErrorKind::Internal,
        }
    }

    /// For `map_err` on a file system call.
    pub(crate) fn io(step: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { step, path, source }
    }
}
