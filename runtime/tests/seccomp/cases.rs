//! Calls that are worth a look, and the comparison of a filter with the reference on them.

use std::collections::BTreeSet;

use oci_spec::runtime::LinuxSeccomp;
use runtime::seccomp::{Abi, Compiled, Machine, compile};

use crate::interpreter::{Call, Program};
use crate::reference::Reference;

pub(crate) const ABIS: [Abi; 5] = [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm];

/// Numbers around everything that the profile names, and around the borders of the interfaces.
pub(crate) fn numbers(profile: &LinuxSeccomp) -> BTreeSet<u32> {
    let borders = [
        0,
        102,
        117,
        471,
        472,
        1000,
        0xf_0000,
        0xf_0006,
        0x3fff_ffff,
        0x4000_0000,
        0x4000_0223,
        0x7fff_ffff,
        u32::MAX,
    ];
    let rules = profile.syscalls().iter().flatten();
    let named = rules
        .flat_map(|rule| rule.names())
        .flat_map(|name| ABIS.map(|abi| abi.number(name)))
        .flatten();
    named
        .chain(borders)
        .flat_map(|number| [number.saturating_sub(1), number, number.saturating_add(1)])
        .collect()
}

/// Values on both sides of what the profile compares with, also with the halves of a register mixed.
pub(crate) fn values(profile: &LinuxSeccomp) -> Vec<u64> {
    let rules = profile.syscalls().iter().flatten();
    let compared: BTreeSet<u64> = rules
        .flat_map(|rule| rule.args().iter().flatten())
        .flat_map(|arg| [arg.value(), arg.value_two().unwrap_or(0)])
        .collect();
    let mut values = BTreeSet::from([0, 1, u64::MAX, 1 << 32, 0xffff_ffff]);
    for value in compared {
        values.extend([
            value,
            value.wrapping_sub(1),
            value.wrapping_add(1),
            value ^ (1 << 32),
            value & 0xffff_ffff,
            value | 0xdead_beef_0000_0000,
            value.rotate_left(32),
            !value,
        ]);
    }
    values.into_iter().collect()
}

pub(crate) fn program(compiled: &Compiled) -> Program {
    Program::new(compiled.filter.program()).expect("the program is valid")
}

/// Compiles, and compares on all numbers, on all architectures, with `rounds` choices of arguments each.
pub(crate) fn compare(profile: &LinuxSeccomp, machine: Machine, rounds: usize) -> Compiled {
    let compiled = compile(profile, machine).expect("the profile compiles");
    let program = program(&compiled);
    let values = values(profile);
    let arches = ABIS.map(Abi::audit_arch).into_iter().chain([0, u32::MAX]);
    let arches: BTreeSet<u32> = arches.collect();
    let reference = Reference::new(profile, machine);
    let mut turn = 0_usize;
    for &arch in &arches {
        let judges = [false, true].map(|x32| reference.judge(arch, x32));
        for nr in numbers(profile) {
            let judge = &judges[usize::from(nr >= 0x4000_0000)];
            for _ in 0..rounds {
                turn += 1;
                // The first argument takes every value in turn, the others any.
                let pick = |index: usize| match index {
                    0 => values[turn % values.len()],
                    _ => values[(turn.wrapping_mul(0x9e37_79b9) >> (index + 3)) % values.len()],
                };
                let mut args = std::array::from_fn(pick);
                if arch == Abi::X86.audit_arch() || arch == Abi::Arm.audit_arch() {
                    args = args.map(|arg: u64| arg & 0xffff_ffff);
                }
                let call = Call { nr, arch, args };
                let (verdict, _) = program.run(&call).expect("the program ends");
                let expected = judge.verdict(&call);
                assert!(
                    verdict == expected,
                    "{machine:?} {call:x?}: filter {verdict:#x}, profile {expected:#x}"
                );
            }
        }
    }
    compiled
}
