//! What confines a container beyond identity and capabilities: profiles and labels, as requested.

use minicbor::{Decode, Encode};
use runtime::seccomp::Filter;

/// Which profile of a security facility is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum Profile {
    /// None is named: what the configuration says applies.
    #[default]
    #[n(0)]
    Unset,
    /// Ours.
    #[n(1)]
    RuntimeDefault,
    /// No confinement.
    #[n(2)]
    Unconfined,
    /// One of the node's: a file's absolute path (seccomp), the name of a loaded profile (AppArmor).
    #[n(3)]
    Localhost(#[n(0)] String),
}

/// Parts of an SELinux label; what is empty has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SelinuxOptions {
    /// `system_u`.
    #[n(0)]
    pub user: String,
    /// `system_r`.
    #[n(1)]
    pub role: String,
    /// `container_t`.
    #[n(2)]
    pub domain: String,
    /// `s0:c1,c2`.
    #[n(3)]
    pub level: String,
}

/// The filter of a container, decided when it was made: a profile that is edited later changes nothing for it, nor for
/// what is executed in it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Seccomp {
    /// Ready to load.
    #[n(0)]
    pub filter: Filter,
    /// A localhost profile as it was read, as JSON; `None` for the default, which follows from the capabilities.
    #[n(1)]
    pub profile: Option<String>,
}
