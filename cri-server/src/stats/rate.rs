//! CPU time per second, from two readings of a counter.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::time::{Nanos, now};

/// Two readings closer than this say more about the clock's ticks than about the load; a client that asks more often
/// gets the last rate again, and does not disturb that of others.
const SHORTEST: Duration = Duration::from_secs(1);

/// When a counter was read: taken before the read, which on a busy node may be long before its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    at: Instant,
    /// For those who are told.
    pub(super) wall: Nanos,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self {
            at: Instant::now(),
            wall: now(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    cpu_ns: u64,
    nano_cores: u64,
}

/// The last reading and the rate that it made.
#[derive(Debug, Default)]
pub(super) struct Rate(Mutex<Option<Reading>>);

impl Rate {
    /// The rate for a counter that began with zero at `started`. Before there are two readings, that is the first.
    pub(super) fn since_start(&self, started: Nanos, read: Moment, cpu_ns: u64) -> u64 {
        let age = Duration::from_nanos(u64::try_from(read.wall - started).unwrap_or_default());
        self.next(read.at, cpu_ns, || per_second(cpu_ns, age))
    }

    /// The rate for a counter of which nothing is known; `first` until there are two readings.
    pub(super) fn since_last(&self, read: Moment, cpu_ns: u64, first: u64) -> u64 {
        self.next(read.at, cpu_ns, || first)
    }

    fn next(&self, at: Instant, cpu_ns: u64, first: impl FnOnce() -> u64) -> u64 {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let nano_cores = match *last {
            None => first(),
            Some(last) => {
                let elapsed = at.saturating_duration_since(last.at);
                if elapsed < SHORTEST {
                    return last.nano_cores;
                }
                // A sum over containers falls when one of them ends.
                per_second(cpu_ns.saturating_sub(last.cpu_ns), elapsed)
            }
        };
        *last = Some(Reading {
            at,
            cpu_ns,
            nano_cores,
        });
        nano_cores
    }
}

fn per_second(cpu_ns: u64, elapsed: Duration) -> u64 {
    let rate = u128::from(cpu_ns) * 1_000_000_000 / elapsed.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_rate_is_that_between_two_readings() {
        let rate = Rate::default();
        let start = Instant::now();
        let read = |after: u64, cpu_ns: u64| rate.next(start + Duration::from_millis(after), cpu_ns, || 7);
        assert_eq!(read(0, SECOND), 7);
        assert_eq!(read(10_000, 6 * SECOND), SECOND / 2);
        assert_eq!(read(10_400, 99 * SECOND), SECOND / 2, "too soon to tell");
        assert_eq!(
            read(12_000, 10 * SECOND),
            2 * SECOND,
            "from the reading that counted"
        );
        assert_eq!(read(14_000, 0), 0, "a container of the sum has ended");
    }

    #[test]
    fn the_first_rate_is_that_since_the_start() {
        let read = |wall| Moment {
            at: Instant::now(),
            wall,
        };
        let rate = Rate::default();
        assert_eq!(rate.since_start(0, read(4_000_000_000), SECOND), SECOND / 4);
        let skewed = Rate::default();
        assert_eq!(skewed.since_start(10, read(5), 0), 0, "the clock went back");
    }
}
