//! The nftables table: what leaves the host from a pod gets the host's address.
//!
//! ```text
//! table inet crisp {
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         meta nfproto ipv4 ip saddr 10.209.0.0/16 oifname != "crisp0" masquerade
//!     }
//! }
//! ```
//! One static rule per subnet, none per pod. The table is always replaced whole in one transaction: whatever an
//! earlier version or a half-done change left is gone, and no packet meets the state in between.

use std::net::IpAddr;

use ipnet::IpNet;

use super::netfilter::{
    Compare, FAMILY_IPV4, FAMILY_IPV6, Meta, Rule, Transaction, delete_table, link_name, table_exists,
};
use super::netlink::Socket;
use crate::error::Error;

const CHAIN: &str = "postrouting";

/// Puts the table in place for these subnets behind this bridge.
pub(super) fn install(table: &str, bridge: &str, subnets: &[IpNet]) -> Result<(), Error> {
    let mut transaction = Transaction::replace(table);
    transaction.postrouting_nat(CHAIN);
    for subnet in subnets {
        transaction.rule(CHAIN, leaving(subnet, bridge));
    }
    transaction.commit(&mut Socket::netfilter()?)
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
    // Where the source address stands in the header (RFC 791, RFC 8200).
    let (family, offset, length) = match subnet {
        IpNet::V4(_) => (FAMILY_IPV4, 12, 4),
        IpNet::V6(_) => (FAMILY_IPV6, 8, 16),
    };
    Rule::new()
        .meta(Meta::Family)
        .compare(Compare::Is, vec![family])
        .network_header(offset, length)
        .mask(octets(subnet.netmask()))
        .compare(Compare::Is, octets(subnet.network()))
        .meta(Meta::OutputLink)
        .compare(Compare::IsNot, link_name(bridge))
        .masquerade()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
