//! A pod's links.

use super::Kind::Counter;
use super::{Family, Subject, Value};
use crate::stats::Interface;

fn links(subject: &Subject, read: fn(&Interface) -> u64) -> Vec<Value> {
    let links = subject.links.iter();
    links.map(|link| (vec![link.name.clone()], read(link))).collect()
}

const fn family(name: &'static str, help: &'static str, read: fn(&Subject) -> Vec<Value>) -> Family {
    Family::new(name, help, Counter, &["interface"], read)
}

pub(super) const FAMILIES: &[Family] = &[
    family(
        "container_network_receive_bytes_total",
        "Bytes received",
        |subject| links(subject, |link| link.received.bytes),
    ),
    family(
        "container_network_receive_packets_total",
        "Packets received",
        |subject| links(subject, |link| link.received.packets),
    ),
    family(
        "container_network_receive_packets_dropped_total",
        "Packets received for which there was no room",
        |subject| links(subject, |link| link.received.dropped),
    ),
    family(
        "container_network_receive_errors_total",
        "Packets that were received damaged",
        |subject| links(subject, |link| link.received.errors),
    ),
    family(
        "container_network_transmit_bytes_total",
        "Bytes sent",
        |subject| links(subject, |link| link.sent.bytes),
    ),
    family(
        "container_network_transmit_packets_total",
        "Packets sent",
        |subject| links(subject, |link| link.sent.packets),
    ),
    family(
        "container_network_transmit_packets_dropped_total",
        "Packets that were to be sent and for which there was no room",
        |subject| links(subject, |link| link.sent.dropped),
    ),
    family(
        "container_network_transmit_errors_total",
        "Packets that could not be sent",
        |subject| links(subject, |link| link.sent.errors),
    ),
];
