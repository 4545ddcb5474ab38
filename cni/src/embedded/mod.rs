//! The embedded network: a bridge for a machine without any CNI configuration, made over netlink, no process run.
//!
//! ```text
//!   open ──► adopt leases of records and of links without one
//!   ensure ► bridge, permanent port, gateway, forwarding, masquerade    once, and again when found missing
//!   lease ─► record (the caller's) ─► connect                           per pod, about half a millisecond
//!   open_ports ► the nftables table, replaced whole                      for pods with host ports
//!   release ► draining ─► the link has vanished ─► the address is free  nobody waits for it
//! ```
//! Invariants: an address is leased to one pod, and not again before that pod's host link is gone; what is on the
//! host can be found again without our memory, because every link names its pod and addresses in its alias.

mod bridge;
mod config;
mod expression;
mod host_port;
pub(crate) mod lease;
mod leasing;
mod message;
mod netfilter;
mod netlink;
pub(crate) mod pod_link;
mod route;
mod ruleset;
mod sysctl;

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

pub use self::config::EmbeddedConfig;

use self::bridge::{Bridge, BridgePlan};
use self::host_port::HostPorts;
use self::lease::{Pool, Subnets};
use self::netlink::Socket;
use self::pod_link::PodLink;
use self::ruleset::Ruleset;
use self::sysctl::HostNotes;
use crate::error::Error;
use crate::names::{LinkName, PodId};
use crate::netns::OneWay;
use crate::request::PortMapping;

/// A lease with all that follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) gateways: Vec<IpNet>,
    pub(crate) host_link: String,
    /// Ports of the host that lead to these addresses.
    pub(crate) ports: Vec<PortMapping>,
}

/// The embedded network of this host. All methods block; none runs on an async thread.
#[derive(Debug)]
pub(crate) struct Embedded {
    config: EmbeddedConfig,
    pool: Mutex<Pool>,
    host: Mutex<Host>,
    /// Locked last.
    ports: Mutex<HostPorts>,
}

/// The host's side of it.
#[derive(Debug)]
struct Host {
    notes: HostNotes,
    /// None until made, and again after it was found missing.
    bridge: Option<Bridge>,
    /// Gateways of former subnets that pods may still use.
    former: Vec<IpNet>,
}

impl Embedded {
    /// Reads the notes of an earlier run and adopts its leases; changes nothing on the host.
    pub(crate) fn open(
        config: EmbeddedConfig,
        data: &Path,
        records: &[(PodId, Lease)],
    ) -> Result<Self, Error> {
        config.check()?;
        let notes = HostNotes::open(data);
        let subnets = if notes.pod_cidr().is_empty() {
            config.subnets.clone()
        } else {
            Subnets::new(notes.pod_cidr())?
        };
        let current = subnets.gateways();
        let mut pool = Pool::new(subnets);
        let mut former = Vec::new();
        let mut ports = HostPorts::default();
        for (pod, lease) in records {
            if !lease.ports.is_empty() {
                ports.adopt(pod, lease.ports.clone(), &lease.addresses);
            }
            pool.adopt(pod, &lease.addresses);
            former.extend(lease.gateways.iter().filter(|gateway| !current.contains(gateway)));
        }
        former.sort();
        former.dedup();
        let embedded = Embedded {
            config,
            pool: Mutex::new(pool),
            host: Mutex::new(Host {
                notes,
                bridge: None,
                former,
            }),
            ports: Mutex::new(ports),
        };
        embedded.adopt_lingering_links()?;
        Ok(embedded)
    }

    pub(crate) fn config(&self) -> &EmbeddedConfig {
        &self.config
    }

    /// The subnets that new pods get addresses of.
    pub(crate) fn subnets(&self) -> Vec<IpNet> {
        self.pool().subnets().nets().to_vec()
    }

    /// The pod CIDR as last set, also by an earlier run; empty if never.
    pub(crate) fn pod_cidr(&self) -> Vec<IpNet> {
        self.host().notes.pod_cidr().to_vec()
    }

    /// Makes the host's side unless that was done before.
    pub(crate) fn ensure(&self) -> Result<(), Error> {
        self.ensured().map(drop)
    }

    fn ensured(&self) -> Result<Bridge, Error> {
        let mut host = self.host();
        if let Some(bridge) = &host.bridge {
            return Ok(bridge.clone());
        }
        let subnets = self.pool().subnets().clone();
        let plan = BridgePlan {
            name: &self.config.bridge,
            subnets: &subnets,
            former: host.former.clone(),
            mtu: self.config.mtu,
        };
        let bridge = plan.ensure(&mut Socket::route()?)?;
        self.install_ruleset(&self.masqueraded(&subnets, &host))?;
        host.notes.enable_forwarding(subnets.has_ipv6())?;
        host.bridge = Some(bridge.clone());
        Ok(bridge)
    }

    fn install_ruleset(&self, subnets: &[IpNet]) -> Result<(), Error> {
        let ports = self.ports();
        if !ports.is_empty() {
            sysctl::carry_loopback(self.config.bridge.as_str())?;
        }
        let ruleset = Ruleset {
            table: &self.config.table,
            bridge: self.config.bridge.as_str(),
            subnets,
            ports: &ports,
        };
        ruleset.install()
    }

    /// Reserves ports of the host for a pod; they lead nowhere yet.
    pub(crate) fn reserve_ports(&self, pod: &PodId, lease: &Lease) -> Result<(), Error> {
        self.ports().open(pod, &lease.ports, &lease.addresses)
    }

