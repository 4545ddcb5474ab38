//! Loading a seccomp filter.

use rustix::io::{Errno, Result};

use super::check;

/// The size of `struct sock_filter` (linux/filter.h).
const INSTRUCTION: usize = size_of::<libc::sock_filter>();

/// Attaches a classic BPF program to the calling thread: seccomp(2), `SECCOMP_SET_MODE_FILTER`.
///
/// `program` is an array of `struct sock_filter`. With the flag TSYNC, EBUSY means that another thread has filters of
/// its own.
pub(crate) fn load(program: &[u8], flags: u32) -> Result<()> {
    if !program.len().is_multiple_of(INSTRUCTION) {
        return Err(Errno::INVAL);
    }
    let len = u16::try_from(program.len() / INSTRUCTION).map_err(|_| Errno::INVAL)?;
    let fprog = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `fprog` and the `len` instructions it points to outlive the call; the kernel only reads them, through
    // copy_from_user, which asks for no alignment.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER),
            libc::c_ulong::from(flags),
            &raw const fprog,
        )
    })?;
    match result {
        0 => Ok(()),
        // The id of a thread that could not be synchronised.
        _ => Err(Errno::BUSY),
    }
}
