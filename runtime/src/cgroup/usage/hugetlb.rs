//! Huge pages.

use super::Directory;

/// Huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugePageUsage {
    /// As the kernel writes it: `2MB`, `1GB`.
    pub size: String,
    /// Bytes in use.
    pub usage: u64,
    /// The most so far; v2 does not count it, there it is what is in use.
    pub peak: u64,
}

/// The sizes are known by the names of the files.
pub(super) fn read(directory: &Directory) -> Vec<HugePageUsage> {
    let suffix = if directory.v2 {
        ".current"
    } else {
        ".usage_in_bytes"
    };
    let names = std::fs::read_dir(&directory.path).into_iter().flatten().flatten();
    let mut found: Vec<_> = names
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
            // Reservations have files of their own.
            if size.contains('.') {
                return None;
            }
            let usage = directory.number(&name)?;
            let peak = directory.number(&format!("hugetlb.{size}.max_usage_in_bytes"));
            Some(HugePageUsage {
                size: size.to_owned(),
                usage,
                peak: peak.unwrap_or(usage),
            })
        })
        .collect();
    found.sort_by(|a, b| a.size.cmp(&b.size));
    found
}
