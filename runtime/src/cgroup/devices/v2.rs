//! v2: a program that the kernel asks at every open and mknod (`BPF_PROG_TYPE_CGROUP_DEVICE`).
//!
//! ```text
//!   r2 = what is asked: access << 16 | type      r4 = major      r5 = minor
//!   for each rule, the last first:   about something else? next    else: answer, exit
//!   answer for all others, exit
//! ```
//! An allowing rule must cover all of what is asked, a denying one any of it. The program lives as long as the cgroup it
//! is attached to. A second one replaces the first in one step: at no time is the cgroup without.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::{Access, Kind, Policy, Rule};
use crate::cgroup::CgroupError;
use crate::sys::bpf::{self, Instruction};

/// `BPF_DEVCG_DEV_*`.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
/// `BPF_DEVCG_ACC_*`.
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// Enforces a policy in a cgroup.
pub(in crate::cgroup) fn attach(cgroup: &Path, policy: &Policy) -> Result<(), CgroupError> {
    let failed = |step: &'static str| {
        move |source: std::io::Error| CgroupError::Devices {
            step,
            path: cgroup.into(),
            source,
        }
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        rustix::fs::open(cgroup, flags, Mode::empty()).map_err(|errno| failed("open")(errno.into()))?;
    let program = bpf::load_device_program(&program(policy)).map_err(failed("load the device program of"))?;
    replace(directory.as_fd(), program.as_fd()).map_err(failed("attach a device program to"))
}

/// What others attached (a service manager, say) stays: the kernel allows what all programs allow.
fn replace(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> std::io::Result<()> {
    for id in bpf::device_programs(cgroup)? {
        // One that vanishes meanwhile needs no replacing.
        let Ok(other) = bpf::program_by_id(id) else {
            continue;
        };
        if bpf::is_ours(other.as_fd())? {
            return bpf::attach_device_program(cgroup, program, Some(other.as_fd()));
        }
    }
    bpf::attach_device_program(cgroup, program, None)
}

/// The program of a policy.
fn program(policy: &Policy) -> Vec<Instruction> {
    let mut program = vec![
        // r2 = type, r3 = access: the two halves of the first word.
        Instruction::load_word(2, 1, 0),
        Instruction::copy(3, 2),
        Instruction::shift_right(3, 16),
        Instruction::and(2, 0xffff),
        Instruction::load_word(4, 1, 4),
        Instruction::load_word(5, 1, 8),
    ];
    for rule in policy.rules.iter().rev() {
        program.extend(block(rule));
    }
    program.extend(answer(policy.otherwise));
    program
}

fn answer(allow: bool) -> [Instruction; 2] {
    [Instruction::set(0, i32::from(allow)), Instruction::exit()]
}

/// The instructions of one rule; jumps lead behind them.
fn block(rule: &Rule) -> Vec<Instruction> {
    let mut conditions: Vec<Vec<Instruction>> = Vec::new();
    let kind = match rule.kind {
        Kind::Any => None,
        Kind::Character => Some(CHARACTER),
        Kind::Block => Some(BLOCK),
    };
    conditions.extend(kind.map(|kind| vec![Instruction::jump_unless_equal(2, kind)]));
    let asked = mask(rule.access);
    if asked != MAKE | READ | WRITE {
        conditions.push(vec![
            Instruction::copy(1, 3),
            // Allowing: nothing may be asked beyond the mask. Denying: something of the mask must be asked.
            Instruction::and(1, if rule.allow { !asked } else { asked }),
            if rule.allow {
                Instruction::jump_unless_equal(1, 0)
            } else {
                Instruction::jump_if_equal(1, 0)
            },
        ]);
    }
    for (register, number) in [(4, rule.major), (5, rule.minor)] {
        // Numbers have 12 and 20 bits; one beyond that matches nothing anyway.
        let number = number.map(|number| i32::try_from(number).unwrap_or(-1));
        conditions.extend(number.map(|number| vec![Instruction::jump_unless_equal(register, number)]));
    }
    let mut block: Vec<_> = conditions.into_iter().flatten().collect();
    block.extend(answer(rule.allow));
    let length = block.len();
    for (index, instruction) in block.iter_mut().enumerate() {
        instruction.jump_over(length - index - 1);
    }
    block
}

fn mask(access: Access) -> i32 {
    let bit = |set: bool, bit: i32| if set { bit } else { 0 };
    bit(access.make, MAKE) | bit(access.read, READ) | bit(access.write, WRITE)
}
