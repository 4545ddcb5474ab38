//! Address leases: which slot of the subnets belongs to which pod.
//!
//! A slot is a number; slot `n` is the n-th address of each subnet, so one lease gives a dual-stack pod both
//! of its addresses. Slots are handed out round-robin: an address just freed is the last to be used again.
//!
//! A lease is given back in two steps. *Draining* means the pod is gone but its host link may still exist, as
//! the kernel deletes namespaces in its own time; only when the link has vanished is the slot free. Were it
//! handed out earlier, two links could answer for one address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::Error;
use crate::names::PodId;

/// No node runs more pods than this; a /64 has more addresses than a slot number needs.
const MOST_SLOTS: u32 = 1 << 20;
/// Slot 0 is the network's own address, slot 1 the gateway.
const FIRST_SLOT: u32 = 2;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HardwareAddress(pub(crate) [u8; 6]);

impl HardwareAddress {
    /// Derived from the IP address, so that a neighbour's cache stays true when an address changes hands.
    ///
    /// `0a:58` is a locally administered prefix that other CNI plugins use for the same purpose.
    pub(crate) fn of(address: IpAddr) -> Self {
        let low = match address {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(address) => {
                let [.., a, b, c, d] = address.octets();
                [a, b, c, d]
            }
        };
        HardwareAddress([0x0a, 0x58, low[0], low[1], low[2], low[3]])
    }

    /// The IPv6 link-local address that belongs to it (RFC 4291, appendix A).
    pub(crate) fn link_local(self) -> IpNet {
        let [a, b, c, d, e, f] = self.0;
        let address = Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        IpNet::V6(Ipv6Net::new_assert(address, 64))
    }
}

impl std::fmt::Display for HardwareAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// One or two subnets that addresses come from, checked: at most one per family, each with room for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnets {
    nets: Vec<IpNet>,
    slots: u32,
}

impl Default for Subnets {
    /// 10.209.0.0/16.
    fn default() -> Self {
        let net = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 209, 0, 0), 16));
        Subnets {
            slots: usable_slots(&net),
            nets: vec![net],
        }
    }
}

impl Subnets {
    /// Checks the subnets; host bits are cleared.
    ///
    /// # Errors
    /// [`Error::Subnets`] for none, two of one family, or one without room for gateway and pod.
    pub fn new(nets: &[IpNet]) -> Result<Self, Error> {
        let refuse = |problem| {
            Err(Error::Subnets {
                subnets: nets.to_vec(),
                problem,
            })
        };
        let nets_: Vec<IpNet> = nets.iter().map(IpNet::trunc).collect();
        if nets_.is_empty() {
            return refuse("at least one is needed");
        }
        let fourth = nets_.iter().filter(|net| matches!(net, IpNet::V4(_))).count();
        if fourth > 1 || nets_.len() - fourth > 1 {
            return refuse("at most one per address family");
        }
        let slots = nets_.iter().map(usable_slots).min().unwrap_or(0);
        if slots <= FIRST_SLOT {
            return refuse("too small for a gateway and one pod");
        }
        Ok(Subnets { nets: nets_, slots })
    }

    /// The subnets, in the order of the configuration.
    pub fn nets(&self) -> &[IpNet] {
        &self.nets
    }

    /// The bridge's own address in each subnet.
    pub(crate) fn gateways(&self) -> Vec<IpNet> {
        self.at(1)
    }

    pub(crate) fn has_ipv6(&self) -> bool {
        self.nets.iter().any(|net| matches!(net, IpNet::V6(_)))
    }

    fn at(&self, slot: u32) -> Vec<IpNet> {
        self.nets.iter().map(|net| address_at(net, slot)).collect()
    }

    fn slot_of(&self, address: IpAddr) -> Option<u32> {
        let net = self.nets.iter().find(|net| net.contains(&address))?;
        let distance = match (net.network(), address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => u128::from(u32::from(address) - u32::from(base)),
            (IpAddr::V6(base), IpAddr::V6(address)) => u128::from(address) - u128::from(base),
            _ => return None,
        };
        u32::try_from(distance).ok().filter(|slot| *slot < self.slots)
    }
}

/// One past the last slot that a pod can have.
fn usable_slots(net: &IpNet) -> u32 {
    let bits = net.max_prefix_len() - net.prefix_len();
    let all = if bits >= 20 { MOST_SLOTS } else { 1 << bits };
    match net {
        // The last address of an IPv4 subnet is the broadcast address.
        IpNet::V4(_) => all.saturating_sub(1),
        IpNet::V6(_) => all,
    }
}

