//! The default profile: by the reference, and call by call.

use oci_spec::runtime::{Capabilities, Capability};
use runtime::seccomp::{Abi, Machine, SocketCall, compile, runtime_default};

use crate::cases::{ABIS, compare, program};
use crate::interpreter::Call;
use crate::reference::{ALLOW, ENOSYS, KILL_PROCESS, errno};

const EPERM: u32 = errno(1);
const EAFNOSUPPORT: u32 = errno(97);

const MACHINES: [Machine; 2] = [Machine::X86_64, Machine::Aarch64];

fn every_set_of_interest() -> Vec<Capabilities> {
    let single = [
        Capability::DacReadSearch,
        Capability::SysAdmin,
        Capability::SysBoot,
        Capability::SysChroot,
        Capability::SysModule,
        Capability::SysNice,
        Capability::SysPacct,
        Capability::SysPtrace,
        Capability::SysRawio,
        Capability::SysTime,
        Capability::SysTtyConfig,
        Capability::Syslog,
        Capability::Bpf,
        Capability::Perfmon,
    ];
    let mut sets: Vec<Capabilities> = single.iter().map(|one| [*one].into()).collect();
    sets.push(Capabilities::new());
    sets.push(single.into());
    sets
}

#[test]
fn the_filter_answers_what_the_profile_says() {
    for machine in MACHINES {
        for capabilities in every_set_of_interest() {
            for socket_call in [SocketCall::Denied, SocketCall::Allowed] {
                let profile = runtime_default(&capabilities, machine, socket_call);
                let compiled = compare(&profile, machine, 2);
                assert_eq!(compiled.ignored.architectures, []);
            }
        }
    }
}

/// A name that is no system call anywhere would be a misspelt one.
#[test]
fn every_name_is_a_system_call() {
    for capabilities in every_set_of_interest() {
        for machine in MACHINES {
            let profile = runtime_default(&capabilities, machine, SocketCall::Denied);
            let ignored = compile(&profile, machine).unwrap().ignored;
            assert_eq!(ignored.syscalls, Vec::<String>::new());
        }
    }
}

/// The verdict on a call, through each interface of each machine that has it.
fn verdicts(capabilities: &[Capability], name: &str, args: &[u64]) -> Vec<u32> {
    let capabilities = capabilities.iter().copied().collect();
    let mut verdicts = Vec::new();
    for machine in MACHINES {
        let profile = runtime_default(&capabilities, machine, SocketCall::Denied);
        let program = program(&compile(&profile, machine).unwrap());
        let abis: &[Abi] = match machine {
            Machine::X86_64 => &[Abi::X86_64, Abi::X86],
            Machine::Aarch64 => &[Abi::Aarch64, Abi::Arm],
        };
        for abi in abis {
            if let Some(nr) = abi.number(name) {
                let arch = abi.audit_arch();
                let args = std::array::from_fn(|index| args.get(index).copied().unwrap_or(0));
                verdicts.push(program.run(&Call { nr, arch, args }).unwrap().0);
            }
        }
    }
    assert!(!verdicts.is_empty(), "{name}");
    verdicts.sort_unstable();
    verdicts.dedup();
    verdicts
}

#[test]
fn what_reaches_far_into_the_kernel_is_denied_to_everyone() {
    let denied = [
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "keyctl",
        "add_key",
        "request_key",
        "userfaultfd",
        "kexec_load",
        "kexec_file_load",
        "pivot_root",
        "swapon",
        "nfsservctl",
        "move_pages",
    ];
    for capabilities in [&[][..], &[Capability::SysAdmin, Capability::SysPtrace]] {
        for name in denied {
            assert_eq!(verdicts(capabilities, name, &[]), [EPERM], "{name}");
        }
    }
}

#[test]
fn a_capability_brings_its_calls() {
    use Capability as Cap;
    let pairs = [
        (Cap::SysAdmin, "mount"),
        (Cap::SysAdmin, "move_mount"),
        (Cap::SysAdmin, "unshare"),
        (Cap::SysAdmin, "setns"),
        (Cap::SysAdmin, "sethostname"),
        (Cap::SysAdmin, "bpf"),
        (Cap::Bpf, "bpf"),
        (Cap::Perfmon, "perf_event_open"),
        (Cap::DacReadSearch, "open_by_handle_at"),
        (Cap::SysPtrace, "pidfd_getfd"),
        (Cap::SysPtrace, "kcmp"),
        (Cap::SysModule, "finit_module"),
        (Cap::SysTime, "clock_settime"),
        (Cap::SysBoot, "reboot"),
        (Cap::SysChroot, "chroot"),
        (Cap::Syslog, "syslog"),
        (Cap::SysNice, "set_mempolicy"),
    ];
    for (capability, name) in pairs {
        assert_eq!(verdicts(&[], name, &[]), [EPERM], "{name}");
        assert_eq!(verdicts(&[capability], name, &[]), [ALLOW], "{name}");
    }
}

