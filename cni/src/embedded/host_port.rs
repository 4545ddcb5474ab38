//! Ports of the host that lead into pods.
//!
//! ```text
//!     map ports4 { type inet_proto . inet_service : ipv4_addr . inet_service
//!                  elements = { tcp . 8080 : 10.209.0.7 . 80 } }
//!     map bound4 { the same for one address of the host, which is the first part of the key }
//!     chain prerouting {                                          the same in chain output
//!         type nat hook prerouting priority dstnat; policy accept;
//!         meta nfproto ipv4 fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @bound4
//!         meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @ports4
//!     }
//!     chain postrouting {
//!         ip saddr 127.0.0.0/8 oifname "crisp0" masquerade        from the host's loopback
//!         ip saddr 10.209.0.0/16 oifname "crisp0" ct status dnat masquerade    from a pod to a pod by the host
//!     }
//!     chain martians {
//!         type filter hook prerouting priority raw; policy accept;
//!         iifname "crisp0" ip saddr 127.0.0.0/8 drop              and the same for daddr
//!     }
//! ```
//! Only destinations of this host are translated, never what it forwards. The host's loopback works for IPv4: the
//! bridge may carry 127.0.0.0/8 for that (`route_localnet`), and what a pod itself sends from or to there is dropped
//! before anything else looks at it. Where the kernel shows bridged packets to nftables (`bridge-nf-call-iptables`), a
//! pod that calls itself is turned back within the bridge, so its port may do that. A port is free as soon as its pod is detached.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::expression::{Compare, Family, Header, Meta, Rule, Word, link_name};
use super::netfilter::{Hook, Map, Part, Transaction};
use super::ruleset::{POSTROUTING, family, from, octets};
use crate::error::Error;
use crate::names::PodId;
use crate::request::{PortMapping, Protocol};

const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const MARTIANS: &str = "martians";

/// Where the destination port stands in the headers of TCP, UDP and SCTP, and its length.
const DESTINATION_PORT: (u32, u32) = (2, 2);

/// The maps of one address family.
struct Maps {
    family: Family,
    /// For one address of the host.
    bound: Map,
    /// For all of them.
    any: Map,
}

const MAPS: [Maps; 2] = [
    Maps {
        family: Family::Ipv4,
        bound: Map {
            name: "bound4",
            key: &[Part::Ipv4, Part::Protocol, Part::Port],
            value: &[Part::Ipv4, Part::Port],
        },
        any: Map {
            name: "ports4",
            key: &[Part::Protocol, Part::Port],
            value: &[Part::Ipv4, Part::Port],
        },
    },
    Maps {
        family: Family::Ipv6,
        bound: Map {
            name: "bound6",
            key: &[Part::Ipv6, Part::Protocol, Part::Port],
            value: &[Part::Ipv6, Part::Port],
        },
        any: Map {
            name: "ports6",
            key: &[Part::Protocol, Part::Port],
            value: &[Part::Ipv6, Part::Port],
        },
    },
];

/// A pod's ports, and where they lead.
#[derive(Debug, Clone)]
struct Opened {
    mappings: Vec<PortMapping>,
    addresses: Vec<IpAddr>,
}

/// All ports of the host that lead into pods.
#[derive(Debug, Default)]
pub(super) struct HostPorts(BTreeMap<PodId, Opened>);

impl HostPorts {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reserves ports for a pod; none, when one of them is another pod's or wanted twice for different ends.
    pub(super) fn open(
        &mut self,
        pod: &PodId,
        mappings: &[PortMapping],
        addresses: &[IpNet],
    ) -> Result<(), Error> {
        let mut own: Vec<PortMapping> = Vec::new();
        for mapping in mappings {
            let others = self.0.iter().filter(|(other, _)| *other != pod);
            let mut taken = others.flat_map(|(_, opened)| &opened.mappings);
            if own.contains(mapping) {
                continue;
            }
            if taken.any(|other| collide(mapping, other)) || own.iter().any(|other| collide(mapping, other)) {
                return Err(Error::HostPortTaken {
                    port: mapping.host_port,
                    protocol: name(mapping.protocol),
                });
            }
            own.push(mapping.clone());
        }
        if !own.is_empty() {
            self.adopt(pod, own, addresses);
        }
        Ok(())
    }

    /// Takes up what a record tells of.
    pub(super) fn adopt(&mut self, pod: &PodId, mappings: Vec<PortMapping>, addresses: &[IpNet]) {
        let addresses = addresses.iter().map(IpNet::addr).collect();
        self.0.insert(pod.clone(), Opened { mappings, addresses });
    }

    /// Frees a pod's ports; says whether it had any.
    pub(super) fn close(&mut self, pod: &PodId) -> bool {
        self.0.remove(pod).is_some()
    }

    /// Adds maps, chains and rules to a table that has its chain for sources already.
    pub(super) fn add_rules(&self, transaction: &mut Transaction, bridge: &str, subnets: &[IpNet]) {
        for maps in &MAPS {
            transaction.map(maps.bound, &self.elements(maps.family, true));
            transaction.map(maps.any, &self.elements(maps.family, false));
        }
        for (chain, hook) in [(PREROUTING, Hook::Prerouting), (OUTPUT, Hook::Output)] {
            transaction.chain(chain, hook);
            for maps in &MAPS {
                transaction.rule(chain, bound(maps));
                transaction.rule(chain, any(maps));
            }
        }
        let loopback = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
        let onto_bridge = |rule: Rule| {
            rule.meta(Meta::OutputLink)
                .compare(Compare::Is, link_name(bridge))
        };
        transaction.rule(POSTROUTING, onto_bridge(from(&loopback)).masquerade());
        for subnet in subnets {
            transaction.rule(POSTROUTING, onto_bridge(from(subnet)).translated().masquerade());
        }
        transaction.chain(MARTIANS, Hook::Raw);
        for offset in [Family::Ipv4.source(), Family::Ipv4.destination()] {
            let rule = Rule::of(Family::Ipv4)
                .meta(Meta::InputLink)
                .compare(Compare::Is, link_name(bridge))
                .load(Header::Network, offset, 1)
                .compare(Compare::Is, vec![127])
                .drop();
            transaction.rule(MARTIANS, rule);
        }
    }

