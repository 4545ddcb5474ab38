//! Block devices.

use std::collections::BTreeMap;

use super::{Directory, text};

/// I/O of a cgroup, by device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoUsage {
    /// Ordered by device number.
    pub devices: Vec<DeviceIo>,
}

/// What reached one device. Writes through the page cache count for whoever dirtied the page, on v2 only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Number of its driver.
    pub major: u32,
    /// Number of the device.
    pub minor: u32,
    /// Bytes.
    pub read_bytes: u64,
    /// Bytes.
    pub written_bytes: u64,
    /// Operations.
    pub reads: u64,
    /// Operations.
    pub writes: u64,
}

/// v1 calls the controller `blkio`, v2 `io`.
pub(super) fn read(directory: &Directory) -> Option<IoUsage> {
    let mut devices = BTreeMap::new();
    if directory.v2 {
        v2(&text::whole(&directory.file("io.stat"))?, &mut devices);
    } else {
        let bytes = text::whole(&directory.file("blkio.throttle.io_service_bytes_recursive"))?;
        let operations = text::whole(&directory.file("blkio.throttle.io_serviced_recursive"))?;
        v1(&bytes, &mut devices, |device| {
            (&mut device.read_bytes, &mut device.written_bytes)
        });
        v1(&operations, &mut devices, |device| {
            (&mut device.reads, &mut device.writes)
        });
    }
    Some(IoUsage {
        devices: devices.into_values().collect(),
    })
}

type Devices = BTreeMap<(u32, u32), DeviceIo>;

fn entry<'a>(devices: &'a mut Devices, number: &str) -> Option<&'a mut DeviceIo> {
    let (major, minor) = number.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    Some(devices.entry((major, minor)).or_insert(DeviceIo {
        major,
        minor,
        ..DeviceIo::default()
    }))
}

/// `MAJOR:MINOR Read N` and so on; the last line is a total without a device.
fn v1(text: &str, devices: &mut Devices, fields: impl Fn(&mut DeviceIo) -> (&mut u64, &mut u64)) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(number), Some(operation), Some(value)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let (Some(device), Ok(value)) = (entry(devices, number), value.parse()) else {
            continue;
        };
        let (read, written) = fields(device);
        match operation {
            "Read" => *read = value,
            "Write" => *written = value,
            _ => {}
        }
    }
}

/// `MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N …`
fn v2(text: &str, devices: &mut Devices) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(device) = words.next().and_then(|number| entry(devices, number)) else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match key {
                "rbytes" => device.read_bytes = value,
                "wbytes" => device.written_bytes = value,
                "rios" => device.reads = value,
                "wios" => device.writes = value,
                _ => {}
            }
        }
    }
}
