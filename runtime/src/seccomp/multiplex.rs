//! The two calls of i386 that stand for many others: `socketcall` and `ipc`.
//!
//! A program reaches `socket` also as `socketcall(1, …)`. A rule without conditions for a call is therefore one for its
//! second entrance too; else denying `socket` would deny nothing to 32-bit programs. The call's own arguments are behind
//! a pointer there, out of a filter's sight: rules that look at them do not reach the second entrance, and once one of
//! them has denied something, no later rule for the call opens it.

use super::abi::Abi;
use super::condition::Condition;

/// `SYS_*` of linux/net.h: the first argument of `socketcall`.
const SOCKETCALL: &[(&str, u64)] = &[
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

/// linux/ipc.h: the lower half of the first argument of `ipc`; the upper half is a version.
const IPC: &[(&str, u64)] = &[
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

/// The call that `name` can also be reached through, and how it is chosen there.
pub(super) fn entrance(abi: Abi, name: &str) -> Option<(u32, Condition)> {
    if abi != Abi::X86 {
        return None;
    }
    let find = |calls: &[(&str, u64)]| {
        let (_, selector) = calls.iter().find(|(call, _)| *call == name)?;
        Some(*selector)
    };
    let (outer, mask, selector) = if let Some(selector) = find(SOCKETCALL) {
        ("socketcall", u64::from(u32::MAX), selector)
    } else {
        ("ipc", 0xffff, find(IPC)?)
    };
    Some((abi.number(outer)?, Condition::masked(0, mask, selector)))
}
