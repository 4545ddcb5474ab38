//! The kernel as judge: filters are loaded into a thread of their own, which then does what they forbid.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use oci_spec::runtime::{
    Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};
use runtime::seccomp::{Filter, Machine, SocketCall, compile, runtime_default};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::rules::{arg, profile, rule};

/// Runs `body` in a thread that is confined by `filter` for the rest of its life.
fn confined<T: Send>(filter: &Filter, body: impl FnOnce() -> T + Send) -> T {
    let run = || {
        rustix::thread::set_no_new_privs(true).unwrap();
        filter.load().expect("the kernel takes the filter");
        body()
    };
    thread::scope(|scope| scope.spawn(run).join().unwrap())
}

fn filter(profile: &LinuxSeccomp) -> Filter {
    compile(profile, Machine::HOST).unwrap().filter
}

fn deny(name: &str, errno: Option<u32>) -> LinuxSeccomp {
    let action = LinuxSeccompAction::ScmpActErrno;
    profile(
        LinuxSeccompAction::ScmpActAllow,
        vec![rule(&[name], action, errno, vec![])],
    )
}

#[test]
fn a_denied_call_returns_the_errno_of_its_rule() {
    let denied = confined(&filter(&deny("sethostname", Some(71))), || {
        rustix::system::sethostname(b"")
    });
    assert_eq!(denied, Err(Errno::PROTO));
}

#[test]
fn a_traced_call_without_tracer_does_not_exist() {
    let action = LinuxSeccompAction::ScmpActTrace;
    let rules = vec![rule(&["sethostname"], action, None, vec![])];
    let traced = profile(LinuxSeccompAction::ScmpActAllow, rules);
    let result = confined(&filter(&traced), || rustix::system::sethostname(b""));
    assert_eq!(result, Err(Errno::NOSYS));
}

/// What a program's end is when the call it ends with has this action.
fn end_of_program(action: LinuxSeccompAction) -> ExitStatus {
    let rules = vec![rule(&["exit_group"], action, None, vec![])];
    let profile = profile(LinuxSeccompAction::ScmpActAllow, rules);
    // No core of it: a limit of one byte is too low for a file, and the kernel's word for a program that collects cores.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Core);
    limit.current = Some(limit.maximum.map_or(1, |most| most.min(1)));
    rustix::process::setrlimit(rustix::process::Resource::Core, limit).unwrap();
    confined(&filter(&profile), || Command::new("/bin/true").status().unwrap())
}

#[test]
fn killing_actions_kill() {
    use LinuxSeccompAction as Action;
    for action in [
        Action::ScmpActKill,
        Action::ScmpActKillThread,
        Action::ScmpActKillProcess,
        Action::ScmpActTrap,
    ] {
        let status = end_of_program(action);
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{action}");
    }
    for action in [Action::ScmpActLog, Action::ScmpActAllow] {
        assert!(end_of_program(action).success(), "{action}");
    }
}

#[test]
fn the_kernel_compares_as_the_profile_says() {
    use LinuxSeccompOperator as Op;
    let big = 0x12_3456_789a_u64;
    let mask = 0xff_0000_ff00;
    let tests = [
        (Op::ScmpCmpEq, big, 0),
        (Op::ScmpCmpNe, big, 0),
        (Op::ScmpCmpLt, big, 0),
        (Op::ScmpCmpLe, big, 0),
        (Op::ScmpCmpGt, big, 0),
        (Op::ScmpCmpGe, big, 0),
        (Op::ScmpCmpMaskedEq, mask, big & mask),
    ];
    let offsets = [
        0,
        big - 1,
        big,
        big + 1,
        big & 0xffff_ffff,
        big | (1 << 40),
        big & mask,
    ];
    for (op, value, two) in tests {
        let args = vec![arg(1, op, value, two)];
        let action = LinuxSeccompAction::ScmpActErrno;
        let rules = vec![rule(&["lseek"], action, Some(71), args)];
        let profile = profile(LinuxSeccompAction::ScmpActAllow, rules);
        let results = confined(&filter(&profile), || {
            let file = File::open("/dev/zero").unwrap();
            offsets.map(|offset| rustix::fs::seek(&file, SeekFrom::Start(offset)))
        });
        for (offset, result) in offsets.into_iter().zip(results) {
            let holds = match op {
                Op::ScmpCmpEq => offset == value,
                Op::ScmpCmpNe => offset != value,
                Op::ScmpCmpLt => offset < value,
                Op::ScmpCmpLe => offset <= value,
                Op::ScmpCmpGt => offset > value,
                Op::ScmpCmpGe => offset >= value,
                Op::ScmpCmpMaskedEq => offset & value == two,
            };
            assert_eq!(result == Err(Errno::PROTO), holds, "{op} {offset:#x}: {result:?}");
        }
    }
}

#[test]
fn the_kernel_takes_the_default_profile_with_any_capabilities_and_flags() {
    use LinuxSeccompFilterFlag as Flag;
    let all: Capabilities = [Capability::SysAdmin, Capability::SysNice, Capability::Bpf].into();
    for machine in [Machine::X86_64, Machine::Aarch64] {
        for capabilities in [&Capabilities::new(), &all] {
            let mut profile = runtime_default(capabilities, machine, SocketCall::Denied);
            let load = |profile: &LinuxSeccomp| {
                let filter = compile(profile, machine).unwrap().filter;
                // On another machine's kernel every call is one of a foreign architecture: only loading is tried.
                if machine == Machine::HOST {
                    confined(&filter, || ());
                }
            };
            load(&profile);
            let flags = [
                Flag::SeccompFilterFlagLog,
                Flag::SeccompFilterFlagSpecAllow,
                Flag::SeccompFilterFlagWaitKillableRecv,
            ];
            for flags in [&flags[..0], &flags[..1], &flags[..2], &flags[..]] {
                profile.set_flags(Some(flags.to_vec()));
                load(&profile);
            }
        }
    }
}

