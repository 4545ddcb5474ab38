//! What travels to the child: a compiled program and how to load it.

use std::fmt;

use minicbor::{Decode, Encode};
use oci_spec::runtime::LinuxSeccompFilterFlag;

use super::bpf::Program;
use crate::sys;

/// A program for seccomp(2), ready to load.
///
/// Loading needs `no_new_privs` or CAP_SYS_ADMIN. With `no_new_privs` it can be the last call before `execve`; without, it
/// must come before capabilities are dropped, and the filter then applies to all that follows it.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Filter {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    program: Vec<u8>,
    #[n(1)]
    flags: Flags,
}

/// Flags of `SECCOMP_SET_MODE_FILTER` (linux/seccomp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub(super) struct Flags(#[n(0)] u32);

impl Filter {
    pub(super) fn new(program: Program, flags: Flags) -> Self {
        Self {
            program: program.0,
            flags,
        }
    }

    /// The program: an array of `struct sock_filter`, 8 bytes each, in the machine's byte order.
    pub fn program(&self) -> &[u8] {
        &self.program
    }

    /// The flags for seccomp(2).
    pub fn flags(&self) -> u32 {
        self.flags.0
    }

    /// The number of instructions.
    pub fn instructions(&self) -> usize {
        self.program.len() / 8
    }

    /// Confines the calling thread, and what it will clone and execute, from now on and for ever.
    ///
    /// # Errors
    /// EACCES without `no_new_privs` and CAP_SYS_ADMIN, EINVAL for a program that the kernel refuses, ENOMEM beyond the
    /// total of 32768 instructions in all filters of a thread.
    pub fn load(&self) -> rustix::io::Result<()> {
        sys::seccomp::load(&self.program, self.flags.0)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("instructions", &self.instructions())
            .field("flags", &self.flags.0)
            .finish()
    }
}

impl Flags {
    /// Without a list, speculation stays as it is for unconfined processes, which is what the kernel itself does since
    /// 5.16 and what other runtimes do: the mitigation costs far more than the filter.
    pub(super) fn new(flags: Option<&[LinuxSeccompFilterFlag]>) -> Self {
        let Some(flags) = flags else {
            return Self(bits(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW));
        };
        let value = |flag: &LinuxSeccompFilterFlag| match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => bits(libc::SECCOMP_FILTER_FLAG_TSYNC),
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => bits(libc::SECCOMP_FILTER_FLAG_LOG),
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => bits(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
            // It is about how notifications are waited for, and the kernel refuses it where there can be none.
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
        };
        Self(flags.iter().map(value).fold(0, |all, flag| all | flag))
    }
}

fn bits(flag: libc::c_ulong) -> u32 {
    flag as u32
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxSeccomp;

    use super::*;
    use crate::seccomp::{Machine, compile};

    #[test]
    fn a_filter_survives_the_way_to_the_child() {
        let filter = compile(&LinuxSeccomp::default(), Machine::X86_64).unwrap().filter;
        let bytes = minicbor::to_vec(&filter).unwrap();
        assert_eq!(minicbor::decode::<Filter>(&bytes).unwrap(), filter);
    }

    #[test]
    fn flags_are_those_of_the_kernel() {
        use LinuxSeccompFilterFlag as Flag;
        let flags = [
            Flag::SeccompFilterFlagTsync,
            Flag::SeccompFilterFlagLog,
            Flag::SeccompFilterFlagSpecAllow,
            Flag::SeccompFilterFlagWaitKillableRecv,
        ];
        assert_eq!(Flags::new(Some(&flags)), Flags(0b0111));
        assert_eq!(Flags::new(Some(&[])), Flags(0));
        assert_eq!(Flags::new(None), Flags(0b0100));
    }
}
