//! Counters of a pod's links, read through a process that is in its network namespace.

use std::fs;

/// A link of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name in the pod.
    pub name: String,
    /// Received.
    pub received: Traffic,
    /// Sent.
    pub sent: Traffic,
}

/// One direction, cumulative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were damaged.
    pub errors: u64,
    /// Packets for which there was no room.
    pub dropped: u64,
}

/// The links of the namespace that a process is in, without the loopback. Empty when the process is gone.
pub(super) fn interfaces(pid: i32) -> Vec<Interface> {
    parse(&fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
}

/// Two lines of headings, then per link a name, a colon and sixteen numbers (proc_pid_net(5), `net/dev`).
fn parse(text: &str) -> Vec<Interface> {
    let lines = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    let links = lines.filter_map(|(name, counters)| {
        let counters: Vec<u64> = counters
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        let direction = |first: usize| {
            let numbers = counters.get(first..first + 4)?;
            Some(Traffic {
                bytes: numbers[0],
                packets: numbers[1],
                errors: numbers[2],
                dropped: numbers[3],
            })
        };
        Some(Interface {
            name: name.trim().to_owned(),
            received: direction(0)?,
            sent: direction(8)?,
        })
    });
    links.filter(|link| link.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_but_the_loopback_is_counted() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
                    lo:       1       2    0    0    0     0          0         0        1       2    0    0    0     0       0          0\n  \
                    eth0:    1226      15    3    4    0     0          0         0      746       9    5    6    0     0       0          0\n";
        let links = parse(text);
        assert_eq!(links.len(), 1);
        assert_eq!(links[0].name, "eth0");
        let received = Traffic {
            bytes: 1226,
            packets: 15,
            errors: 3,
            dropped: 4,
        };
        let sent = Traffic {
            bytes: 746,
            packets: 9,
            errors: 5,
            dropped: 6,
        };
        assert_eq!((links[0].received, links[0].sent), (received, sent));
        assert!(interfaces(0).is_empty());
    }
}