#[test]
fn without_no_new_privs_and_the_capability_loading_fails() {
    let filter = filter(&deny("sethostname", None));
    let load = || {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective = rustix::thread::CapabilitySet::empty();
        rustix::thread::set_capabilities(None, sets).unwrap();
        filter.load()
    };
    let result = thread::scope(|scope| scope.spawn(load).join().unwrap());
    assert_eq!(result, Err(Errno::ACCESS));
}

#[test]
fn the_default_profile_denies_what_the_catalogue_names() {
    let profile = runtime_default(&Capabilities::new(), Machine::HOST, SocketCall::Denied);
    confined(&filter(&profile), || {
        let open = |family| socket(family, SockType::SeqPacket, SockFlag::empty(), None);
        assert_eq!(open(AddressFamily::Alg).err(), Some(nix::Error::EAFNOSUPPORT));
        assert_eq!(open(AddressFamily::Vsock).err(), Some(nix::Error::EAFNOSUPPORT));
        open(AddressFamily::Unix).unwrap();
        let unshare = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS);
        assert_eq!(unshare, Err(nix::Error::EPERM));
        let missing = Path::new("/nonexistent");
        let mount = rustix::mount::mount_bind(missing, missing);
        assert_eq!(mount, Err(Errno::PERM));
        // Ordinary life goes on: files, threads, programs.
        assert!(fs::read("/proc/self/status").is_ok());
        thread::spawn(|| ()).join().unwrap();
        assert!(Command::new("/bin/true").status().unwrap().success());
    });
}

/// A 32-bit program that ends with the errno of a socket of a family, made directly or through `socketcall`.
#[cfg(target_arch = "x86_64")]
fn i386_program(family: u8, through_socketcall: bool) -> Vec<u8> {
    let code: Vec<u8> = if through_socketcall {
        // push 0; push SOCK_SEQPACKET; push family; socketcall(SYS_SOCKET, esp)
        let push = [0x6a, 0, 0x6a, 5, 0x6a, family];
        let call = [0xbb, 1, 0, 0, 0, 0x89, 0xe1, 0xb8, 102, 0, 0, 0, 0xcd, 0x80];
        [&push[..], &call[..]].concat()
    } else {
        // socket(family, SOCK_SEQPACKET, 0): 359
        vec![
            0xbb, family, 0, 0, 0, 0xb9, 5, 0, 0, 0, 0x31, 0xd2, 0xb8, 0x67, 1, 0, 0, 0xcd, 0x80,
        ]
    };
    // A descriptor ends as 0: test eax, eax; js +2; xor eax, eax. Then exit(-eax).
    let exit = [
        0x85, 0xc0, 0x78, 0x02, 0x31, 0xc0, 0xf7, 0xd8, 0x89, 0xc3, 0xb8, 1, 0, 0, 0, 0xcd, 0x80,
    ];
    let code = [&code[..], &exit].concat();
    let (base, headers) = (0x0804_8000_u32, 52 + 32_u32);
    let size = headers + code.len() as u32;
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    let halves = |halves: &[u16]| -> Vec<u8> { halves.iter().flat_map(|h| h.to_le_bytes()).collect() };
    [
        b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        halves(&[2, 3]),
        words(&[1, base + headers, 52, 0, 0]),
        halves(&[52, 32, 1, 0, 0, 0]),
        words(&[1, 0, base, base, size, size, 5, 0x1000]),
        code,
    ]
    .concat()
}

#[cfg(target_arch = "x86_64")]
#[test]
fn programs_of_32_bits_do_not_get_around_it() {
    let dir = tempfile::tempdir().unwrap();
    // What is open for writing cannot be executed, and what this process has open another test's child may have for a
    // moment: so another process writes the programs.
    let write = |family, through_socketcall| -> PathBuf {
        let path = dir.path().join(format!("{family}-{through_socketcall}"));
        let code = dir.path().join("code");
        fs::write(&code, i386_program(family, through_socketcall)).unwrap();
        fs::set_permissions(&code, fs::Permissions::from_mode(0o755)).unwrap();
        let copied = Command::new("cp").args([&code, &path]).status();
        assert!(copied.unwrap().success());
        path
    };
    let [unix, alg] = [libc::AF_UNIX as u8, libc::AF_ALG as u8];
    let programs = [(unix, false), (alg, false), (unix, true), (alg, true)]
        .map(|(family, through)| write(family, through));
    let run = |program: &PathBuf| -> io::Result<Option<i32>> { Ok(Command::new(program).status()?.code()) };
    match run(&programs[0]) {
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
            println!("SKIPPED: the kernel has no 32-bit programs");
            return;
        }
        ran => assert_eq!(ran.unwrap(), Some(0)),
    }
    let ends = |socket_call| {
        let profile = runtime_default(&Capabilities::new(), Machine::HOST, socket_call);
        confined(&filter(&profile), || {
            programs.each_ref().map(|program| run(program).unwrap())
        })
    };
    let (fine, refused, absent) = (Some(0), Some(libc::EAFNOSUPPORT), Some(libc::ENOSYS));
    assert_eq!(ends(SocketCall::Denied), [fine, refused, absent, absent]);
    assert_eq!(ends(SocketCall::Allowed)[..3], [fine, refused, fine]);
}
