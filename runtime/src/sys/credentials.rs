//! The session keyring.

use rustix::io::Result;

use super::check;

/// `KEYCTL_JOIN_SESSION_KEYRING` of keyctl(2).
const JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Gives the process an anonymous session keyring of its own, so that it cannot see the keys of the one it inherited.
pub(crate) fn join_new_session_keyring() -> Result<()> {
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    })
    .map(drop)
}
