//! Rule by rule: filters of any profile answer what the profile says.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall,
};
use proptest::prelude::*;
use runtime::seccomp::{Abi, Machine, SeccompError, compile};

use crate::cases::{compare, program};
use crate::interpreter::Call;
use crate::reference::{ALLOW, ENOSYS, KILL_PROCESS, errno};

const MACHINES: [Machine; 2] = [Machine::X86_64, Machine::Aarch64];

const NAMES: &[&str] = &[
    "read",
    "write",
    "open",
    "close",
    "mmap",
    "mmap2",
    "clone",
    "clone3",
    "socket",
    "socketcall",
    "accept",
    "accept4",
    "connect",
    "ipc",
    "shmget",
    "semop",
    "personality",
    "execve",
    "ptrace",
    "set_tls",
    "cacheflush",
    "statx",
    "mseal",
    "openat2",
    "rseq_slice_yield",
    "uretprobe",
    "_llseek",
    "no_such_call",
];

pub(crate) fn arg(index: usize, op: LinuxSeccompOperator, value: u64, two: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .op(op)
        .value(value)
        .value_two(two)
        .build()
        .unwrap()
}

pub(crate) fn rule(
    names: &[&str],
    action: LinuxSeccompAction,
    errno: Option<u32>,
    args: Vec<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect())
        .set_action(action)
        .set_errno_ret(errno)
        .set_args(Some(args));
    rule
}

pub(crate) fn profile(default: LinuxSeccompAction, rules: Vec<LinuxSyscall>) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(default).set_syscalls(Some(rules));
    profile
}

fn actions() -> impl Strategy<Value = (LinuxSeccompAction, Option<u32>)> {
    use LinuxSeccompAction as Action;
    let errnos = || proptest::option::of(0_u32..=4095);
    prop_oneof![
        1 => Just((Action::ScmpActKill, None)),
        1 => Just((Action::ScmpActKillThread, None)),
        1 => Just((Action::ScmpActKillProcess, None)),
        1 => Just((Action::ScmpActTrap, None)),
        1 => Just((Action::ScmpActLog, None)),
        4 => Just((Action::ScmpActAllow, None)),
        4 => errnos().prop_map(|errno| (Action::ScmpActErrno, errno)),
        1 => errnos().prop_map(|errno| (Action::ScmpActTrace, errno)),
    ]
}

fn args() -> impl Strategy<Value = LinuxSeccompArg> {
    use LinuxSeccompOperator as Op;
    let ops = prop_oneof![
        1 => Just(Op::ScmpCmpEq),
        1 => Just(Op::ScmpCmpNe),
        1 => Just(Op::ScmpCmpLt),
        1 => Just(Op::ScmpCmpLe),
        1 => Just(Op::ScmpCmpGt),
        1 => Just(Op::ScmpCmpGe),
        3 => Just(Op::ScmpCmpMaskedEq),
    ];
    let values = || {
        prop_oneof![
            0_u64..4,
            Just(u64::MAX),
            Just(0xffff_ffff),
            Just(1 << 32),
            Just(0xffff_ffff_ffff_fff6),
            Just(0x8000_0000),
            Just(0xffff_ffff_0000_0000),
            any::<u64>(),
        ]
    };
    (0_usize..6, ops, values(), values()).prop_map(|(index, op, value, two)| {
        // A value outside its mask never matches; that is tried, but not always.
        let two = if two % 3 == 0 { two } else { two & value };
        arg(index, op, value, two)
    })
}

fn rules() -> impl Strategy<Value = LinuxSyscall> {
    (
        prop::sample::subsequence(NAMES, 1..6),
        actions(),
        prop::collection::vec(args(), 0..4),
    )
        .prop_map(|(names, (action, errno), args)| rule(&names, action, errno, args))
}

