//! The bridge and what keeps it awake.
//!
//! ```text
//!        host            crisp0  10.209.0.1 (gateway)
//!         │   ┌──────────────┬──────────────┐
//!  crisp0-peer│ crisp0-hold  │ cr0123456789a│ cr…         ports
//!         └───┘              └─ eth0 of a pod
//! ```
//! A bridge without a port that is up has no carrier, and its first port brings it up only after a detour through
//! the kernel's link watch: the first pod's first packets are lost, and again whenever the last pod had left. So one
//! port is permanent. A dummy link would do, but is not in every kernel; a veth pair is, as pods use the same. The
//! port takes part in nothing: it learns nothing and nothing is flooded to it.
//!
//! The bridge's own Ethernet address is set explicitly, or it would change with the ports, under the pods' feet.

use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::lease::{HardwareAddress, Subnets};
use super::netlink::Socket;
use super::route::{self, Link, Peer};
use super::sysctl::{ignore_router_advertisements, kernel_has_ipv6};
use crate::error::Error;
use crate::names::LinkName;

const DEFAULT_MTU: u32 = 1500;
/// What makes a port forward takes microseconds; this is for a host in distress.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A bridge that is in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bridge {
    pub(super) index: u32,
    pub(super) mtu: u32,
}

/// What the bridge shall be.
#[derive(Debug)]
pub(super) struct BridgePlan<'a> {
    pub(super) name: &'a LinkName,
    pub(super) subnets: &'a Subnets,
    /// Gateways of subnets that pods still have addresses of.
    pub(super) former: Vec<IpNet>,
    pub(super) mtu: Option<u32>,
}

impl BridgePlan<'_> {
    /// Makes the bridge, or what it lacks. What is right already is left alone, as pods may be using it.
    pub(super) fn ensure(&self, socket: &mut Socket) -> Result<Bridge, Error> {
        let name = self.name.as_str();
        let found = route::find_link(socket, name)?;
        if found
            .as_ref()
            .is_some_and(|link| link.kind.as_deref() != Some("bridge"))
        {
            return Err(Error::LinkTaken {
                link: name.into(),
                problem: "it is no bridge",
            });
        }
        self.refuse_taken_subnets(socket, found.as_ref())?;
        let link = match found {
            Some(link) => link,
            None => self.create(socket)?,
        };
        self.ensure_permanent_port(socket, &link)?;
        self.ensure_addresses(socket, link.index)?;
        socket.request(route::raise(link.index, name))?;
        await_forwarding(socket, &hold_name(name))?;
        Ok(Bridge {
            index: link.index,
            mtu: self.mtu.unwrap_or(link.mtu),
        })
    }

    fn create(&self, socket: &mut Socket) -> Result<Link, Error> {
        let name = self.name.as_str();
        let mtu = match self.mtu {
            Some(mtu) => mtu,
            None => route::uplink(socket)?.map_or(DEFAULT_MTU, |link| link.mtu),
        };
        socket.request(route::new_bridge(name, self.hardware_address(), mtu))?;
        ignore_router_advertisements(name)?;
        if kernel_has_ipv6() {
            socket.request(route::no_generated_address(name))?;
        }
        route::find_link(socket, name)?.ok_or_else(|| Error::LinkTaken {
            link: name.into(),
            problem: "it vanished while it was set up",
        })
    }

    fn ensure_permanent_port(&self, socket: &mut Socket, bridge: &Link) -> Result<(), Error> {
        let (hold, peer) = (hold_name(&bridge.name), peer_name(&bridge.name));
        if route::find_link(socket, &hold)?.is_none() {
            let far = Peer {
                name: &peer,
                address: None,
                netns: None,
            };
            socket.request(route::new_veth(&hold, bridge.mtu, &far))?;
        }
        let mut messages = Vec::new();
        if kernel_has_ipv6() {
            messages.extend([
                route::no_generated_address(&hold),
                route::no_generated_address(&peer),
            ]);
        }
        messages.extend([
            route::join_bridge(&hold, bridge.index, "keeps the bridge's carrier"),
            route::silence_port(&hold),
            route::raise_silent(&peer),
        ]);
        socket.batch(messages)
    }

    fn ensure_addresses(&self, socket: &mut Socket, index: u32) -> Result<(), Error> {
        let mut wanted = self.subnets.gateways();
        wanted.extend(&self.former);
        let name = self.name.as_str();
        let present = route::addresses(socket, index)?;
        let superfluous = present.iter().filter(|address| !wanted.contains(address));
        let mut messages: Vec<_> = superfluous
            .map(|address| route::delete_address(index, name, *address))
            .collect();
        let missing = wanted.iter().filter(|address| !present.contains(address));
        messages.extend(missing.map(|address| route::add_address(index, name, *address)));
        if self.subnets.has_ipv6() {
            messages.push(route::add_address(
                index,
                name,
                self.hardware_address().link_local(),
            ));
        }
        socket.batch(messages)
    }

    /// Refuses a subnet that another link of the host has the same or a part of. A wider route, such as one for all
    /// of 10.0.0.0/8, is no obstacle: the narrower one wins.
    fn refuse_taken_subnets(&self, socket: &mut Socket, own: Option<&Link>) -> Result<(), Error> {
        let own_index = own.map(|link| link.index);
        for (taken, index) in route::connected(socket)? {
            let clash = self.subnets.nets().iter().find(|subnet| subnet.contains(&taken));
            if let (Some(subnet), true) = (clash, Some(index) != own_index) {
                let link = route::links(socket)?.into_iter().find(|link| link.index == index);
                let link = link.map_or_else(|| "unknown".into(), |link| link.name);
                return Err(Error::SubnetTaken {
                    subnet: *subnet,
                    taken,
                    link,
                });
            }
        }
        Ok(())
    }

    fn hardware_address(&self) -> HardwareAddress {
        let gateways = self.subnets.gateways();
        HardwareAddress::of(gateways[0].addr())
    }
}

/// Takes the bridge away; one that is gone is a success.
pub(super) fn remove(socket: &mut Socket, name: &LinkName) -> Result<(), Error> {
    for link in [hold_name(name.as_str()), name.as_str().to_owned()] {
        match socket.request(route::delete_link(&link)) {
            Err(error) if !error.is_no_device() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Waits until a port forwards. Before that the bridge drops what comes from it, silently.
pub(super) fn await_forwarding(socket: &mut Socket, port: &str) -> Result<(), Error> {
    let forwards = |socket: &mut Socket| match route::find_link(socket, port)? {
        Some(link) => Ok(link.forwarding),
        None => Err(Error::NotForwarding { link: port.into() }),
    };
    if forwards(socket)? {
        return Ok(());
    }
    // Subscribed before the second look, so that no change is missed in between.
    let mut events = Socket::link_events()?;
    let deadline = Instant::now() + LONGEST_WAIT;
    while !forwards(socket)? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !events.await_event(left)? {
            return Err(Error::NotForwarding { link: port.into() });
        }
    }
    Ok(())
}

fn hold_name(bridge: &str) -> String {
    format!("{bridge}-hold")
}

fn peer_name(bridge: &str) -> String {
    format!("{bridge}-peer")
}
