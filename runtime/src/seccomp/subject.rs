//! For whom a profile is meant: conditional rules and the default profile depend on it.

use std::fmt;
use std::str::FromStr;

use oci_spec::runtime::Capabilities;

use super::abi::Machine;
use super::error::SeccompError;

/// A container as a profile sees it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The container's bounding set: all that a process in it can ever have.
    pub capabilities: &'a Capabilities,
    /// The machine it runs on.
    pub machine: Machine,
    /// The kernel it runs on.
    pub kernel: KernelVersion,
}

/// A kernel's version, as far as profiles ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// `5` of `5.15.0-91-generic`.
    pub major: u32,
    /// `15` of `5.15.0-91-generic`.
    pub minor: u32,
}

impl KernelVersion {
    /// Of the running kernel; 0.0 if it tells none, so that rules for newer kernels do not apply.
    pub fn host() -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy();
        let mut parts = release
            .split(|c: char| !c.is_ascii_digit())
            .map(|part| part.parse().unwrap_or(0));
        Self {
            major: parts.next().unwrap_or(0),
            minor: parts.next().unwrap_or(0),
        }
    }
}

/// `<major>.<minor>`, as in `minKernel`.
impl FromStr for KernelVersion {
    type Err = SeccompError;

    fn from_str(version: &str) -> Result<Self, SeccompError> {
        let parse = || {
            let (major, minor) = version.split_once('.')?;
            Some(Self {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
            })
        };
        parse().ok_or_else(|| SeccompError::KernelVersion {
            version: version.to_owned(),
        })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
