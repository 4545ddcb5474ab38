//! Memory, swap, huge pages and what came of their shortage.

use runtime::cgroup::usage::{HugePageUsage, MemoryUsage};

use super::Kind::{Counter, Gauge};
use super::{Family, Subject, Value, one};

fn memory(subject: &Subject, read: fn(&MemoryUsage) -> u64) -> Vec<Value> {
    one(subject.usage.memory.as_ref().map(read))
}

fn huge_pages(subject: &Subject, read: fn(&HugePageUsage) -> u64) -> Vec<Value> {
    let sizes = subject.usage.hugetlb.iter();
    sizes
        .map(|pages| (vec![pages.size.clone()], read(pages)))
        .collect()
}

fn faults(subject: &Subject) -> Vec<Value> {
    let Some(memory) = &subject.usage.memory else {
        return Vec::new();
    };
    let (own, own_major) = memory.own_page_faults;
    [
        ("pgfault", "container", own),
        ("pgfault", "hierarchy", memory.page_faults),
        ("pgmajfault", "container", own_major),
        ("pgmajfault", "hierarchy", memory.major_page_faults),
    ]
    .into_iter()
    .map(|(kind, scope, count)| (vec![kind.to_owned(), scope.to_owned()], count))
    .collect()
}

const fn bytes(name: &'static str, help: &'static str, read: fn(&Subject) -> Vec<Value>) -> Family {
    Family::new(name, help, Gauge, &[], read)
}

pub(super) const FAMILIES: &[Family] = &[
    bytes(
        "container_memory_usage_bytes",
        "Memory in use, page cache included, in bytes",
        |subject| memory(subject, |memory| memory.usage),
    ),
    bytes(
        "container_memory_working_set_bytes",
        "Memory in use without inactive page cache, in bytes",
        |subject| memory(subject, MemoryUsage::working_set),
    ),
    bytes("container_memory_rss", "Anonymous memory, in bytes", |subject| {
        memory(subject, |memory| memory.anon)
    }),
    bytes("container_memory_cache", "Page cache, in bytes", |subject| {
        memory(subject, |memory| memory.file)
    }),
    bytes(
        "container_memory_mapped_file",
        "Mapped files, in bytes",
        |subject| memory(subject, |memory| memory.mapped_file),
    ),
    bytes(
        "container_memory_kernel_usage",
        "Memory that the kernel uses on behalf of the processes, in bytes",
        |subject| memory(subject, |memory| memory.kernel),
    ),
    bytes("container_memory_swap", "Swap in use, in bytes", |subject| {
        memory(subject, |memory| memory.swap.map_or(0, |swap| swap.usage))
    }),
    bytes(
        "container_memory_max_usage_bytes",
        "The most memory ever in use, in bytes",
        |subject| memory(subject, |memory| memory.peak),
    ),
    Family::new(
        "container_memory_failcnt",
        "How often the memory limit was hit",
        Counter,
        &[],
        |subject| memory(subject, |memory| memory.limit_hits),
    ),
    Family::new(
        "container_memory_failures_total",
        "Page faults, by kind and by whether cgroups below count",
        Counter,
        &["failure_type", "scope"],
        faults,
    ),
    Family::new(
        "container_oom_events_total",
        "Processes that the kernel killed for want of memory",
        Counter,
        &[],
        |subject| memory(subject, |memory| memory.oom_kills),
    ),
    Family::new(
        "container_hugetlb_usage_bytes",
        "Huge pages in use, in bytes",
        Gauge,
        &["pagesize"],
        |subject| huge_pages(subject, |pages| pages.usage),
    ),
    Family::new(
        "container_hugetlb_max_usage_bytes",
        "The most huge pages ever in use, in bytes",
        Gauge,
        &["pagesize"],
        |subject| huge_pages(subject, |pages| pages.peak),
    ),
];