    /// Makes the ports that are reserved lead to their pods. Without any for this one it does nothing.
    pub(crate) fn open_ports(&self, lease: &Lease) -> Result<(), Error> {
        if lease.ports.is_empty() {
            return Ok(());
        }
        let host = self.host();
        let subnets = self.pool().subnets().clone();
        self.install_ruleset(&self.masqueraded(&subnets, &host))
    }

    /// Frees the ports of a pod.
    pub(crate) fn close_ports(&self, pod: &PodId) -> Result<(), Error> {
        let mut host = self.host();
        if !self.ports().close(pod) {
            return Ok(());
        }
        let subnets = self.pool().subnets().clone();
        // Without a table, taken away by others or not made since the start, nothing leads anywhere.
        if host.bridge.is_none() && !ruleset::installed(&self.config.table)? {
            return Ok(());
        }
        self.install_ruleset(&self.masqueraded(&subnets, &host))
            // The next pod may get the address that the port still leads to: first of all its attach makes the table anew.
            .inspect_err(|_| host.bridge = None)
    }

    fn masqueraded(&self, subnets: &Subnets, host: &Host) -> Vec<IpNet> {
        let mut nets = subnets.nets().to_vec();
        nets.extend(host.former.iter().map(IpNet::trunc));
        nets
    }

    /// Looks whether the host's side is still as it was made, and makes it again if not.
    pub(crate) fn verify(&self) -> Result<(), Error> {
        let known = self.host().bridge.clone();
        if let Some(known) = known {
            let found = route::find_link(&mut Socket::route()?, self.config.bridge.as_str())?;
            let bridge_stands = found.is_some_and(|link| link.index == known.index);
            if !bridge_stands || !ruleset::installed(&self.config.table)? {
                tracing::warn!(bridge = %self.config.bridge, "the embedded network was changed by others; setting it up again");
                self.host().bridge = None;
            }
        }
        self.ensure()
    }

    /// Connects the pod. The lease is kept on failure: the caller releases it.
    pub(crate) fn connect(
        &self,
        thread: OneWay,
        pod: &PodId,
        lease: &Lease,
        netns: BorrowedFd<'_>,
        if_name: &LinkName,
    ) -> Result<(), Error> {
        let bridge = self.ensured()?;
        let link = PodLink {
            pod,
            host_link: &lease.host_link,
            if_name,
            netns,
            addresses: &lease.addresses,
            gateways: &lease.gateways,
            hairpin: !lease.ports.is_empty(),
        };
        link.establish(thread, &bridge).inspect_err(|_| {
            // Someone may have taken the bridge away. The next attach looks, and makes it again.
            let found = Socket::route()
                .and_then(|mut socket| route::find_link(&mut socket, self.config.bridge.as_str()));
            if !matches!(found, Ok(Some(link)) if link.index == bridge.index) {
                self.host().bridge = None;
            }
        })
    }

    /// Deletes a link that was made in vain, and waits for it: only on the way of a failure.
    pub(crate) fn disconnect(&self, lease: &Lease) -> Result<(), Error> {
        match Socket::route()?.request(route::delete_link(&lease.host_link)) {
            Err(error) if !error.is_no_device() => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether the pod's link stands and forwards.
    pub(crate) fn check(&self, pod: &PodId, host_link: &str) -> Result<(), Error> {
        let differs = |problem: String| {
            Err(Error::Check {
                pod: pod.clone(),
                problem,
            })
        };
        match route::find_link(&mut Socket::route()?, host_link)? {
            None => differs(format!("link {host_link} is gone")),
            Some(link) if link.master != Some(self.ensured()?.index) => differs(format!(
                "link {host_link} is not on bridge {}",
                self.config.bridge
            )),
            Some(link) if !link.forwarding => differs(format!("link {host_link} does not forward")),
            Some(_) => Ok(()),
        }
    }

    /// The names of the host's links, to tell which attachments stand.
    pub(crate) fn standing_links() -> Result<Vec<String>, Error> {
        Ok(route::links(&mut Socket::route()?)?
            .into_iter()
            .map(|link| link.name)
            .collect())
    }

    /// Changes the subnets for new pods; those attached keep what they have, and their gateway.
    pub(crate) fn set_subnets(&self, subnets: Subnets, live: &[(PodId, Lease)]) -> Result<(), Error> {
        {
            let mut host = self.host();
            let mut pool = self.pool();
            if *pool.subnets() == subnets {
                return Ok(());
            }
            host.notes.set_pod_cidr(subnets.nets())?;
            let gateways = subnets.gateways();
            let mut fresh = Pool::new(subnets);
            live.iter()
                .for_each(|(pod, lease)| fresh.adopt(pod, &lease.addresses));
            host.former = live
                .iter()
                .flat_map(|(_, lease)| lease.gateways.clone())
                .collect();
            host.former.retain(|gateway| !gateways.contains(gateway));
            host.former.sort();
            host.former.dedup();
            *pool = fresh;
            if host.bridge.take().is_none() {
                return Ok(());
            }
        }
        self.adopt_lingering_links()?;
        self.ensure()
    }

    /// Takes the host's side away unless an address is leased; says whether it did. The caller has seen to it
    /// that no record is left either: leases of former subnets are known only there.
    pub(crate) fn shutdown(&self) -> Result<bool, Error> {
        let mut host = self.host();
        if self.pool().live() > 0 {
            return Ok(false);
        }
        host.bridge = None;
        ruleset::remove(&self.config.table)?;
        bridge::remove(&mut Socket::route()?, &self.config.bridge)?;
        host.notes.restore()?;
        Ok(true)
    }

    // A panic while a lock is held leaves a whole pool behind: every change is one call.
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ports(&self) -> MutexGuard<'_, HostPorts> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
