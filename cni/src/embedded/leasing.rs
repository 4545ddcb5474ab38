//! Addresses on loan: taken for a pod, drained behind it, free when its link has vanished.

use std::time::{Duration, Instant};

use super::netlink::Socket;
use super::pod_link::parse_alias;
use super::{Embedded, Lease, route};
use crate::error::Error;
use crate::names::PodId;

/// How long an attach waits for an address to be freed when all are leased but some are draining.
const LONGEST_DRAIN_WAIT: Duration = Duration::from_secs(5);
/// A link still there so long after its pod is gone has a namespace that someone holds; it is deleted.
const LINGERING: Duration = Duration::from_secs(10);

impl Embedded {
    /// Links of ours without a record: their pods were detached, their namespaces are not yet gone.
    pub(super) fn adopt_lingering_links(&self) -> Result<(), Error> {
        let links = route::links(&mut Socket::route()?)?;
        let Some(bridge) = links.iter().find(|link| link.name == self.config.bridge.as_str()) else {
            return Ok(());
        };
        let mut pool = self.pool();
        for link in links.iter().filter(|link| link.master == Some(bridge.index)) {
            if let Some((_, addresses)) = link.alias.as_deref().and_then(parse_alias) {
                pool.adopt_draining(&addresses, &link.name, Instant::now());
            }
        }
        Ok(())
    }

    /// Leases addresses for the pod. If all are taken but some drain, waits a little for those.
    pub(crate) fn lease(&self, pod: &PodId) -> Result<Lease, Error> {
        let deadline = Instant::now() + LONGEST_DRAIN_WAIT;
        let mut events = None;
        loop {
            // Counted first: what somebody else frees from here on is worth another try.
            let before = self.pool().draining().len();
            if let Some(lease) = self.lease_now(pod) {
                return Ok(lease);
            }
            // Subscribed before the links are listed, so that no change is missed in between.
            let events = match &mut events {
                Some(events) => events,
                empty => empty.insert(Socket::link_events()?),
            };
            let still = self.reap()?;
            if still < before {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if still == 0 || left.is_zero() || !events.await_event(left)? {
                return Err(Error::Exhausted {
                    subnets: self.subnets(),
                });
            }
        }
    }

    fn lease_now(&self, pod: &PodId) -> Option<Lease> {
        let mut pool = self.pool();
        let addresses = pool.allocate(pod)?;
        Some(Lease {
            addresses,
            gateways: pool.subnets().gateways(),
            host_link: pod.host_link(),
            ports: Vec::new(),
        })
    }

    /// Gives the pod's addresses back as soon as its link has vanished.
    pub(crate) fn release(&self, pod: &PodId, host_link: &str) {
        self.pool().drain(pod, host_link, Instant::now());
    }

    /// Frees the addresses whose links have vanished and deletes links that linger; says how many still drain.
    pub(crate) fn reap(&self) -> Result<usize, Error> {
        if self.pool().draining().is_empty() {
            return Ok(0);
        }
        let mut socket = Socket::route()?;
        let links = route::links(&mut socket)?;
        let draining = self
            .pool()
            .reap(|name| links.iter().any(|link| link.name == name));
        for lingering in draining
            .iter()
            .filter(|draining| draining.since.elapsed() > LINGERING)
        {
            match socket.request(route::delete_link(&lingering.link)) {
                Err(error) if !error.is_no_device() => return Err(error),
                _ => {}
            }
        }
        Ok(draining.len())
    }
}
