//! WebSocket (RFC 6455), the server's side: messages whose first byte names a channel, or a tunnel for SPDY.
//!
//! Our own framing and not a library's: what travels here is streams cut into messages, so nothing needs a whole
//! message in memory, reading and writing are two tasks without a common lock, and the limits are those of [`super::spdy`].

pub mod connection;
pub mod frame;
pub mod handshake;
