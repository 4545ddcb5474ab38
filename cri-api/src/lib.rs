//! The wire contract: the Kubernetes Container Runtime Interface v1 and our own small admin service.
//!
//! ```text
//!   kubelet · crictl                     crisp status · crisp image import
//!        │                                      │
//!        │ runtime.v1.RuntimeService            │ crisp.admin.v1.Admin
//!        │ runtime.v1.ImageService              │
//!        └────────────────► one unix socket ◄───┘
//!                                  │
//!      proto/*.proto ─ protox ─ tonic ─► messages, clients, servers (generated/, this crate)
//! ```
//!
//! The contract is written down in `proto/runtime.proto`, in our own words: names, numbers and types are those of
//! Kubernetes 1.36 and of the 1.37 beta; the remarks say what a client relies on. What follows from it is
//! in `src/generated`, so that a build needs neither `protoc` nor another compiler of contracts, whose building takes longer
//! than that of this crate. `tests/generated.rs` compiles it again and compares.
//!
//! # Invariants
//! - A field's number, type and name never change. `tests/interop.rs` fills every message with random values and
//!   sends it through the types of `k8s-cri`, an independent client library, and back.
//! - Maps are ordered, so that equal messages have equal encodings.
//! - Environment values are bytes, and neither they nor registry credentials show in `Debug` output.
//!
//! # What it does not do
//! Nothing: no conversion, no validation, no defaults. Those are the door of the daemon (`cri-server/src/convert`),
//! and nothing behind that door sees these types.

use std::fmt;

/// The Container Runtime Interface, `runtime.v1`: messages, [`runtime_service_client`](v1::runtime_service_client),
/// [`runtime_service_server`](v1::runtime_service_server) and the same for the image service. Documented in
/// `proto/runtime.proto`.
#[allow(missing_docs, unreachable_pub, rustdoc::all, clippy::all)]
pub mod v1 {
    include!("generated/runtime.v1.rs");
}

/// The admin service, `crisp.admin.v1`: status, import and export. Documented in `proto/admin.proto`.
#[allow(missing_docs, unreachable_pub, rustdoc::all, clippy::all)]
pub mod admin {
    include!("generated/crisp.admin.v1.rs");
}

/// The largest message that either side must accept, in bytes: kubelet's own limit.
pub const MAX_MESSAGE_SIZE: usize = 16 * 1024 * 1024;

impl fmt::Debug for v1::AuthConfig {
    /// Shows whom and where, and which kinds of secret are there, but none of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |secret: &str| if secret.is_empty() { "" } else { "<redacted>" };
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &shown(&self.password))
            .field("auth", &shown(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &shown(&self.identity_token))
            .field("registry_token", &shown(&self.registry_token))
            .finish()
    }
}

impl fmt::Debug for v1::KeyValue {
    /// Shows the name and the length: values of environment variables are often secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=<{} bytes>", self.key, self.value.len())
    }
}
