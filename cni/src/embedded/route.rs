//! rtnetlink messages, one function each: links, addresses, routes (rtnetlink(7), `linux/if_link.h`).

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;

use super::lease::HardwareAddress;
use super::message::{Message, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Reply};
use super::netlink::Socket;
use crate::error::Error;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

const IFF_UP: u32 = 0x1;
const IFF_NOARP: u32 = 0x80;
const IF_OPER_UP: u8 = 6;
const BR_STATE_FORWARDING: u8 = 3;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_PERMANENT: u32 = 0x80;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;

/// `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;
/// `struct rtmsg`.
const ROUTE_HEADER: usize = 12;

/// The loopback link has this index in every network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// What the kernel says of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) kind: Option<String>,
    pub(super) alias: Option<String>,
    pub(super) mtu: u32,
    pub(super) master: Option<u32>,
    /// Up, with a carrier, and as a bridge's port past the listening and learning states.
    pub(super) forwarding: bool,
}

impl Link {
    fn parse(reply: &Reply) -> Option<Link> {
        let header = reply.fixed(LINK_HEADER)?;
        let attributes = reply.attributes(LINK_HEADER);
        let info = attributes.nested(IFLA_LINKINFO);
        let operational = attributes.get(IFLA_OPERSTATE) == Some(&[IF_OPER_UP]);
        let port_state = info.nested(IFLA_INFO_SLAVE_DATA).get(IFLA_BRPORT_STATE);
        Some(Link {
            index: u32::from_ne_bytes([header[4], header[5], header[6], header[7]]),
            name: attributes.get_text(IFLA_IFNAME)?.into(),
            kind: info.get_text(IFLA_INFO_KIND).map(Into::into),
            alias: attributes.get_text(IFLA_IFALIAS).map(Into::into),
            mtu: attributes.get_u32(IFLA_MTU).unwrap_or(0),
            master: attributes.get_u32(IFLA_MASTER),
            forwarding: operational && port_state.is_none_or(|state| state == [BR_STATE_FORWARDING]),
        })
    }
}

/// The link of that name, if there is one.
pub(super) fn find_link(socket: &mut Socket, name: &str) -> Result<Option<Link>, Error> {
    let query = Message::new("look up link", name, RTM_GETLINK, 0)
        .raw(&link_header(0, 0, 0))
        .text(IFLA_IFNAME, name)
        .u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    match socket.query(query) {
        Ok(replies) => Ok(replies.first().and_then(Link::parse)),
        Err(error) if error.is_no_device() => Ok(None),
        Err(error) => Err(error),
    }
}

/// All links of the namespace.
pub(super) fn links(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    let query = Message::new("list links", "all", RTM_GETLINK, NLM_F_DUMP)
        .raw(&link_header(0, 0, 0))
        .u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    Ok(socket.query(query)?.iter().filter_map(Link::parse).collect())
}

/// Creates a bridge whose own address never changes with its ports and whose ports forward at once.
pub(super) fn new_bridge(name: &str, address: HardwareAddress, mtu: u32) -> Message {
    Message::new("create bridge", name, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
        .raw(&link_header(0, 0, 0))
        .text(IFLA_IFNAME, name)
        .attr(IFLA_ADDRESS, &address.0)
        .u32(IFLA_MTU, mtu)
        .nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |data| {
                // Without snooping every port gets all multicast, neighbour discovery included.
                data.u32(IFLA_BR_FORWARD_DELAY, 0).u8(IFLA_BR_MCAST_SNOOPING, 0)
            })
        })
}

/// Where the far end of a veth pair goes.
pub(super) struct Peer<'a> {
    pub(super) name: &'a str,
    pub(super) address: Option<HardwareAddress>,
    /// The namespace it is made in; none is that of the socket.
    pub(super) netns: Option<BorrowedFd<'a>>,
}

