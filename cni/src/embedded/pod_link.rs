//! A pod's link: made with one message, set up inside with one batch, ready before anyone is told of it.
//!
//! ```text
//!   host socket   create veth, far end in the pod ─► join bridge, raise ─────────────► forwarding? ─► done
//!   pod thread                                        enter ─► lo, eth0, address, route ──┘
//! ```

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use ipnet::IpNet;

use super::bridge::{Bridge, await_forwarding};
use super::lease::HardwareAddress;
use super::netlink::Socket;
use super::route::{self, LOOPBACK, Peer};
use super::sysctl::{ignore_router_advertisements, kernel_has_ipv6};
use crate::error::Error;
use crate::names::{LinkName, PodId};
use crate::netns::OneWay;

/// Begins the alias of every host link of ours; then follow the pod's id and its addresses.
const ALIAS: &str = "crisp";

/// The link that a pod shall get.
#[derive(Debug)]
pub(super) struct PodLink<'a> {
    pub(super) pod: &'a PodId,
    pub(super) host_link: &'a str,
    pub(super) if_name: &'a LinkName,
    pub(super) netns: BorrowedFd<'a>,
    pub(super) addresses: &'a [IpNet],
    pub(super) gateways: &'a [IpNet],
    /// Whether it may call itself by a port of the host.
    pub(super) hairpin: bool,
}

impl PodLink<'_> {
    /// Makes the link and sets up both ends. On failure the host's end may exist.
    pub(super) fn establish(&self, thread: OneWay, bridge: &Bridge) -> Result<(), Error> {
        let mut host = Socket::route()?;
        self.create(&mut host, bridge)?;
        thread.enter(self.netns)?;
        self.set_up_inside()?;
        await_forwarding(&mut host, self.host_link)
    }

    fn create(&self, host: &mut Socket, bridge: &Bridge) -> Result<(), Error> {
        let messages = || {
            let peer = Peer {
                name: self.if_name.as_str(),
                address: Some(self.hardware_address()),
                netns: Some(self.netns),
            };
            let mut messages = vec![route::new_veth(self.host_link, bridge.mtu, &peer)];
            if kernel_has_ipv6() {
                messages.push(route::no_generated_address(self.host_link));
            }
            messages.push(route::join_bridge(
                self.host_link,
                bridge.index,
                &alias(self.pod, self.addresses),
            ));
            if self.hairpin {
                messages.push(route::hairpin_port(self.host_link));
            }
            messages
        };
        match host.batch(messages()) {
            Err(error) if error.is_exists() => {
                self.remove_leftover(host)?;
                host.batch(messages())
            }
            outcome => outcome,
        }
    }

    /// A link of our name exists. If it is this pod's own, from an attempt that was cut short, it goes.
    fn remove_leftover(&self, host: &mut Socket) -> Result<(), Error> {
        let taken = |link: &str, problem| Error::LinkTaken {
            link: link.into(),
            problem,
        };
        let found = route::find_link(host, self.host_link)?;
        let owner = found
            .as_ref()
            .and_then(|link| parse_alias(link.alias.as_deref()?))
            .map(|(pod, _)| pod);
        match (found, owner) {
            (None, _) => Err(taken(
                self.if_name.as_str(),
                "the pod has a link of that name already",
            )),
            (Some(_), Some(owner)) if owner == *self.pod => host.request(route::delete_link(self.host_link)),
            (Some(_), _) => Err(taken(self.host_link, "its alias does not name this pod")),
        }
    }

    /// Runs in the pod's namespace.
    fn set_up_inside(&self) -> Result<(), Error> {
        let name = self.if_name.as_str();
        ignore_router_advertisements(name)?;
        let mut pod = Socket::route()?;
        let link = route::find_link(&mut pod, name)?.ok_or_else(|| Error::LinkTaken {
            link: name.into(),
            problem: "it vanished while it was set up",
        })?;
        let mut messages = vec![route::raise(LOOPBACK, "lo")];
        if kernel_has_ipv6() {
            messages.push(route::no_generated_address(name));
        }
        messages.push(route::raise(link.index, name));
        messages.extend(
            self.addresses
                .iter()
                .map(|address| route::add_address(link.index, name, *address)),
        );
        if self
            .addresses
            .iter()
            .any(|address| matches!(address, IpNet::V6(_)))
        {
            messages.push(route::add_address(
                link.index,
                name,
                self.hardware_address().link_local(),
            ));
        }
        messages.extend(
            self.gateways
                .iter()
                .map(|gateway| route::default_route(link.index, name, gateway.addr())),
        );
        pod.batch(messages)
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::of(
            self.addresses
                .first()
                .map_or(IpAddr::from([0, 0, 0, 0]), IpNet::addr),
        )
    }
}

/// Raises the loopback link of the namespace that the thread enters: plugins do not.
pub(crate) fn raise_loopback(thread: OneWay, netns: BorrowedFd<'_>) -> Result<(), Error> {
    thread.enter(netns)?;
    Socket::route()?.request(route::raise(LOOPBACK, "lo"))
}

/// What a host link says of its pod, for `ip link` and for a restarted daemon.
fn alias(pod: &PodId, addresses: &[IpNet]) -> String {
    let mut alias = format!("{ALIAS} {pod}");
    for address in addresses {
        alias.push(' ');
        alias.push_str(&address.to_string());
    }
    alias
}

/// The pod and the addresses that an alias names, if it is one of ours.
pub(super) fn parse_alias(alias: &str) -> Option<(PodId, Vec<IpNet>)> {
    let mut words = alias.split(' ').skip_while(|word| *word != ALIAS);
    words.next()?;
    let pod = PodId::parse(words.next()?).ok()?;
    Some((pod, words.filter_map(|word| word.parse().ok()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_says_whose_link_it_is() {
        let pod = PodId::parse(&"f".repeat(64)).expect("an id");
        let addresses: Vec<IpNet> = ["10.209.255.254/16", "fd12:3456:789a:bcde:1234:5678:9abc:def0/64"]
            .iter()
            .map(|t| t.parse().unwrap())
            .collect();
        let alias = alias(&pod, &addresses);
        assert!(alias.len() < 256, "the kernel's limit is 255 bytes");
        assert_eq!(parse_alias(&alias), Some((pod, addresses)));
        assert_eq!(parse_alias("keeps the bridge's carrier"), None);
    }
}
