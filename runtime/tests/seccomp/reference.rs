//! What a profile means, read as simply as possible: rule after rule, name after name.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use runtime::seccomp::{Abi, Machine};

use crate::interpreter::Call;

pub(crate) const KILL_PROCESS: u32 = 0x8000_0000;
pub(crate) const ALLOW: u32 = 0x7fff_0000;
pub(crate) const ENOSYS: u32 = errno(38);

pub(crate) const fn errno(errno: u32) -> u32 {
    0x0005_0000 | errno
}

pub(crate) fn action(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    use LinuxSeccompAction as Action;
    match action {
        Action::ScmpActKillProcess => KILL_PROCESS,
        Action::ScmpActKill | Action::ScmpActKillThread => 0,
        Action::ScmpActTrap => 0x0003_0000,
        Action::ScmpActErrno => 0x0005_0000 + errno.unwrap_or(1),
        Action::ScmpActTrace => 0x7ff0_0000 + errno.unwrap_or(1),
        Action::ScmpActLog => 0x7ffc_0000,
        Action::ScmpActAllow => ALLOW,
        Action::ScmpActNotify => unreachable!("refused by the compiler"),
    }
}

/// A profile on a machine.
pub(crate) struct Reference<'a> {
    profile: &'a LinuxSeccomp,
    machine: Machine,
    covered: BTreeSet<Abi>,
}

/// A profile's entries as one interface sees them.
pub(crate) struct View<'a> {
    entries: Vec<Entry<'a>>,
    abi: Abi,
    highest: Option<u32>,
    default: u32,
    newer: u32,
}

/// One name of a rule.
struct Entry<'a> {
    rule: &'a LinuxSyscall,
    number: Option<u32>,
    /// `socketcall` or `ipc`, the bits of its first argument that choose, and their value.
    within: Option<(u32, u64, u64)>,
}

/// What follows from the architecture and the number's range.
pub(crate) enum Judge<'a> {
    Fixed(u32),
    Rules(View<'a>),
}

impl<'a> Reference<'a> {
    pub(crate) fn new(profile: &'a LinuxSeccomp, machine: Machine) -> Self {
        let mut covered = BTreeSet::from([machine.native()]);
        for arch in profile.architectures().iter().flatten() {
            covered.extend(machine.abi(*arch));
        }
        Self {
            profile,
            machine,
            covered,
        }
    }

    /// Who judges calls of an architecture, and whether their numbers are x32's.
    pub(crate) fn judge(&self, arch: u32, x32: bool) -> Judge<'a> {
        let x32 = x32 && arch == Abi::X32.audit_arch();
        if x32 && self.machine == Machine::X86_64 && !self.covered.contains(&Abi::X32) {
            return Judge::Fixed(ENOSYS);
        }
        let mut covered = self.covered.iter();
        match covered.find(|abi| abi.audit_arch() == arch && (**abi == Abi::X32) == x32) {
            Some(abi) => Judge::Rules(View::new(self.profile, *abi)),
            None => Judge::Fixed(KILL_PROCESS),
        }
    }
}

impl Judge<'_> {
    pub(crate) fn verdict(&self, call: &Call) -> u32 {
        match self {
            Self::Fixed(verdict) => *verdict,
            Self::Rules(view) => view.verdict(call),
        }
    }
}

impl<'a> View<'a> {
    fn new(profile: &'a LinuxSeccomp, abi: Abi) -> Self {
        let mut entries = Vec::new();
        let mut narrowed = BTreeSet::new();
        for rule in profile.syscalls().iter().flatten() {
            for name in rule.names() {
                let conditional = rule.args().as_ref().is_some_and(|args| !args.is_empty());
                let lets_pass = permits(rule.action());
                if conditional && !lets_pass {
                    narrowed.insert(name.as_str());
                }
                let closed = conditional || lets_pass && narrowed.contains(name.as_str());
                entries.push(Entry {
                    rule,
                    number: abi.number(name),
                    within: within(abi, name).filter(|_| !closed),
                });
            }
        }
        let default = action(profile.default_action(), profile.default_errno_ret());
        let public = |number: &u32| *number < 0xf_0000 || abi != Abi::Arm;
        let numbers = entries.iter().filter_map(|entry| entry.number);
        Self {
            abi,
            highest: numbers.filter(public).max(),
            default,
            newer: if permits(profile.default_action()) {
                default
            } else {
                ENOSYS
            },
            entries,
        }
    }

    fn verdict(&self, call: &Call) -> u32 {
        let mut mentioned = false;
        for Entry { rule, number, within } in &self.entries {
            if *number == Some(call.nr) {
                mentioned = true;
                if holds(rule, self.abi, call) {
                    return action(rule.action(), rule.errno_ret());
                }
            }
            if let Some((outer, mask, selector)) = *within
                && outer == call.nr
            {
                mentioned = true;
                if call.args[0] & mask == selector {
                    return action(rule.action(), rule.errno_ret());
                }
            }
        }
        match self.highest {
            Some(highest) if call.nr > highest && !mentioned => self.newer,
            _ => self.default,
        }
    }
}

fn permits(action: LinuxSeccompAction) -> bool {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActLog, ScmpActTrace};
    matches!(action, ScmpActAllow | ScmpActLog | ScmpActTrace)
}

fn holds(rule: &LinuxSyscall, abi: Abi, call: &Call) -> bool {
    let args = rule.args().as_deref().unwrap_or_default();
    let mut results = args.iter().map(|arg| compare(arg, abi, call));
    let repeated = (0..6).any(|index| args.iter().filter(|arg| arg.index() == index).count() > 1);
    if repeated {
        results.any(|holds| holds)
    } else {
        results.all(|holds| holds)
    }
}

fn compare(arg: &LinuxSeccompArg, abi: Abi, call: &Call) -> bool {
    let actual = call.args[arg.index()];
    // Negative numbers of a profile on interfaces whose arguments have 32 bits.
    let narrow = |value: u64| match value {
        0xffff_ffff_8000_0000.. if matches!(abi, Abi::X86 | Abi::Arm) => value & 0xffff_ffff,
        _ => value,
    };
    let value = narrow(arg.value());
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => actual == value,
        LinuxSeccompOperator::ScmpCmpNe => actual != value,
        LinuxSeccompOperator::ScmpCmpLt => actual < value,
        LinuxSeccompOperator::ScmpCmpLe => actual <= value,
        LinuxSeccompOperator::ScmpCmpGt => actual > value,
        LinuxSeccompOperator::ScmpCmpGe => actual >= value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => actual & arg.value() == narrow(arg.value_two().unwrap_or(0)),
    }
}

/// `socketcall` and `ipc` of i386.
fn within(abi: Abi, name: &str) -> Option<(u32, u64, u64)> {
    if abi != Abi::X86 {
        return None;
    }
    let sockets = "socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom \
                   shutdown setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg";
    if let Some(at) = sockets.split(' ').position(|socket| socket == name) {
        return Some((102, 0xffff_ffff, at as u64 + 1));
    }
    let selector = match name {
        "semop" => 1,
        "semget" => 2,
        "semctl" => 3,
        "semtimedop" => 4,
        "msgsnd" => 11,
        "msgrcv" => 12,
        "msgget" => 13,
        "msgctl" => 14,
        "shmat" => 21,
        "shmdt" => 22,
        "shmget" => 23,
        "shmctl" => 24,
        _ => return None,
    };
    Some((117, 0xffff, selector))
}