fn address_at(net: &IpNet, slot: u32) -> IpNet {
    match net {
        IpNet::V4(net) => {
            let address = Ipv4Addr::from(u32::from(net.network()).saturating_add(slot));
            IpNet::V4(Ipv4Net::new(address, net.prefix_len()).unwrap_or(*net))
        }
        IpNet::V6(net) => {
            let address = Ipv6Addr::from(u128::from(net.network()).saturating_add(u128::from(slot)));
            IpNet::V6(Ipv6Net::new(address, net.prefix_len()).unwrap_or(*net))
        }
    }
}

/// Who has a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    /// A pod that is attached, or about to be.
    Live(PodId),
    /// A pod that is gone, whose link was still there when last looked at.
    Draining { link: String, since: Instant },
}

/// A link that outlives its pod, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Draining {
    pub(super) link: String,
    pub(super) since: Instant,
}

/// The leases of one set of subnets.
#[derive(Debug)]
pub(super) struct Pool {
    subnets: Subnets,
    held: BTreeMap<u32, Holder>,
    last: u32,
}

impl Pool {
    pub(super) fn new(subnets: Subnets) -> Self {
        Pool {
            subnets,
            held: BTreeMap::new(),
            last: FIRST_SLOT - 1,
        }
    }

    pub(super) fn subnets(&self) -> &Subnets {
        &self.subnets
    }

    /// Leases the next free slot; none when all are live or draining.
    pub(super) fn allocate(&mut self, pod: &PodId) -> Option<Vec<IpNet>> {
        let after = self.last + 1..self.subnets.slots;
        let before = FIRST_SLOT..(self.last + 1).min(self.subnets.slots);
        let slot = after.chain(before).find(|slot| !self.held.contains_key(slot))?;
        self.last = slot;
        self.held.insert(slot, Holder::Live(pod.clone()));
        Some(self.subnets.at(slot))
    }

    /// Notes a lease found in a record, as after a restart. Addresses of other subnets are not ours to track.
    pub(super) fn adopt(&mut self, pod: &PodId, addresses: &[IpNet]) {
        for slot in self.slots_of(addresses) {
            self.held.insert(slot, Holder::Live(pod.clone()));
            self.last = self.last.max(slot);
        }
    }

    /// Notes a link without a record: its addresses stay taken until it vanishes.
    pub(super) fn adopt_draining(&mut self, addresses: &[IpNet], link: &str, since: Instant) {
        for slot in self.slots_of(addresses) {
            self.held.entry(slot).or_insert_with(|| Holder::Draining {
                link: link.into(),
                since,
            });
        }
    }

    /// The pod is gone; its addresses come back when `link` has vanished.
    pub(super) fn drain(&mut self, pod: &PodId, link: &str, since: Instant) {
        for holder in self.held.values_mut() {
            if matches!(holder, Holder::Live(owner) if owner == pod) {
                *holder = Holder::Draining {
                    link: link.into(),
                    since,
                };
            }
        }
    }

    /// Frees what drains through links that `exists` no more; returns what still drains.
    pub(super) fn reap(&mut self, exists: impl Fn(&str) -> bool) -> Vec<Draining> {
        self.held.retain(|_, holder| match holder {
            Holder::Live(_) => true,
            Holder::Draining { link, .. } => exists(link),
        });
        self.draining()
    }

    pub(super) fn draining(&self) -> Vec<Draining> {
        let draining = |holder: &Holder| match holder {
            Holder::Draining { link, since } => Some(Draining {
                link: link.clone(),
                since: *since,
            }),
            Holder::Live(_) => None,
        };
        self.held.values().filter_map(draining).collect()
    }

    /// How many pods have a lease.
    pub(super) fn live(&self) -> usize {
        self.held
            .values()
            .filter(|holder| matches!(holder, Holder::Live(_)))
            .count()
    }

    fn slots_of(&self, addresses: &[IpNet]) -> Vec<u32> {
        let mut slots: Vec<u32> = addresses
            .iter()
            .filter_map(|net| self.subnets.slot_of(net.addr()))
            .collect();
        slots.dedup();
        slots
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a subnet")).collect()
    }

    fn pod(number: u32) -> PodId {
        PodId::parse(&format!("{number:064x}")).expect("an id")
    }

    #[test]
    fn a_lease_gives_the_same_slot_of_both_families() {
        let mut pool = Pool::new(Subnets::new(&nets(&["10.1.0.0/24", "fd00::/64"])).expect("subnets"));
        assert_eq!(pool.subnets().gateways(), nets(&["10.1.0.1/24", "fd00::1/64"]));
        assert_eq!(pool.allocate(&pod(1)), Some(nets(&["10.1.0.2/24", "fd00::2/64"])));
        assert_eq!(pool.allocate(&pod(2)), Some(nets(&["10.1.0.3/24", "fd00::3/64"])));
    }

