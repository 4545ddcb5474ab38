//! What a filter answers: an action of a profile as the kernel's `SECCOMP_RET_*` value.

use oci_spec::runtime::LinuxSeccompAction;

use super::error::{Place, SeccompError};

/// EPERM, which `SCMP_ACT_ERRNO` and `SCMP_ACT_TRACE` give when a profile names no other (OCI runtime spec).
const DEFAULT_ERRNO: u32 = libc::EPERM as u32;
/// The kernel caps what a filter returns as errno at this (`MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;
/// The message of `SECCOMP_RET_TRACE` has 16 bits.
const MAX_TRACE: u32 = 0xffff;

/// A return value of a filter (linux/seccomp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Verdict(u32);

impl Verdict {
    pub(super) const KILL_PROCESS: Self = Self(libc::SECCOMP_RET_KILL_PROCESS);
    /// The answer of a kernel that does not have the call.
    pub(super) const NO_SUCH_CALL: Self = Self::errno(libc::ENOSYS as u32);

    const fn errno(errno: u32) -> Self {
        Self(libc::SECCOMP_RET_ERRNO | errno)
    }

    /// Refuses what the kernel would take for something else: an errno is or-ed into the value, so that one that is too
    /// large would turn into another action, at worst into permission.
    pub(super) fn new(
        action: LinuxSeccompAction,
        errno: Option<u32>,
        place: impl Fn() -> Place,
    ) -> Result<Self, SeccompError> {
        use LinuxSeccompAction as Action;
        let within = |max: u32| match errno.unwrap_or(DEFAULT_ERRNO) {
            errno if errno <= max => Ok(errno),
            errno => Err(SeccompError::ErrnoOutOfRange {
                place: place(),
                errno,
                max,
            }),
        };
        let fixed = match action {
            Action::ScmpActErrno => return Ok(Self::errno(within(MAX_ERRNO)?)),
            Action::ScmpActTrace => return Ok(Self(libc::SECCOMP_RET_TRACE | within(MAX_TRACE)?)),
            Action::ScmpActNotify => {
                return Err(SeccompError::NotifyUnsupported { place: place() });
            }
            Action::ScmpActKill | Action::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
            Action::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Action::ScmpActTrap => libc::SECCOMP_RET_TRAP,
            Action::ScmpActLog => libc::SECCOMP_RET_LOG,
            Action::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        };
        match errno {
            None => Ok(Self(fixed)),
            Some(_) => Err(SeccompError::ErrnoUnused {
                place: place(),
                action,
            }),
        }
    }

    pub(super) fn value(self) -> u32 {
        self.0
    }

    /// Whether the call may happen nevertheless: a tracer decides for itself about calls that it does not know.
    pub(super) fn is_permissive(self) -> bool {
        matches!(
            self.0 & libc::SECCOMP_RET_ACTION_FULL,
            libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG | libc::SECCOMP_RET_TRACE
        )
    }
}
