//! System calls that the default profile denies although the kernel would take them, each made by a program of a few
//! instructions: what it gets confined is compared with what it gets unconfined.

#![cfg(target_arch = "x86_64")]

use k8s_cri::v1::security_profile::ProfileType;
use rustix::io::Errno;
use test_e2e::harness::Server;
use test_e2e::images;
use test_e2e::layers::Layer;
use test_e2e::specs::Container;

use crate::seccomp::{init_and_exec, typed};

/// A call: its name, its number (syscalls(2), x86-64), and arguments by which the kernel itself finds fault with it, or
/// which do no harm.
type Call = (&'static str, u32, [i32; 5]);

/// CVE-2026-31431 and others came by these.
const DENIED: [Call; 12] = [
    ("socket(AF_ALG)", 41, [38, 5, 0, 0, 0]),
    ("socket(AF_VSOCK)", 41, [40, 1, 0, 0, 0]),
    ("add_key", 248, [0, 0, 0, 0, 0]),
    ("request_key", 249, [0, 0, 0, 0, 0]),
    // KEYCTL_GET_KEYRING_ID of the session.
    ("keyctl", 250, [0, -3, 0, 0, 0]),
    // Flags that do not exist: this fault is found before the lack of a capability.
    ("perf_event_open", 298, [0, 0, -1, -1, -1]),
    // An attribute larger than a page, likewise.
    ("bpf", 321, [0, 0, i32::MAX, 0, 0]),
    // UFFD_USER_MODE_ONLY, which everybody may.
    ("userfaultfd", 323, [1, 0, 0, 0, 0]),
    ("io_uring_setup", 425, [0, 0, 0, 0, 0]),
    ("io_uring_enter", 426, [0, 0, 0, 0, 0]),
    ("io_uring_register", 427, [0, 0, 0, 0, 0]),
    ("clone3", 435, [0, 0, 0, 0, 0]),
];

/// A static program that makes the calls, writes what each returned as 32 bits, and ends.
fn program(calls: &[Call]) -> Vec<u8> {
    let length = 4 * calls.len() as i32;
    // sub rsp, length; mov rbp, rsp
    let mut code = [
        &[0x48, 0x81, 0xec][..],
        &length.to_le_bytes(),
        &[0x48, 0x89, 0xe5],
    ]
    .concat();
    for (index, (_, number, arguments)) in (0i32..).zip(calls) {
        // mov rdi|rsi|rdx|r10|r8, argument
        for (register, argument) in [
            [0x48, 0xc7, 0xc7],
            [0x48, 0xc7, 0xc6],
            [0x48, 0xc7, 0xc2],
            [0x49, 0xc7, 0xc2],
            [0x49, 0xc7, 0xc0],
        ]
        .iter()
        .zip(arguments)
        {
            code.extend_from_slice(register);
            code.extend_from_slice(&argument.to_le_bytes());
        }
        // mov eax, number; syscall; mov [rbp + 4 * index], eax
        code.push(0xb8);
        code.extend_from_slice(&number.to_le_bytes());
        code.extend_from_slice(&[0x0f, 0x05, 0x89, 0x85]);
        code.extend_from_slice(&(4 * index).to_le_bytes());
    }
    // write(1, rbp, length); exit_group(0)
    code.extend_from_slice(&[0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0x48, 0x89, 0xee, 0xba]);
    code.extend_from_slice(&length.to_le_bytes());
    code.extend_from_slice(&[0x0f, 0x05, 0xb8, 231, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]);
    executable(&code)
}

/// Code as an ELF file (elf(5)) of one segment.
fn executable(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + code.len() as u64;
    let halves = |halves: &[u16]| {
        halves
            .iter()
            .flat_map(|half| half.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let words = |words: &[u64]| {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    [
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        halves(&[2, 62, 1, 0]),
        words(&[BASE + HEADERS, 64, 0]),
        halves(&[0, 0, 64, 56, 1, 64, 0, 0]),
        halves(&[1, 0, 5, 0]),
        words(&[0, BASE, BASE, size, size, 0x1000]),
        code.to_vec(),
    ]
    .concat()
}

/// What each call returned.
fn results(output: &str) -> Vec<i32> {
    output
        .split_whitespace()
        .map(|word| word.parse().unwrap_or_else(|_| panic!("{word} in {output}")))
        .collect()
}

fn refused(result: i32) -> bool {
    [Errno::PERM, Errno::NOSYS, Errno::AFNOSUPPORT]
        .iter()
        .any(|errno| -result == errno.raw_os_error())
}

#[tokio::test]
async fn doors_into_the_kernel_are_shut_by_the_default_profile() {
    let server = Server::start().await;
    let layer = Layer::new().file("calls", 0o755, program(&DENIED));
    let image = images::busybox_builder().layer(layer).build();
    let image = server.pull("calls", &image).await;
    let pod = server.run_pod("calls").await;
    let make = |name: &str, kind| {
        Container::new(name, &image)
            .shell("/calls | busybox od -A n -v -t d4")
            .secure(|security| security.seccomp = Some(typed(kind, "")))
    };
    let open = make("open", ProfileType::Unconfined);
    let open = results(&init_and_exec(&server, &pod, open).await.0);
    assert_eq!(open.len(), DENIED.len());
    // Some the kernel may refuse by itself: it lacks a protocol, or its administrator has switched something off.
    let reached = open.iter().filter(|result| !refused(**result)).count();
    assert!(reached >= 6, "the kernel takes most of them: {open:?}");
    for (name, locked) in [("plain", false), ("locked", true)] {
        let shut = make(name, ProfileType::RuntimeDefault).secure(|security| security.no_new_privs = locked);
        let (init, exec) = init_and_exec(&server, &pod, shut).await;
        for (who, output) in [("init", init), ("exec", exec)] {
            let shut = results(&output);
            assert_eq!(shut.len(), DENIED.len());
            for ((call, ..), result) in DENIED.iter().zip(shut) {
                assert!(refused(result), "{name} {who}: {call} returned {result}");
            }
        }
    }
    server.close().await;
}