    #[test]
    fn the_network_gateway_and_broadcast_addresses_are_never_leased() {
        let mut pool = Pool::new(Subnets::new(&nets(&["10.1.0.0/29"])).expect("subnets"));
        let all: Vec<String> = std::iter::from_fn(|| pool.allocate(&pod(1)))
            .map(|lease| lease[0].addr().to_string())
            .collect();
        assert_eq!(all, ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]);
    }

    #[test]
    fn subnets_without_room_or_of_one_family_are_refused() {
        for bad in [
            &[][..],
            &["10.0.0.0/31"],
            &["10.0.0.0/32"],
            &["10.0.0.0/24", "10.1.0.0/24"],
            &["fd00::/127"],
        ] {
            assert!(Subnets::new(&nets(bad)).is_err(), "{bad:?}");
        }
        assert!(Subnets::new(&nets(&["10.0.0.0/30"])).is_ok());
        assert!(Subnets::new(&nets(&["0.0.0.0/0"])).is_ok());
        assert_eq!(
            Subnets::new(&nets(&["10.209.0.0/16"])).ok(),
            Some(Subnets::default())
        );
    }

    #[test]
    fn an_address_is_free_only_when_its_link_has_vanished() {
        let mut pool = Pool::new(Subnets::new(&nets(&["10.1.0.0/30"])).expect("subnets"));
        let lease = pool.allocate(&pod(1)).expect("one slot");
        pool.drain(&pod(1), "cr1", Instant::now());
        assert_eq!(pool.allocate(&pod(2)), None);
        assert_eq!(pool.reap(|_| true).len(), 1);
        assert_eq!(pool.allocate(&pod(2)), None);
        assert!(pool.reap(|_| false).is_empty());
        assert_eq!(pool.allocate(&pod(2)), Some(lease));
    }

    #[test]
    fn an_address_just_freed_is_the_last_to_come_back() {
        let mut pool = Pool::new(Subnets::new(&nets(&["10.1.0.0/29"])).expect("subnets"));
        let first = pool.allocate(&pod(1)).expect("a slot");
        pool.drain(&pod(1), "cr1", Instant::now());
        pool.reap(|_| false);
        for number in 2..6 {
            assert_ne!(pool.allocate(&pod(number)), Some(first.clone()));
        }
        assert_eq!(pool.allocate(&pod(6)), Some(first));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Allocate(u32),
        Drain(u32),
        Reap(u32),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..24_u32).prop_map(Step::Allocate),
            2 => (0..24_u32).prop_map(Step::Drain),
            2 => (0..24_u32).prop_map(Step::Reap),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        /// Against a plain model: no address twice, free = all − live − draining, also across restarts.
        #[test]
        fn leases_follow_the_model(prefix in 27_u8..=30, steps in prop::collection::vec(step(), 1..120)) {
            let subnets = Subnets::new(&[IpNet::new("10.9.0.0".parse().unwrap(), prefix).unwrap()]).unwrap();
            let room = (1_usize << (32 - prefix)) - 3;
            let mut pool = Pool::new(subnets.clone());
            let mut live: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
            let mut draining: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Allocate(n) if live.contains_key(&n) || draining.contains_key(&n) => {}
                    Step::Allocate(n) => match pool.allocate(&pod(n)) {
                        Some(lease) => { live.insert(n, lease); }
                        None => prop_assert_eq!(live.len() + draining.len(), room),
                    },
                    Step::Drain(n) => if let Some(lease) = live.remove(&n) {
                        pool.drain(&pod(n), &n.to_string(), Instant::now());
                        draining.insert(n, lease);
                    },
                    Step::Reap(n) => {
                        draining.remove(&n);
                        let left = pool.reap(|link| link != n.to_string());
                        prop_assert_eq!(left.len(), draining.len());
                    }
                    Step::Restart => {
                        pool = Pool::new(subnets.clone());
                        live.iter().for_each(|(n, lease)| pool.adopt(&pod(*n), lease));
                        for (n, lease) in &draining {
                            pool.adopt_draining(lease, &n.to_string(), Instant::now());
                        }
                    }
                }
                let taken: Vec<&IpNet> = live.values().chain(draining.values()).flatten().collect();
                let distinct: BTreeSet<&IpNet> = taken.iter().copied().collect();
                prop_assert_eq!(taken.len(), distinct.len());
                prop_assert_eq!(pool.live(), live.len());
                prop_assert_eq!(pool.draining().len(), draining.len());
            }
        }
    }
}