#[test]
fn new_namespaces_take_the_capability() {
    let thread = 0x003d_0f00;
    assert_eq!(verdicts(&[], "clone", &[thread]), [ALLOW]);
    for namespace in [
        0x2_0000,
        0x200_0000,
        0x400_0000,
        0x800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
    ] {
        assert_eq!(verdicts(&[], "clone", &[namespace | 17]), [EPERM]);
        let admin = [Capability::SysAdmin];
        assert_eq!(verdicts(&admin, "clone", &[namespace | 17]), [ALLOW]);
    }
    assert_eq!(verdicts(&[], "clone3", &[]), [ENOSYS]);
    assert_eq!(verdicts(&[Capability::SysAdmin], "clone3", &[]), [ALLOW]);
}

#[test]
fn socket_families_are_an_int() {
    let garbage = 0xffff_0000_0000_0000;
    for family in [libc::AF_ALG as u64, libc::AF_VSOCK as u64] {
        assert_eq!(verdicts(&[], "socket", &[family]), [EAFNOSUPPORT]);
        assert_eq!(verdicts(&[], "socket", &[family | garbage]), [EAFNOSUPPORT]);
        let admin = [Capability::SysAdmin];
        assert_eq!(verdicts(&admin, "socket", &[family]), [EAFNOSUPPORT]);
    }
    for family in [1, 2, 10, 16, 17, 39] {
        assert_eq!(verdicts(&[], "socket", &[family]), [ALLOW], "{family}");
    }
    assert_eq!(verdicts(&[], "socketcall", &[1]), [ENOSYS]);
    assert_eq!(verdicts(&[], "socketcall", &[3]), [ALLOW]);
}

#[test]
fn personalities_that_weaken_a_process_are_denied() {
    for value in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        assert_eq!(verdicts(&[], "personality", &[value]), [ALLOW], "{value:#x}");
    }
    // ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, MMAP_PAGE_ZERO
    for value in [0x4_0000, 0x40_0000, 0x10_0000] {
        assert_eq!(verdicts(&[], "personality", &[value]), [EPERM], "{value:#x}");
    }
}

#[test]
fn interfaces_that_are_not_covered_are_closed() {
    for machine in MACHINES {
        let profile = runtime_default(&Capabilities::new(), machine, SocketCall::Denied);
        let program = program(&compile(&profile, machine).unwrap());
        let run = |nr, arch| {
            let args = [0; 6];
            program.run(&Call { nr, arch, args }).unwrap().0
        };
        for abi in ABIS {
            let native = match machine {
                Machine::X86_64 => matches!(abi, Abi::X86_64 | Abi::X86),
                Machine::Aarch64 => matches!(abi, Abi::Aarch64 | Abi::Arm),
            };
            let read = abi.number("read").unwrap();
            let expected = match (native, abi, machine) {
                (true, ..) => ALLOW,
                (false, Abi::X32, Machine::X86_64) => ENOSYS,
                _ => KILL_PROCESS,
            };
            assert_eq!(run(read, abi.audit_arch()), expected, "{machine:?} {abi:?}");
            if native {
                assert_eq!(run(472, abi.audit_arch()), ENOSYS, "{abi:?}");
            }
        }
        assert_eq!(run(0, 0), KILL_PROCESS);
    }
}

/// What loading costs grows with the length, what a call costs with the depth.
#[test]
fn the_filter_is_short_and_shallow() {
    for machine in MACHINES {
        let profile = runtime_default(&Capabilities::new(), machine, SocketCall::Denied);
        let compiled = compile(&profile, machine).unwrap();
        let program = program(&compiled);
        let native = machine.native();
        let (mut steps, mut deepest) = (0, 0);
        for nr in 0..470 {
            let call = Call {
                nr,
                arch: native.audit_arch(),
                args: [0; 6],
            };
            let (_, count) = program.run(&call).unwrap();
            steps += count;
            deepest = deepest.max(count);
        }
        println!(
            "{machine:?}: {} instructions, {:.1} on average, at most {deepest} for one call",
            compiled.filter.instructions(),
            f64::from(steps as u32) / 470.0
        );
        assert!(compiled.filter.instructions() < 220);
        assert!(deepest < 20);
    }
}
