//! The few formats of cgroup files (Documentation/admin-guide/cgroup-v2.rst, "Interface Files").

use std::path::Path;

/// The whole file; `None` when it or its cgroup does not exist.
pub(super) fn whole(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// One number; `max` is none.
pub(super) fn number(path: &Path) -> Option<u64> {
    whole(path)?.trim().parse().ok()
}

/// "Flat keyed": a key and a number per line.
pub(super) struct Keyed(String);

impl Keyed {
    pub(super) fn read(path: &Path) -> Option<Self> {
        whole(path).map(Self)
    }

    pub(super) fn get(&self, key: &str) -> Option<u64> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
    }

    /// A counter that an older kernel may not have.
    pub(super) fn or_zero(&self, key: &str) -> u64 {
        self.get(key).unwrap_or_default()
    }
}
