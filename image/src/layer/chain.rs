//! Names of layers.
//!
//! A layer's directory depends on the layers below it too (directories that its archive leaves
//! out take their metadata), so it is named by its chain id, together with the on-disk format
//! and the version of the unpacker: after a fix of either, no old directory is taken for a new
//! one.

use std::fmt;

use super::LayerFormat;
use crate::digest::{Algorithm, Digest, Hasher};

/// Of the rules by which archives become files.
const UNPACKER: u32 = 1;
/// 80 bits in base 32: short, because up to 500 of them share one mount option.
const KEY_LENGTH: usize = 16;

/// The identity of a stack of layers (image-spec, config.md: ChainID).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainId(Digest);

impl ChainId {
    /// The chain ids of each prefix of `diff_ids`, lowest first.
    #[must_use]
    pub fn of(diff_ids: &[Digest]) -> Vec<Self> {
        let mut chain: Vec<Self> = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            let next = match chain.last() {
                None => diff_id.clone(),
                Some(Self(below)) => {
                    let mut hasher = Hasher::new(Algorithm::Sha256);
                    hasher.update(format!("{below} {diff_id}").as_bytes());
                    hasher.finish()
                }
            };
            chain.push(Self(next));
        }
        chain
    }

    /// From a record.
    pub(crate) fn from_digest(digest: Digest) -> Self {
        Self(digest)
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.0
    }

    /// The name of its directory, when kept in this format.
    #[must_use]
    pub(crate) fn key(&self, format: LayerFormat) -> LayerKey {
        let hash = Digest::sha256(format!("{} {} {UNPACKER}", self.0, format.number()).as_bytes());
        let mut key = String::with_capacity(KEY_LENGTH);
        // Five bits of each byte.
        for pair in hash.hex().as_bytes().chunks_exact(2).take(KEY_LENGTH) {
            let nibble = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0);
            let byte = nibble(pair[0]) * 16 + nibble(pair[1]);
            key.push(char::from(
                b"abcdefghijklmnopqrstuvwxyz234567"[(byte % 32) as usize],
            ));
        }
        LayerKey(key)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a layer's directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LayerKey(String);

impl LayerKey {
    /// The directory's name.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// From a record or a directory's name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fine = text.len() == KEY_LENGTH && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        fine.then(|| Self(text.into()))
    }
}

impl fmt::Display for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_as_the_specification_says() {
        let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        let chain = ChainId::of(&[one.clone(), two.clone()]);
        assert_eq!(chain[0].digest(), &one);
        assert_eq!(
            chain[1].digest(),
            &Digest::sha256(format!("{one} {two}").as_bytes())
        );
        assert_ne!(chain[1], ChainId::of(&[two, one])[1]);
        assert!(ChainId::of(&[]).is_empty());
        let key = chain[1].key(LayerFormat::Directory);
        assert_eq!(LayerKey::parse(key.as_str()), Some(key.clone()));
        assert_ne!(chain[0].key(LayerFormat::Directory), key);
        assert_ne!(chain[1].key(LayerFormat::Erofs), key);
        assert_eq!(LayerKey::parse("../../etc/passwd"), None);
    }
}