/// Creates a veth pair, the far end straight in its namespace: a link that is made here and moved later
/// costs a second round and is for a moment visible to the host.
///
/// One queue per end: the kernel would make one per possible CPU, and a veth transmits without a lock.
pub(super) fn new_veth(name: &str, mtu: u32, peer: &Peer<'_>) -> Message {
    Message::new("create veth", name, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
        .raw(&link_header(0, 0, 0))
        .text(IFLA_IFNAME, name)
        .u32(IFLA_MTU, mtu)
        .u32(IFLA_NUM_TX_QUEUES, 1)
        .u32(IFLA_NUM_RX_QUEUES, 1)
        .nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |mut far| {
                    far = far
                        .raw(&link_header(0, 0, 0))
                        .text(IFLA_IFNAME, peer.name)
                        .u32(IFLA_MTU, mtu)
                        .u32(IFLA_NUM_TX_QUEUES, 1)
                        .u32(IFLA_NUM_RX_QUEUES, 1);
                    if let Some(address) = peer.address {
                        far = far.attr(IFLA_ADDRESS, &address.0);
                    }
                    if let Some(netns) = peer.netns {
                        far = far.attr(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
                    }
                    far
                })
            })
        })
}

/// Puts a link under a bridge, names its owner in the alias, and raises it.
pub(super) fn join_bridge(name: &str, bridge: u32, alias: &str) -> Message {
    change_link("join bridge", name, IFF_UP, IFF_UP)
        .u32(IFLA_MASTER, bridge)
        .attr(IFLA_IFALIAS, alias.as_bytes())
}

/// Raises a link.
pub(super) fn raise(index: u32, name: &str) -> Message {
    Message::new("raise link", name, RTM_NEWLINK, 0).raw(&link_header(index, IFF_UP, IFF_UP))
}

/// Raises a link that shall never resolve a neighbour.
pub(super) fn raise_silent(name: &str) -> Message {
    let flags = IFF_UP | IFF_NOARP;
    change_link("raise link", name, flags, flags)
}

/// Keeps the kernel from giving the link an IPv6 address of its own, and with it from sending anything.
pub(super) fn no_generated_address(name: &str) -> Message {
    change_link("switch off address generation", name, 0, 0).nest(IFLA_AF_SPEC, |families| {
        families.nest(u16::from(AF_INET6), |inet6| {
            inet6.u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE)
        })
    })
}

/// Makes a bridge's port a dead end: it keeps the bridge's carrier and gets no traffic.
pub(super) fn silence_port(name: &str) -> Message {
    change_link("silence port", name, 0, 0).nest(IFLA_LINKINFO, |info| {
        // IFLA_INFO_SLAVE_KIND must go with the data.
        info.text(4, "bridge").nest(IFLA_INFO_SLAVE_DATA, |port| {
            port.u8(IFLA_BRPORT_LEARNING, 0)
                .u8(IFLA_BRPORT_UNICAST_FLOOD, 0)
                .u8(IFLA_BRPORT_MCAST_FLOOD, 0)
                .u8(IFLA_BRPORT_BCAST_FLOOD, 0)
        })
    })
}

/// Lets a bridge's port get back what came by it: a pod that calls itself by a port of the host.
pub(super) fn hairpin_port(name: &str) -> Message {
    change_link("let port turn back", name, 0, 0).nest(IFLA_LINKINFO, |info| {
        info.text(4, "bridge")
            .nest(IFLA_INFO_SLAVE_DATA, |port| port.u8(IFLA_BRPORT_MODE, 1))
    })
}

/// Deletes a link. Takes 14 to 55 ms: never on a path that someone waits for.
pub(super) fn delete_link(name: &str) -> Message {
    Message::new("delete link", name, RTM_DELLINK, 0)
        .raw(&link_header(0, 0, 0))
        .text(IFLA_IFNAME, name)
}

fn change_link(step: &'static str, name: &str, flags: u32, change: u32) -> Message {
    Message::new(step, name, RTM_NEWLINK, 0)
        .raw(&link_header(0, flags, change))
        .text(IFLA_IFNAME, name)
}

/// Adds an address; one that is there already is a success.
///
/// IPv6 skips duplicate detection: we hand the addresses out ourselves, and a tentative address would lose
/// the pod's first second.
pub(super) fn add_address(index: u32, link: &str, address: IpNet) -> Message {
    let message = Message::new(
        "add address",
        format!("{address} on {link}"),
        RTM_NEWADDR,
        NLM_F_CREATE | NLM_F_REPLACE,
    )
    .raw(&address_header(index, address));
    match address {
        IpNet::V4(net) => message
            .attr(IFA_LOCAL, &net.addr().octets())
            .attr(IFA_ADDRESS, &net.addr().octets())
            .attr(IFA_BROADCAST, &net.broadcast().octets()),
        IpNet::V6(net) => message
            .attr(IFA_LOCAL, &net.addr().octets())
            .attr(IFA_ADDRESS, &net.addr().octets())
            .u32(IFA_FLAGS, IFA_F_NODAD | IFA_F_PERMANENT),
    }
}

