//! The C library's allocator.

/// Allocations from here on are mappings of their own, and go back to the kernel when they are freed.
#[cfg(target_env = "gnu")]
const LARGE: i32 = 1 << 20;

/// Lets all threads share a few heaps, and keeps large blocks out of them. By default each thread gets a heap of its own, which
/// keeps what it has ever held, and blocks count as large only beyond the largest that was ever freed.
#[cfg(target_env = "gnu")]
pub(crate) fn keep_small(heaps: i32) {
    for (setting, value) in [
        (libc::M_ARENA_MAX, heaps),
        (libc::M_MMAP_THRESHOLD, LARGE),
        (libc::M_TRIM_THRESHOLD, LARGE),
    ] {
        // SAFETY: mallopt(3) changes a setting of the allocator, under its own lock, and touches no memory of ours.
        let _ = unsafe { libc::mallopt(setting, value) };
    }
}

/// Gives free pages back to the kernel.
#[cfg(target_env = "gnu")]
pub(crate) fn trim() {
    // SAFETY: malloc_trim(3) looks for free pages under the allocator's own locks.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Other C libraries do so already.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn trim() {}

/// Other C libraries do so already.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn keep_small(_heaps: i32) {}
