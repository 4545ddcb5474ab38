//! The nftables table, whole: what leaves the host from a pod, and what comes to a pod by a port of the host.
//!
//! ```text
//! table inet crisp {
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         meta nfproto ipv4 ip saddr 10.209.0.0/16 oifname != "crisp0" masquerade
//!     }
//!     … with host ports also what `host_port` adds
//! }
//! ```
//! The table is always replaced whole in one transaction: whatever an earlier version or a half-done change left is
//! gone, and no packet meets the state in between. Connections that stand go on, as the kernel keeps them elsewhere.

use std::net::IpAddr;

use ipnet::IpNet;

use super::expression::{Compare, Family, Header, Meta, Rule, link_name};
use super::host_port::HostPorts;
use super::netfilter::{Hook, Transaction, delete_table, table_exists};
use super::netlink::Socket;
use crate::error::Error;

pub(super) const POSTROUTING: &str = "postrouting";

/// All that the table is made from.
pub(super) struct Ruleset<'a> {
    pub(super) table: &'a str,
    pub(super) bridge: &'a str,
    /// Those of pods.
    pub(super) subnets: &'a [IpNet],
    pub(super) ports: &'a HostPorts,
}

impl Ruleset<'_> {
    /// Puts the table in place.
    pub(super) fn install(&self) -> Result<(), Error> {
        let mut transaction = Transaction::replace(self.table);
        transaction.chain(POSTROUTING, Hook::Postrouting);
        for subnet in self.subnets {
            transaction.rule(POSTROUTING, leaving(subnet, self.bridge));
        }
        if !self.ports.is_empty() {
            self.ports.add_rules(&mut transaction, self.bridge, self.subnets);
        }
        transaction.commit(&mut Socket::netfilter()?)
    }
}

/// Whether the table is in place: someone may have flushed the whole ruleset.
pub(super) fn installed(table: &str) -> Result<bool, Error> {
    table_exists(&mut Socket::netfilter()?, table)
}

/// Takes the table away.
pub(super) fn remove(table: &str) -> Result<(), Error> {
    delete_table(&mut Socket::netfilter()?, table)
}

/// From the subnet, by any other link than the bridge.
fn leaving(subnet: &IpNet, bridge: &str) -> Rule {
    from(subnet)
        .meta(Meta::OutputLink)
        .compare(Compare::IsNot, link_name(bridge))
        .masquerade()
}

/// Packets with a source in a subnet.
pub(super) fn from(subnet: &IpNet) -> Rule {
    let family = family(subnet.addr());
    Rule::of(family)
        .load(Header::Network, family.source(), family.length())
        .mask(octets(subnet.netmask()))
        .compare(Compare::Is, octets(subnet.network()))
}

pub(super) fn family(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::Ipv4,
        IpAddr::V6(_) => Family::Ipv6,
    }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
