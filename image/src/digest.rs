//! Content digests. A [`Digest`] cannot hold anything but `sha256:` or `sha512:` and the exact
//! number of lower-case hex digits, so paths and URLs may be made from it without a second look.

use std::fmt;
use std::str::FromStr;

use ring::digest::{Context, SHA256, SHA512};

/// A hash function that OCI registers (image-spec, descriptor.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// 64 hex digits.
    Sha256,
    /// 128 hex digits.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn hex_length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// The digest of some bytes, as `algorithm:hex`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    text: String,
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` before the digits.
    #[error("a digest is written algorithm:hex")]
    NoAlgorithm,
    /// Some other hash function.
    #[error("the algorithm must be sha256 or sha512")]
    UnknownAlgorithm,
    /// The wrong number of digits.
    #[error("{} takes {wanted} hex digits, not {found}", algorithm.name())]
    Length {
        /// The hash function named.
        algorithm: Algorithm,
        /// How many digits it takes.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
    /// Something else than `0-9a-f`.
    #[error("the digits must be 0-9 and a-f")]
    NotHex,
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    #[must_use]
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The hash function.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digits alone.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.name().len() + 1..]
    }

    /// `algorithm:hex`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `bytes` have this digest.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(bytes);
        hasher.finish() == *self
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, hex) = text.split_once(':').ok_or(DigestError::NoAlgorithm)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::UnknownAlgorithm),
        };
        let wanted = algorithm.hex_length();
        if hex.len() != wanted {
            return Err(DigestError::Length {
                algorithm,
                wanted,
                found: hex.chars().count(),
            });
        }
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::NotHex);
        }
        Ok(Self {
            algorithm,
            text: text.into(),
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|problem| serde::de::Error::custom(format_args!("digest: {problem}")))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// Computes a digest piece by piece.
///
/// With ring: on processors without instructions for SHA it is twice as fast as portable code, and digests are then the
/// larger part of a pull.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: Context,
}

impl Hasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        let context = Context::new(match algorithm {
            Algorithm::Sha256 => &SHA256,
            Algorithm::Sha512 => &SHA512,
        });
        Self { algorithm, context }
    }

    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The digest of everything seen.
    #[must_use]
    pub fn finish(self) -> Digest {
        let (algorithm, bytes) = (self.algorithm, self.context.finish());
        let mut text = String::with_capacity(algorithm.name().len() + 1 + bytes.as_ref().len() * 2);
        text.push_str(algorithm.name());
        text.push(':');
        for byte in bytes.as_ref() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        Digest { algorithm, text }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn knows_the_digest_of_nothing() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::sha256(b"").as_str(), empty);
        assert!(empty.parse::<Digest>().unwrap().matches(b""));
        assert!(!empty.parse::<Digest>().unwrap().matches(b"x"));
    }

    #[test]
    fn says_what_is_wrong() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let refused = |text: &str| text.parse::<Digest>().unwrap_err();
        assert_eq!(refused(hex), DigestError::NoAlgorithm);
        assert_eq!(refused(&format!("md5:{hex}")), DigestError::UnknownAlgorithm);
        assert_eq!(refused(&format!("SHA256:{hex}")), DigestError::UnknownAlgorithm);
        assert_eq!(
            refused(&format!("sha256:{}", hex.to_uppercase())),
            DigestError::NotHex
        );
        assert!(matches!(
            refused(&format!("sha256:{hex}0")),
            DigestError::Length { found: 65, .. }
        ));
        assert!(matches!(
            refused(&format!("sha512:{hex}")),
            DigestError::Length { wanted: 128, .. }
        ));
        assert!(matches!(
            refused("sha256:../../../../etc/passwd"),
            DigestError::Length { .. }
        ));
    }

    proptest! {
        #[test]
        fn round_trips(bytes: Vec<u8>, wide: bool) {
            let mut hasher = Hasher::new(if wide { Algorithm::Sha512 } else { Algorithm::Sha256 });
            hasher.update(&bytes);
            let digest = hasher.finish();
            prop_assert_eq!(&digest.to_string().parse::<Digest>().unwrap(), &digest);
            prop_assert!(digest.matches(&bytes));
        }

        #[test]
        fn never_accepts_what_is_not_hex(text in "sha256:[0-9a-f/.A-Z\\x00]{64}") {
            let hex = text[7..].bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            prop_assert_eq!(text.parse::<Digest>().is_ok(), hex);
        }
    }
}
