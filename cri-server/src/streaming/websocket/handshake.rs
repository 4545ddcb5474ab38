//! The opening handshake (RFC 6455, section 4.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// What every server appends to the client's key.
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key`; `None` for a key that is not 16 bytes in base64.
pub fn accept(key: &str) -> Option<String> {
    STANDARD.decode(key).ok().filter(|key| key.len() == 16)?;
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{MAGIC}").as_bytes());
    Some(STANDARD.encode(hash))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_example_of_the_rfc() {
        let accepted = super::accept("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accepted.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(super::accept("short"), None);
    }
}
