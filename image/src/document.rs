//! JSON that strangers wrote: bounded in size and depth before anything is built from it.

use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::platform::Platform;

/// The largest manifest, index or configuration that is read (the size registries must accept).
pub const LARGEST_DOCUMENT: u64 = 4 << 20;
const DEEPEST: u32 = 64;

/// Why a manifest, index or configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// More bytes than any honest one has.
    #[error("{size} bytes, more than the limit of {LARGEST_DOCUMENT}")]
    TooLarge {
        /// Its size.
        size: u64,
    },
    /// Nested beyond reason.
    #[error("nested deeper than {DEEPEST} levels")]
    TooDeep,
    /// Not JSON, or not of the expected shape.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The bytes are not what the descriptor promised.
    #[error("its digest is {found}, not {wanted}")]
    WrongDigest {
        /// What was promised.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// The bytes are more or fewer than the descriptor promised.
    #[error("it has {found} bytes, not {wanted}")]
    WrongSize {
        /// What was promised.
        wanted: u64,
        /// What came.
        found: u64,
    },
    /// It is another kind of document than announced.
    #[error("it calls itself {found}, but was announced as {announced}")]
    MediaType {
        /// By the descriptor or the registry.
        announced: String,
        /// By the document.
        found: String,
    },
    /// Both `layers` and `manifests`: different readers would see different images.
    #[error("it has both layers and manifests")]
    Ambiguous,
    /// Schema 1, or something that is no image.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// More layers than overlay can stack.
    #[error("{found} layers, more than the limit of {}", crate::manifest::MOST_LAYERS)]
    TooManyLayers {
        /// How many.
        found: usize,
    },
    /// The configuration and the manifest disagree.
    #[error("the manifest has {manifest} layers, the configuration {config}")]
    LayerCount {
        /// Layers of the manifest.
        manifest: usize,
        /// Diff ids of the configuration.
        config: usize,
    },
    /// Nothing in the index runs here.
    #[error("no image for {wanted}; there are: {}", list(.offered))]
    NoPlatform {
        /// This machine.
        wanted: Platform,
        /// What the index has.
        offered: Vec<Platform>,
    },
    /// Indexes that only lead to indexes.
    #[error("indexes are nested too deep")]
    NestedIndexes,
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".into();
    }
    let names: Vec<String> = platforms.iter().take(20).map(ToString::to_string).collect();
    names.join(", ")
}

/// Parses a bounded JSON document.
///
/// # Errors
/// Too large, too deep, or not of the shape of `T` (a field given twice is malformed).
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DocumentError> {
    let size = bytes.len() as u64;
    if size > LARGEST_DOCUMENT {
        return Err(DocumentError::TooLarge { size });
    }
    check_depth(bytes)?;
    serde_json::from_slice(bytes).map_err(|error| {
        let text: String = error.to_string().chars().take(200).collect();
        DocumentError::Malformed(text)
    })
}

fn check_depth(bytes: &[u8]) -> Result<(), DocumentError> {
    let (mut depth, mut quoted, mut escaped) = (0u32, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                if depth > DEEPEST {
                    return Err(DocumentError::TooDeep);
                }
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Reads `null` as the default: Go's encoders write it for empty lists and maps.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de> + Default,
{
    use serde::Deserialize as _;
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_depth_and_size_before_parsing() {
        let nest = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse::<serde_json::Value>(nest(64).as_bytes()).is_ok());
        assert_eq!(
            parse::<serde_json::Value>(nest(65).as_bytes()),
            Err(DocumentError::TooDeep)
        );
        assert!(parse::<serde_json::Value>(format!("\"\\\"{}\"", "[".repeat(100)).as_bytes()).is_ok());
        let large = vec![b' '; usize::try_from(LARGEST_DOCUMENT).unwrap() + 1];
        assert!(matches!(
            parse::<serde_json::Value>(&large),
            Err(DocumentError::TooLarge { .. })
        ));
    }
}
