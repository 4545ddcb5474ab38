//! Limits as properties of a unit, so that systemd writes the same values when it writes its own again (daemon-reload).
//!
//! They are made from the very writes to files ([`Setting`]), so that the two cannot disagree; what systemd has no
//! property for (huge pages, devices by our program) it leaves alone. systemd keeps CPU quotas as whole percents of a
//! CPU: a quota between two is rounded up, so that a reload may grant up to a hundredth of a CPU more, never less.

use super::wire::{Properties, Value};
use crate::cgroup::limits::Setting;

/// How systemd writes "no limit".
const INFINITY: u64 = u64::MAX;
/// A hundredth of a CPU, in microseconds per second.
const PERCENT: u64 = 10_000;
/// CPUs and memory nodes beyond this are on no machine; a list of them was checked where it was made.
const SET_MAX: usize = 65_536;

/// What systemd has to know of these limits.
pub(super) fn of(settings: &[Setting]) -> Properties {
    settings
        .iter()
        .flat_map(|setting| property(setting.file(), setting.value()))
        .collect()
}

fn property(file: &str, value: &str) -> Properties {
    let number = |name: &'static str| {
        amount(value)
            .map(|amount| (name, Value::Number(amount)))
            .into_iter()
            .collect()
    };
    let set = |name: &'static str| {
        mask(value)
            .map(|mask| (name, Value::Bytes(mask)))
            .into_iter()
            .collect()
    };
    match file {
        "cpu.weight" => number("CPUWeight"),
        "cpu.max" => cpu_max(value).unwrap_or_default(),
        "cpuset.cpus" => set("AllowedCPUs"),
        "cpuset.mems" => set("AllowedMemoryNodes"),
        "memory.min" => number("MemoryMin"),
        "memory.low" => number("MemoryLow"),
        "memory.high" => number("MemoryHigh"),
        "memory.max" => number("MemoryMax"),
        "memory.swap.max" => number("MemorySwapMax"),
        "pids.max" => number("TasksMax"),
        _ => Properties::new(),
    }
}

/// A number or `max`; anything else is for the kernel to refuse.
fn amount(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(INFINITY),
        number => number.parse().ok(),
    }
}

/// `QUOTA [PERIOD]` in microseconds.
fn cpu_max(text: &str) -> Option<Properties> {
    let mut words = text.split_whitespace();
    let quota = amount(words.next()?)?;
    let period: u64 = match words.next() {
        Some(period) => period.parse().ok().filter(|period| *period > 0)?,
        None => 100_000,
    };
    let per_second = match quota {
        INFINITY => INFINITY,
        quota => {
            let exact = (u128::from(quota) * 1_000_000).div_ceil(u128::from(period));
            u64::try_from(exact)
                .ok()?
                .checked_next_multiple_of(PERCENT)
                .unwrap_or(INFINITY)
        }
    };
    Some(vec![
        ("CPUQuotaPerSecUSec", Value::Number(per_second)),
        ("CPUQuotaPeriodUSec", Value::Number(period)),
    ])
}

/// A list such as `0-3,7` as bits: number N is bit N % 8 of byte N / 8.
fn mask(list: &str) -> Option<Vec<u8>> {
    let mut mask = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= SET_MAX {
            return None;
        }
        mask.resize(mask.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|number| mask[number / 8] |= 1 << (number % 8));
    }
    Some(mask)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::cgroup::Hierarchies;
    use crate::cgroup::limits::settings;

    #[test]
    fn what_is_written_is_what_systemd_is_told() {
        let v2 = Hierarchies::from_mount_table(b"1 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let resources = json!({
            "cpu": {"shares": 1024, "quota": 25_000, "period": 100_000, "cpus": "0-1,9"},
            "memory": {"limit": 1000, "swap": 1500},
            "pids": {"limit": 7},
            "unified": {"memory.high": "900"},
        });
        let settings = settings(&v2, &serde_json::from_value(resources).unwrap()).unwrap();
        let mut properties = of(&settings);
        properties.sort_by_key(|(name, _)| *name);
        let expected = [
            ("AllowedCPUs", Value::Bytes(vec![0b11, 0b10])),
            ("CPUQuotaPerSecUSec", Value::Number(250_000)),
            ("CPUQuotaPeriodUSec", Value::Number(100_000)),
            ("CPUWeight", Value::Number(100)),
            ("MemoryHigh", Value::Number(900)),
            ("MemoryMax", Value::Number(1000)),
            ("MemorySwapMax", Value::Number(500)),
            ("TasksMax", Value::Number(7)),
        ];
        assert_eq!(properties, expected);
    }

    #[test]
    fn no_limit_is_told_too() {
        assert_eq!(
            property("memory.max", "max"),
            [("MemoryMax", Value::Number(u64::MAX))]
        );
        assert_eq!(
            property("cpu.max", "max 50000")[0],
            ("CPUQuotaPerSecUSec", Value::Number(u64::MAX))
        );
    }

    #[test]
    fn what_systemd_does_not_know_it_is_not_told() {
        for (file, value) in [
            ("hugetlb.2MB.max", "0"),
            ("cpu.max", "1 0"),
            ("memory.max", "much"),
            ("cpuset.cpus", "0-99999999"),
            ("cpuset.cpus", ""),
        ] {
            assert_eq!(property(file, value), [], "{file} {value}");
        }
    }

    proptest! {
        #[test]
        fn a_quota_is_rounded_up_by_less_than_a_percent(quota in 1000u64..10_000_000_000, period in 1000u64..=1_000_000) {
            let properties = cpu_max(&format!("{quota} {period}")).unwrap();
            let (_, Value::Number(told)) = &properties[0] else { panic!() };
            let (told, exact) = (u128::from(*told) * u128::from(period), u128::from(quota) * 1_000_000);
            prop_assert!(told >= exact && told - exact < u128::from(PERCENT + 1) * u128::from(period));
        }
    }
}
