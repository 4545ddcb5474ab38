//! What the embedded network is told to be.

use super::lease::Subnets;
use crate::error::Error;
use crate::names::{LinkName, name_problem, refuse};

/// How the embedded network shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// The network's name, as CNI results and status show it.
    pub name: String,
    /// The bridge, at most 10 bytes long.
    pub bridge: LinkName,
    /// One subnet per address family that pods shall have.
    pub subnets: Subnets,
    /// For bridge and pods, in bytes; none means that of the link to the outside.
    pub mtu: Option<u32>,
    /// The nftables table (family inet).
    pub table: String,
}

impl Default for EmbeddedConfig {
    /// IPv4 only, in a subnet that no other runtime or usual cluster network takes by default.
    fn default() -> Self {
        EmbeddedConfig {
            name: "crisp".into(),
            bridge: LinkName::known("crisp0"),
            subnets: Subnets::default(),
            mtu: None,
            table: "crisp".into(),
        }
    }
}

impl EmbeddedConfig {
    /// Checks what the types do not.
    pub(super) fn check(&self) -> Result<(), Error> {
        // The permanent port is named after the bridge, `-hold` and `-peer` appended.
        if self.bridge.as_str().len() > 10 {
            return Err(refuse(
                "embedded.bridge",
                self.bridge.as_str(),
                "longer than 10 bytes",
            ));
        }
        if let Some(problem) = name_problem(&self.table, 64) {
            return Err(refuse("embedded.table", &self.table, problem));
        }
        if let Some(problem) = name_problem(&self.name, 64) {
            return Err(refuse("embedded.name", &self.name, problem));
        }
        match self.mtu {
            Some(mtu) if !(1280..=65535).contains(&mtu) => {
                Err(refuse("embedded.mtu", &mtu.to_string(), "must be 1280 to 65535"))
            }
            _ => Ok(()),
        }
    }
}
