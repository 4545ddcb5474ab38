//! SPDY/3.1, the server's side, as far as the streaming protocols of Kubernetes need it.
//!
//! ```text
//!   bytes ─► frame::Decoder ─► events ─► connection ─► streams (Opened { headers, sender, receiver })
//!              headers: inflate            │  windows, limits, GOAWAY
//!   bytes ◄─ frame::Encoder ◄─ frames ◄────┘
//! ```
//!
//! The peer, on a node, is `moby/spdystream` inside kubelet or crictl. It follows the drafts (SPDY protocol 3 and 3.1)
//! but for flow control, of which it has none: see [`windows::Windows`].
//!
//! Nothing is pushed, so streams with even numbers do not exist; priorities are ignored.

pub mod connection;
pub mod frame;
pub mod headers;
pub mod windows;
