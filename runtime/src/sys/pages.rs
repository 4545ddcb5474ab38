//! Memory straight from the kernel: zero, touched only when used, and returned whole.
//!
//! The allocator would serve a buffer from memory that an earlier one has touched, clear it at once, and keep it
//! afterwards: in a process that is there once per pod and idle most of the time, that is most of its size.

use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// A private anonymous mapping.
#[derive(Debug)]
pub(crate) struct Pages {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a `Pages` is the only owner of its mapping, as a `Box<[u8]>` is of its memory.
unsafe impl Send for Pages {}
// SAFETY: as above; through a shared reference the bytes can only be read.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps `length` bytes of zeroes; no memory is used before it is written to.
    ///
    /// # Panics
    /// When the kernel has no room for the mapping, as the allocator would.
    pub(crate) fn new(length: usize) -> Pages {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: no address is asked for, so the mapping replaces nothing that exists.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags) };
        let start = start.ok().and_then(|start| NonNull::new(start.cast()));
        Pages {
            start: start.expect("the kernel has memory for a buffer"),
            length,
        }
    }

    /// Gives the memory back; the bytes are zero again.
    pub(crate) fn release(&mut self) {
        // SAFETY: the range is this mapping and borrowed by nobody else; it reads as zeroes afterwards, which any byte
        // may be. A kernel that refuses leaves the bytes as they are, which is as sound.
        let _ = unsafe { madvise(self.start.as_ptr().cast(), self.length, Advice::LinuxDontNeed) };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this address and length, and no reference to it outlives its owner.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `length` readable bytes for as long as `self` lives, and `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zero_at_first_and_after_their_release() {
        let mut pages = Pages::new(70_000);
        assert_eq!(pages.len(), 70_000);
        assert!(pages.iter().all(|byte| *byte == 0));
        pages.fill(7);
        assert!(pages.iter().all(|byte| *byte == 7));
        pages.release();
        assert!(pages.iter().all(|byte| *byte == 0));
    }
}
