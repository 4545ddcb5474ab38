//! Pressure stall information (Documentation/accounting/psi.rst).

use std::path::Path;

use super::text;

/// Pressure on the three resources; `None` where the kernel does not count it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressures {
    /// Waiting for a CPU.
    pub cpu: Option<Pressure>,
    /// Waiting for memory to be reclaimed.
    pub memory: Option<Pressure>,
    /// Waiting for block devices.
    pub io: Option<Pressure>,
}

/// How much time was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one process waited.
    pub some: Stall,
    /// All of them waited.
    pub full: Stall,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// All time so far, in nanoseconds.
    pub total_ns: u64,
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
}

pub(super) fn read(directory: &Path) -> Pressures {
    let file = |name: &str| text::whole(&directory.join(name)).as_deref().and_then(parse);
    Pressures {
        cpu: file("cpu.pressure"),
        memory: file("memory.pressure"),
        io: file("io.pressure"),
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`, which older kernels lack for the CPU.
pub(super) fn parse(text: &str) -> Option<Pressure> {
    let line = |kind: &str| text.lines().find_map(|line| line.strip_prefix(kind)).map(stall);
    Some(Pressure {
        some: line("some ")?,
        full: line("full ").unwrap_or_default(),
    })
}

fn stall(line: &str) -> Stall {
    let mut stall = Stall::default();
    for (key, value) in line.split_whitespace().filter_map(|word| word.split_once('=')) {
        let average = || value.parse().unwrap_or_default();
        match key {
            "avg10" => stall.avg10 = average(),
            "avg60" => stall.avg60 = average(),
            "avg300" => stall.avg300 = average(),
            // The kernel counts microseconds.
            "total" => stall.total_ns = value.parse::<u64>().unwrap_or_default().saturating_mul(1000),
            _ => {}
        }
    }
    stall
}