fn profiles() -> impl Strategy<Value = LinuxSeccomp> {
    let arches = [
        Arch::ScmpArchNative,
        Arch::ScmpArchX86_64,
        Arch::ScmpArchX86,
        Arch::ScmpArchX32,
        Arch::ScmpArchAarch64,
        Arch::ScmpArchArm,
        Arch::ScmpArchS390x,
    ];
    (
        actions(),
        prop::sample::subsequence(arches.to_vec(), 0..=arches.len()),
        prop::collection::vec(rules(), 0..12),
    )
        .prop_map(|((action, errno), arches, rules)| {
            let mut profile = profile(action, rules);
            profile
                .set_default_errno_ret(errno)
                .set_architectures(Some(arches));
            profile
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn filters_answer_what_profiles_say(profile in profiles(), machine in prop::sample::select(&MACHINES[..])) {
        compare(&profile, machine, 20);
    }
}

fn verdict(profile: &LinuxSeccomp, abi: Abi, nr: u32, args: [u64; 6]) -> u32 {
    let program = program(&compile(profile, Machine::X86_64).unwrap());
    let arch = abi.audit_arch();
    program.run(&Call { nr, arch, args }).unwrap().0
}

#[test]
fn the_first_rule_that_matches_decides() {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActErrno};
    let is_one = || vec![arg(0, LinuxSeccompOperator::ScmpCmpEq, 1, 0)];
    let deny_then_allow = profile(
        ScmpActErrno,
        vec![
            rule(&["close"], ScmpActErrno, Some(9), is_one()),
            rule(&["close"], ScmpActAllow, None, vec![]),
            rule(&["close"], ScmpActErrno, Some(7), vec![]),
        ],
    );
    let close = Abi::X86_64.number("close").unwrap();
    let one = [1, 0, 0, 0, 0, 0];
    assert_eq!(verdict(&deny_then_allow, Abi::X86_64, close, one), errno(9));
    assert_eq!(verdict(&deny_then_allow, Abi::X86_64, close, [0; 6]), ALLOW);
}

#[test]
fn conditions_on_one_argument_are_alternatives_and_on_several_a_conjunction() {
    use LinuxSeccompOperator::ScmpCmpEq;
    let allow_if = |args| {
        let action = LinuxSeccompAction::ScmpActAllow;
        profile(
            LinuxSeccompAction::ScmpActErrno,
            vec![rule(&["close"], action, None, args)],
        )
    };
    let close = Abi::X86_64.number("close").unwrap();
    let same = allow_if(vec![arg(0, ScmpCmpEq, 1, 0), arg(0, ScmpCmpEq, 2, 0)]);
    let several = allow_if(vec![arg(0, ScmpCmpEq, 1, 0), arg(1, ScmpCmpEq, 2, 0)]);
    for (args, of_same, of_several) in [
        ([1, 0, 0, 0, 0, 0], ALLOW, errno(1)),
        ([2, 0, 0, 0, 0, 0], ALLOW, errno(1)),
        ([1, 2, 0, 0, 0, 0], ALLOW, ALLOW),
        ([3, 2, 0, 0, 0, 0], errno(1), errno(1)),
    ] {
        assert_eq!(verdict(&same, Abi::X86_64, close, args), of_same, "{args:?}");
        assert_eq!(
            verdict(&several, Abi::X86_64, close, args),
            of_several,
            "{args:?}"
        );
    }
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActErrno, ScmpActKillProcess};
    let newest = || vec![rule(&["read", "statx"], ScmpActAllow, None, vec![])];
    let statx = Abi::X86_64.number("statx").unwrap();
    for (default, between, after) in [
        (ScmpActErrno, errno(1), ENOSYS),
        (ScmpActKillProcess, KILL_PROCESS, ENOSYS),
        (ScmpActAllow, ALLOW, ALLOW),
    ] {
        let profile = profile(default, newest());
        let verdict = |nr| verdict(&profile, Abi::X86_64, nr, [0; 6]);
        assert_eq!(verdict(statx - 1), between);
        assert_eq!(verdict(statx + 1), after);
        assert_eq!(verdict(0x3fff_ffff), after);
        // x32 is not covered, whatever the default is.
        assert_eq!(verdict(0x4000_0000), ENOSYS);
        assert_eq!(verdict(u32::MAX), ENOSYS);
    }
}

#[test]
fn denying_a_call_denies_its_second_entrance() {
    let deny = LinuxSeccompAction::ScmpActErrno;
    let mut profile = profile(
        LinuxSeccompAction::ScmpActAllow,
        vec![rule(&["socket", "shmget"], deny, None, vec![])],
    );
    profile.set_architectures(Some(vec![Arch::ScmpArchX86]));
    let verdict = |name, selector| {
        let nr = Abi::X86.number(name).unwrap();
        verdict(&profile, Abi::X86, nr, [selector, 0, 0, 0, 0, 0])
    };
    assert_eq!(verdict("socketcall", 1), errno(1));
    assert_eq!(verdict("socketcall", 2), ALLOW);
    assert_eq!(verdict("ipc", 23), errno(1));
    assert_eq!(verdict("ipc", 0x1_0017), errno(1));
    assert_eq!(verdict("ipc", 24), ALLOW);
}

#[test]
fn the_second_entrance_stays_closed_where_arguments_decide() {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActErrno};
    let is_alg = vec![arg(0, LinuxSeccompOperator::ScmpCmpEq, 38, 0)];
    let rules = vec![
        rule(&["socket"], ScmpActErrno, Some(97), is_alg),
        rule(&["socket", "bind"], ScmpActAllow, None, vec![]),
    ];
    let mut profile = profile(ScmpActErrno, rules);
    profile.set_architectures(Some(vec![Arch::ScmpArchX86]));
    let verdict = |name, first| {
        let nr = Abi::X86.number(name).unwrap();
        verdict(&profile, Abi::X86, nr, [first, 0, 0, 0, 0, 0])
    };
    assert_eq!(verdict("socket", 38), errno(97));
    assert_eq!(verdict("socket", 2), ALLOW);
    assert_eq!(verdict("socketcall", 1), errno(1));
    assert_eq!(verdict("socketcall", 2), ALLOW);
}

