//! Block devices, and the file system of writable layers.

use runtime::cgroup::usage::DeviceIo;

use super::Kind::{Counter, Gauge};
use super::subject::{OfContainer, device};
use super::{Family, Subject, Value};

fn io(subject: &Subject, read: fn(&DeviceIo) -> u64) -> Vec<Value> {
    let devices = subject.usage.io.iter().flat_map(|io| &io.devices);
    devices
        .map(|io| (vec![device(io.major, io.minor)], read(io)))
        .collect()
}

fn by_operation(subject: &Subject) -> Vec<Value> {
    let devices = subject.usage.io.iter().flat_map(|io| &io.devices);
    devices
        .flat_map(|io| {
            [("Read", io.read_bytes), ("Write", io.written_bytes)].map(|(operation, bytes)| {
                let (major, minor) = (io.major.to_string(), io.minor.to_string());
                let labels = vec![device(io.major, io.minor), major, minor, operation.to_owned()];
                (labels, bytes)
            })
        })
        .collect()
}

fn layer(subject: &Subject, read: fn(&OfContainer) -> u64) -> Vec<Value> {
    let container = subject.container.iter();
    container
        .map(|container| (vec![container.layers.device.clone()], read(container)))
        .collect()
}

const DEVICE: &[&str] = &["device"];

pub(super) const FAMILIES: &[Family] = &[
    Family::new(
        "container_fs_usage_bytes",
        "Bytes that the writable layer takes",
        Gauge,
        DEVICE,
        |subject| layer(subject, |container| container.layer_bytes),
    ),
    Family::new(
        "container_fs_limit_bytes",
        "Size of the file system of the writable layer, in bytes",
        Gauge,
        DEVICE,
        |subject| layer(subject, |container| container.layers.bytes),
    ),
    Family::new(
        "container_fs_inodes_total",
        "Inodes of the file system of the writable layer",
        Gauge,
        DEVICE,
        |subject| layer(subject, |container| container.layers.inodes),
    ),
    Family::new(
        "container_fs_inodes_free",
        "Free inodes of the file system of the writable layer",
        Gauge,
        DEVICE,
        |subject| layer(subject, |container| container.layers.inodes_free),
    ),
    Family::new(
        "container_fs_reads_bytes_total",
        "Bytes read from a device",
        Counter,
        DEVICE,
        |subject| io(subject, |io| io.read_bytes),
    ),
    Family::new(
        "container_fs_reads_total",
        "Reads from a device",
        Counter,
        DEVICE,
        |subject| io(subject, |io| io.reads),
    ),
    Family::new(
        "container_fs_writes_bytes_total",
        "Bytes written to a device",
        Counter,
        DEVICE,
        |subject| io(subject, |io| io.written_bytes),
    ),
    Family::new(
        "container_fs_writes_total",
        "Writes to a device",
        Counter,
        DEVICE,
        |subject| io(subject, |io| io.writes),
    ),
    Family::new(
        "container_blkio_device_usage_total",
        "Bytes read from and written to a device",
        Counter,
        &["device", "major", "minor", "operation"],
        by_operation,
    ),
];