/// Takes an address away.
pub(super) fn delete_address(index: u32, link: &str, address: IpNet) -> Message {
    Message::new("delete address", format!("{address} on {link}"), RTM_DELADDR, 0)
        .raw(&address_header(index, address))
        .attr(IFA_LOCAL, &octets(address.addr()))
}

/// The addresses of one link, link-local ones left out.
pub(super) fn addresses(socket: &mut Socket, index: u32) -> Result<Vec<IpNet>, Error> {
    let query =
        Message::new("list addresses", "all", RTM_GETADDR, NLM_F_DUMP).raw(&[AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0]);
    let parse = |reply: &Reply| {
        let header = reply.fixed(ADDRESS_HEADER)?;
        let owner = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
        let attributes = reply.attributes(ADDRESS_HEADER);
        let bytes = attributes
            .get(IFA_LOCAL)
            .or_else(|| attributes.get(IFA_ADDRESS))?;
        let net = IpNet::new(address_of(header[0], bytes)?, header[1]).ok()?;
        let link_local = matches!(net.addr(), IpAddr::V6(address) if address.is_unicast_link_local());
        (owner == index && !link_local).then_some(net)
    };
    Ok(socket.query(query)?.iter().filter_map(parse).collect())
}

/// Adds the default route through `gateway`, or for a gateway-less network straight out of the link.
pub(super) fn default_route(index: u32, link: &str, gateway: IpAddr) -> Message {
    let family = family(gateway);
    Message::new(
        "add default route",
        format!("via {gateway} on {link}"),
        RTM_NEWROUTE,
        NLM_F_CREATE | NLM_F_EXCL,
    )
    .raw(&[
        family,
        0,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_BOOT,
        RT_SCOPE_UNIVERSE,
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ])
    .attr(RTA_GATEWAY, &octets(gateway))
    .u32(RTA_OIF, index)
}

/// Destinations that the host reaches by a link, the default routes left out.
pub(super) fn connected(socket: &mut Socket) -> Result<Vec<(IpNet, u32)>, Error> {
    let query = Message::new("list routes", "all", RTM_GETROUTE, NLM_F_DUMP).raw(&[0; ROUTE_HEADER]);
    let parse = |reply: &Reply| {
        let header = reply.fixed(ROUTE_HEADER)?;
        let attributes = reply.attributes(ROUTE_HEADER);
        let relevant = header[4] != RT_TABLE_LOCAL && header[1] > 0 && header[7] == RTN_UNICAST;
        let destination = address_of(header[0], attributes.get(RTA_DST)?)?;
        let net = IpNet::new(destination, header[1]).ok()?;
        relevant.then_some((net, attributes.get_u32(RTA_OIF)?))
    };
    Ok(socket.query(query)?.iter().filter_map(parse).collect())
}

/// The link by which the host reaches the rest of the world over IPv4 or else IPv6.
pub(super) fn uplink(socket: &mut Socket) -> Result<Option<Link>, Error> {
    let query = Message::new("list routes", "default", RTM_GETROUTE, NLM_F_DUMP).raw(&[0; ROUTE_HEADER]);
    let default = |reply: &Reply| {
        let header = reply.fixed(ROUTE_HEADER)?;
        let is_default = header[1] == 0 && header[4] == RT_TABLE_MAIN && header[7] == RTN_UNICAST;
        is_default
            .then(|| reply.attributes(ROUTE_HEADER).get_u32(RTA_OIF))
            .flatten()
    };
    let Some(index) = socket.query(query)?.iter().find_map(default) else {
        return Ok(None);
    };
    Ok(links(socket)?.into_iter().find(|link| link.index == index))
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[0] = AF_UNSPEC;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn address_header(index: u32, address: IpNet) -> [u8; ADDRESS_HEADER] {
    let scope = match address.addr() {
        IpAddr::V6(address) if address.is_unicast_link_local() => RT_SCOPE_LINK,
        _ => RT_SCOPE_UNIVERSE,
    };
    let index = index.to_ne_bytes();
    [
        family(address.addr()),
        address.prefix_len(),
        0,
        scope,
        index[0],
        index[1],
        index[2],
        index[3],
    ]
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address_of(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
        AF_INET6 => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
        _ => None,
    }
}
