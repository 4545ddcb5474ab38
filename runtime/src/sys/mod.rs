//! System calls without a safe wrapper elsewhere. The only module of the crate with unsafe code.
#![allow(unsafe_code)]

pub(crate) mod binary;
pub(crate) mod bpf;
pub(crate) mod clone;
pub(crate) mod credentials;
pub(crate) mod exec;
pub(crate) mod fds;
pub(crate) mod heap;
pub(crate) mod memfd;
pub(crate) mod mount;
pub(crate) mod net;
pub(crate) mod pages;
pub(crate) mod pidfd;
pub(crate) mod proc;
pub(crate) mod program;
pub(crate) mod sched;
pub(crate) mod scm;
pub(crate) mod seccomp;
pub(crate) mod signal;
pub(crate) mod spawn;

use rustix::io::Errno;

/// The result of a raw system call as rustix gives it.
fn check(result: libc::c_long) -> rustix::io::Result<libc::c_long> {
    if result == -1 {
        let errno = std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO);
        return Err(Errno::from_raw_os_error(errno));
    }
    Ok(result)
}
