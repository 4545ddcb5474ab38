//! The profile `RuntimeDefault`: what programs need, and what their capabilities are for.
//!
//! An allow-list. What is left out on purpose, because it reaches far into the kernel or out of the container: io_uring,
//! the keyrings, userfaultfd, kexec, swap, quotas, `pivot_root`, obsolete calls, and new namespaces without CAP_SYS_ADMIN.
//! x32 is not covered, so it answers ENOSYS: no program in use needs it.

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

use super::abi::Machine;
use super::allowed;

/// `CLONE_NEW*` of linux/sched.h, but CLONE_NEWTIME, which clone(2) cannot express.
const NEW_NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Arguments of type `int`: the kernel ignores the upper half of the register, so a filter must, too.
const INT: u64 = 0xffff_ffff;

/// Socket families that reach the kernel's crypto code (CVE-2026-31431) and the machine's other side.
const DENIED_FAMILIES: [u64; 2] = [libc::AF_ALG as u64, libc::AF_VSOCK as u64];

/// The first argument of `socketcall` for `socket` (`SYS_SOCKET` of linux/net.h).
const SOCKETCALL_SOCKET: u64 = 1;

/// `PER_LINUX` and `PER_LINUX32`, without and with `UNAME26`, and the question for the current value.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// How i386 programs may create sockets through `socketcall`, where a filter cannot see the family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SocketCall {
    /// Not at all (ENOSYS): a container with no other guard against AF_ALG. Programs of musl, and of all that call
    /// `socket` itself, still have network; 32-bit programs of glibc and Go have none.
    #[default]
    Denied,
    /// Freely: a container whose AppArmor or SELinux profile denies the families.
    Allowed,
}

/// The profile of containers that ask for the runtime's default, for a container with these capabilities (its bounding
/// set) on this machine.
pub fn runtime_default(
    capabilities: &Capabilities,
    machine: Machine,
    socket_call: SocketCall,
) -> LinuxSeccomp {
    let mut rules = Rules::default();
    // First, so that what other rules say of `socketcall` through its second names is already decided.
    rules.sockets(socket_call);
    for names in allowed::ALWAYS {
        rules.allow(names);
    }
    rules.allow(match machine {
        Machine::X86_64 => allowed::ON_X86,
        Machine::Aarch64 => allowed::ON_ARM,
    });
    for (capability, names) in allowed::WITH_CAPABILITY {
        if capabilities.contains(capability) {
            rules.allow(names);
        }
    }
    for value in PERSONALITIES {
        rules.allow_if("personality", equal(0, INT, value));
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        rules.allow_if("clone", equal(0, NEW_NAMESPACES, 0));
        // Its flags are behind a pointer. Programs fall back to clone.
        rules.deny("clone3", libc::ENOSYS, None);
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(libc::EPERM as u32))
        .set_architectures(Some(match machine {
            Machine::X86_64 => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86],
            Machine::Aarch64 => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        }))
        .set_syscalls(Some(rules.0));
    profile
}

/// Entries of a profile, in their order: the first that matches decides.
#[derive(Default)]
struct Rules(Vec<LinuxSyscall>);

impl Rules {
    fn sockets(&mut self, socket_call: SocketCall) {
        if socket_call == SocketCall::Denied {
            let condition = Some(equal(0, INT, SOCKETCALL_SOCKET));
            self.deny("socketcall", libc::ENOSYS, condition);
        }
        self.allow(&["socketcall"]);
        for family in DENIED_FAMILIES {
            let condition = Some(equal(0, INT, family));
            self.deny("socket", libc::EAFNOSUPPORT, condition);
        }
        self.allow(&["socket"]);
    }

    fn allow(&mut self, names: &[&str]) {
        self.push(names, LinuxSeccompAction::ScmpActAllow, None, None);
    }

    fn allow_if(&mut self, name: &str, condition: LinuxSeccompArg) {
        let action = LinuxSeccompAction::ScmpActAllow;
        self.push(&[name], action, None, Some(condition));
    }

    fn deny(&mut self, name: &str, errno: i32, condition: Option<LinuxSeccompArg>) {
        let action = LinuxSeccompAction::ScmpActErrno;
        self.push(&[name], action, Some(errno as u32), condition);
    }

    fn push(
        &mut self,
        names: &[&str],
        action: LinuxSeccompAction,
        errno: Option<u32>,
        condition: Option<LinuxSeccompArg>,
    ) {
        let mut entry = LinuxSyscall::default();
        entry
            .set_names(names.iter().map(|name| (*name).to_owned()).collect())
            .set_action(action)
            .set_errno_ret(errno)
            .set_args(condition.map(|condition| vec![condition]));
        self.0.push(entry);
    }
}

/// The bits of `mask` in an argument are those of `value`.
fn equal(argument: usize, mask: u64, value: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(argument)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .value(mask)
        .value_two(value)
        .build()
        .expect("every field has a default")
}
