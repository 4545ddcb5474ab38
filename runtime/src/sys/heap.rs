//! The C library's allocator.

/// Lets all threads share a few heaps. By default each thread gets one of its own, and keeps what it has ever held.
#[cfg(target_env = "gnu")]
pub(crate) fn share(heaps: i32) {
    // SAFETY: mallopt(3) changes a setting of the allocator, under its own lock, and touches no memory of ours.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, heaps) };
}

/// Other C libraries share already.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn share(_heaps: i32) {}
