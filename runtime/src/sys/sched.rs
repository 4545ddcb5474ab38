//! The scheduling policy.

use rustix::io::Result;

use super::check;

/// Puts the process under the default policy, whatever it inherited.
pub(crate) fn use_default_policy() -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` is a valid sched_param and outlives the call; 0 means the calling thread.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_OTHER,
            &raw const parameters,
        )
    })
    .map(drop)
}