/// Hundreds of rules with conditions: targets beyond 255 instructions, in every direction that there is.
#[test]
fn long_programs_jump_far() {
    let names = ["read", "write", "close", "lseek", "ioctl", "mseal", "kill"];
    let rules = (0..420_u64).map(|turn| {
        let name = names[turn as usize % names.len()];
        let args = vec![arg(
            turn as usize % 6,
            LinuxSeccompOperator::ScmpCmpGt,
            turn << 30,
            0,
        )];
        rule(&[name], LinuxSeccompAction::ScmpActErrno, Some(turn as u32), args)
    });
    let mut profile = profile(LinuxSeccompAction::ScmpActAllow, rules.collect());
    profile.set_architectures(Some(vec![Arch::ScmpArchX86]));
    let compiled = compare(&profile, Machine::X86_64, 60);
    assert!(compiled.filter.instructions() > 2000);
}

#[test]
fn a_filter_that_is_too_long_is_refused() {
    let rules = (0..1500_u32).map(|turn| {
        let args = vec![arg(0, LinuxSeccompOperator::ScmpCmpEq, u64::from(turn) << 20, 0)];
        rule(
            &["read"],
            LinuxSeccompAction::ScmpActErrno,
            Some(turn % 4096),
            args,
        )
    });
    let profile = profile(LinuxSeccompAction::ScmpActAllow, rules.collect());
    let error = compile(&profile, Machine::X86_64).unwrap_err();
    assert!(
        matches!(error, SeccompError::TooLong { length, max: 4096 } if length > 4096),
        "{error}"
    );
}

#[test]
fn what_the_kernel_would_misread_is_refused() {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActErrno, ScmpActNotify};
    use LinuxSeccompOperator::ScmpCmpEq;
    let message = |default, rules| {
        let profile = profile(default, rules);
        compile(&profile, Machine::X86_64).unwrap_err().to_string()
    };
    let rules = |action, errno, args| vec![rule(&["read"], action, errno, args)];
    let cases = [
        // Or-ed into the action as it is, this errno would allow the call.
        (
            rules(ScmpActErrno, Some(0x7ffa_0000), vec![]),
            "seccomp: syscalls[0] (read): errno 2147090432 is larger than 4095",
        ),
        (
            rules(ScmpActAllow, Some(1), vec![]),
            "seccomp: syscalls[0] (read): SCMP_ACT_ALLOW takes no errnoRet",
        ),
        (
            rules(ScmpActNotify, None, vec![]),
            "seccomp: syscalls[0] (read): SCMP_ACT_NOTIFY is not supported",
        ),
        (
            rules(ScmpActAllow, None, vec![arg(6, ScmpCmpEq, 0, 0)]),
            "seccomp: syscalls[0] (read): args index 6 is larger than 5",
        ),
        (
            vec![rule(&[], ScmpActAllow, None, vec![])],
            "seccomp: syscalls[0].names is empty",
        ),
    ];
    for (rules, expected) in cases {
        assert_eq!(message(ScmpActErrno, rules), expected);
    }
    assert_eq!(
        message(ScmpActNotify, vec![]),
        "seccomp: defaultAction: SCMP_ACT_NOTIFY is not supported"
    );
}

#[test]
fn names_and_machines_that_are_not_known_are_reported() {
    let action = LinuxSeccompAction::ScmpActAllow;
    let names = ["s390_sthyi", "read", "no_such_call", "set_tls"];
    let mut profile = profile(action, vec![rule(&names, action, None, vec![])]);
    profile.set_architectures(Some(vec![Arch::ScmpArchArm, Arch::ScmpArchX86]));
    let ignored = compile(&profile, Machine::X86_64).unwrap().ignored;
    assert_eq!(ignored.syscalls, ["no_such_call", "s390_sthyi"]);
    assert_eq!(ignored.architectures, [Arch::ScmpArchArm]);
}

/// Against numbers that were found by others.
#[test]
fn numbers_are_those_of_this_machine() {
    macro_rules! check {
        ($($name:ident $number:ident),*) => {
            $(assert_eq!(
                Machine::HOST.native().number(stringify!($name)).map(i64::from),
                Some(libc::$number)
            );)*
        };
    }
    check!(
        read SYS_read, close SYS_close, socket SYS_socket, clone SYS_clone, execve SYS_execve, ptrace SYS_ptrace,
        mount SYS_mount, umount2 SYS_umount2, unshare SYS_unshare, setns SYS_setns, keyctl SYS_keyctl, bpf SYS_bpf,
        add_key SYS_add_key, request_key SYS_request_key, userfaultfd SYS_userfaultfd, io_setup SYS_io_setup,
        personality SYS_personality, perf_event_open SYS_perf_event_open, kexec_load SYS_kexec_load,
        io_uring_setup SYS_io_uring_setup, clone3 SYS_clone3, openat2 SYS_openat2, mseal SYS_mseal,
        pidfd_getfd SYS_pidfd_getfd, open_by_handle_at SYS_open_by_handle_at, seccomp SYS_seccomp
    );
}