    /// The elements of one family's map: of ports bound to an address, or of those that are not.
    fn elements(&self, wanted: Family, bound: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut elements = Vec::new();
        for opened in self.0.values() {
            let Some(address) = opened
                .addresses
                .iter()
                .find(|address| family(**address) == wanted)
            else {
                continue;
            };
            for mapping in &opened.mappings {
                let on = mapping.host_ip.filter(|ip| !ip.is_unspecified());
                let of_family = mapping.host_ip.is_none_or(|ip| family(ip) == wanted);
                if !of_family || on.is_some() != bound {
                    continue;
                }
                let mut key = on.map(octets).unwrap_or_default();
                key.extend([number(mapping.protocol), 0, 0, 0]);
                key.extend(port(mapping.host_port));
                let mut value = octets(*address);
                value.extend(port(mapping.container_port));
                elements.push((key, value));
            }
        }
        elements
    }
}

/// Whether both want the same port of the same address.
fn collide(one: &PortMapping, other: &PortMapping) -> bool {
    let all = |mapping: &PortMapping| mapping.host_ip.filter(|ip| !ip.is_unspecified());
    let families_meet = match (one.host_ip, other.host_ip) {
        (Some(one), Some(other)) => one.is_ipv4() == other.is_ipv4(),
        _ => true,
    };
    let addresses_meet = match (all(one), all(other)) {
        (Some(one), Some(other)) => one == other,
        _ => families_meet,
    };
    one.protocol == other.protocol && one.host_port == other.host_port && addresses_meet
}

fn bound(maps: &Maps) -> Rule {
    let (family, words) = (maps.family, maps.family.length() / 4);
    Rule::of(family)
        .destination_is_local()
        .load(Header::Network, family.destination(), family.length())
        .meta_to(Meta::Transport, Word(words))
        .load_to(
            Header::Transport,
            DESTINATION_PORT.0,
            DESTINATION_PORT.1,
            Word(words + 1),
        )
        .look_up(maps.bound.name)
        .translate_destination(family)
}

fn any(maps: &Maps) -> Rule {
    Rule::of(maps.family)
        .destination_is_local()
        .meta(Meta::Transport)
        .load_to(Header::Transport, DESTINATION_PORT.0, DESTINATION_PORT.1, Word(1))
        .look_up(maps.any.name)
        .translate_destination(maps.family)
}

/// A port in a word of its own.
fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// `IPPROTO_*`.
fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(digit: &str) -> PodId {
        PodId::parse(&digit.repeat(64)).unwrap()
    }

    fn mapping(protocol: Protocol, host_port: u16, host_ip: Option<&str>) -> PortMapping {
        PortMapping {
            host_port,
            container_port: 80,
            protocol,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        }
    }

    #[test]
    fn a_port_leads_to_one_pod() {
        let addresses = ["10.0.0.2/16".parse().unwrap()];
        let mut ports = HostPorts::default();
        let tcp = mapping(Protocol::Tcp, 8080, None);
        ports
            .open(&pod("a"), &[tcp.clone(), tcp.clone()], &addresses)
            .unwrap();
        for (other, collides) in [
            (mapping(Protocol::Tcp, 8080, None), true),
            (mapping(Protocol::Tcp, 8080, Some("0.0.0.0")), true),
            (mapping(Protocol::Tcp, 8080, Some("192.0.2.1")), true),
            (mapping(Protocol::Udp, 8080, None), false),
            (mapping(Protocol::Tcp, 8081, None), false),
        ] {
            let outcome = ports.open(&pod("b"), std::slice::from_ref(&other), &addresses);
            assert_eq!(outcome.is_err(), collides, "{other:?}");
            if let Err(error) = outcome {
                assert!(error.to_string().contains("8080"), "{error}");
            }
            ports.close(&pod("b"));
        }
        assert!(ports.close(&pod("a")) && ports.is_empty());
        ports.open(&pod("b"), &[tcp], &addresses).unwrap();
    }

    #[test]
    fn addresses_of_the_host_have_ports_of_their_own() {
        let addresses = ["10.0.0.2/16".parse().unwrap(), "fd00::2/64".parse().unwrap()];
        let mut ports = HostPorts::default();
        let wanted = [
            mapping(Protocol::Tcp, 53, Some("192.0.2.1")),
            mapping(Protocol::Tcp, 53, Some("192.0.2.2")),
            mapping(Protocol::Tcp, 53, Some("::")),
        ];
        ports.open(&pod("a"), &wanted, &addresses).unwrap();
        assert_eq!(ports.elements(Family::Ipv4, true).len(), 2);
        assert!(ports.elements(Family::Ipv4, false).is_empty());
        assert!(ports.elements(Family::Ipv6, true).is_empty());
        let (key, value) = ports.elements(Family::Ipv6, false).remove(0);
        assert_eq!(key, [6, 0, 0, 0, 0, 53, 0, 0]);
        assert_eq!((value.len(), value[16..].to_vec()), (20, vec![0, 80, 0, 0]));
    }
}
