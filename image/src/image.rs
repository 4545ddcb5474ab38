//! An image as callers see it.

use std::sync::Arc;
use std::time::SystemTime;

use crate::config::{ImageConfig, ImageUser};
use crate::digest::Digest;
use crate::layer::ChainId;

/// The id of an image: the digest of its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId(pub(crate) Digest);

impl ImageId {
    /// The digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl std::fmt::Display for ImageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for ImageId {
    type Err = crate::digest::DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// An image in the store, whole: all its layers are unpacked and verified.
#[derive(Debug, Clone)]
pub struct Image {
    /// `sha256:...` of its configuration.
    pub id: ImageId,
    /// Canonical names with tags, sorted.
    pub repo_tags: Vec<String>,
    /// Canonical names with digests, sorted.
    pub repo_digests: Vec<String>,
    /// Bytes its layers and documents take on disk; shared layers count for each image.
    pub size: u64,
    /// Never to be collected as garbage.
    pub pinned: bool,
    /// When it was stored.
    pub stored_at: SystemTime,
    /// The configuration.
    pub config: Arc<ImageConfig>,
    /// The configuration as it came (JSON).
    pub config_json: Arc<[u8]>,
    /// The manifest as it came (JSON); empty for an import without one.
    pub manifest_json: Arc<[u8]>,
    /// The chain ids of its layers, lowest first.
    pub chain: Arc<[ChainId]>,
}

impl Image {
    /// The default user of its containers.
    #[must_use]
    pub fn user(&self) -> Option<ImageUser> {
        self.config.user()
    }
}
