//! `bpf(2)`, as far as programs that guard a cgroup's devices need it (`include/uapi/linux/bpf.h`).

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Others may attach programs beside ours, and below the cgroup.
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;

/// By which our programs are known; at most 15 letters.
const NAME: &[u8; 16] = b"crisp_devices\0\0\0";
/// The kernel allows 64 per cgroup.
const MOST_PROGRAMS: usize = 64;

/// One instruction of an eBPF program.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high ones.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const ALU_COPY: u8 = 0xbf;
const ALU_SET: u8 = 0xb7;
const ALU_AND: u8 = 0x57;
const ALU_SHIFT_RIGHT: u8 = 0x77;
const LOAD_WORD: u8 = 0x61;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

impl Instruction {
    const fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Self {
        Self {
            code,
            registers: source << 4 | destination,
            offset,
            immediate,
        }
    }

    /// `to = *(u32 *)(from + offset)`
    pub(crate) const fn load_word(to: u8, from: u8, offset: i16) -> Self {
        Self::new(LOAD_WORD, to, from, offset, 0)
    }

    /// `to = from`
    pub(crate) const fn copy(to: u8, from: u8) -> Self {
        Self::new(ALU_COPY, to, from, 0, 0)
    }

    /// `register = value`
    pub(crate) const fn set(register: u8, value: i32) -> Self {
        Self::new(ALU_SET, register, 0, 0, value)
    }

    /// `register &= mask`, the mask extended by its sign.
    pub(crate) const fn and(register: u8, mask: i32) -> Self {
        Self::new(ALU_AND, register, 0, 0, mask)
    }

    /// `register >>= bits`
    pub(crate) const fn shift_right(register: u8, bits: i32) -> Self {
        Self::new(ALU_SHIFT_RIGHT, register, 0, 0, bits)
    }

    /// Jumps when they are equal; whither is told by [`Instruction::jump_over`].
    pub(crate) const fn jump_if_equal(register: u8, value: i32) -> Self {
        Self::new(JUMP_IF_EQUAL, register, 0, 0, value)
    }

    /// Jumps when they differ.
    pub(crate) const fn jump_unless_equal(register: u8, value: i32) -> Self {
        Self::new(JUMP_UNLESS_EQUAL, register, 0, 0, value)
    }

    /// Ends the program; register 0 is its answer.
    pub(crate) const fn exit() -> Self {
        Self::new(EXIT, 0, 0, 0, 0)
    }

    /// Tells a jump how many instructions it skips; others are left as they are.
    pub(crate) fn jump_over(&mut self, count: usize) {
        if matches!(self.code, JUMP_IF_EQUAL | JUMP_UNLESS_EQUAL) {
            self.offset = i16::try_from(count).unwrap_or(i16::MAX);
        }
    }
}

#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
struct Query {
    target: u32,
    kind: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

#[repr(C)]
struct InfoOf {
    fd: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_length: u32,
    translated_length: u32,
    jited: u64,
    translated: u64,
    load_time: u64,
    created_by: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; 16],
}

/// Issues a command with its attributes.
///
/// # Safety
/// Addresses in the attributes must be those of live objects of the size that the command reads or writes.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<i32> {
    let length = size_of_val(attributes);
    // SAFETY: the attributes live across the call and are `length` bytes long; what they point to is as promised.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), length) };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn descriptor(number: i32) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor, so nobody else owns it. It has FD_CLOEXEC.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn address<T>(of: *const T) -> u64 {
    of as usize as u64
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

/// Loads a program that decides about devices. The kernel verifies it.
pub(crate) fn load_device_program(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attributes = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).unwrap_or(u32::MAX),
        instructions: address(program.as_ptr()),
        license: address(license.as_ptr()),
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *NAME,
    };
    // SAFETY: instructions and license live across the call, with the length given and a NUL at the end.
    unsafe { bpf(BPF_PROG_LOAD, &mut attributes) }.map(descriptor)
}

/// Attaches a program to a cgroup of the v2 hierarchy, in place of another one if told so.
pub(crate) fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attributes = Attach {
        target: number(cgroup),
        program: number(program),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI | if replaced.is_some() { BPF_F_REPLACE } else { 0 },
        replaced: replaced.map_or(0, number),
    };
    // SAFETY: the attributes hold no addresses.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attributes) }.map(drop)
}

/// The ids of the device programs that are attached to this very cgroup.
pub(crate) fn device_programs(cgroup: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MOST_PROGRAMS];
    let mut attributes = Query {
        target: number(cgroup),
        kind: BPF_CGROUP_DEVICE,
        flags: 0,
        attach_flags: 0,
        ids: address(ids.as_mut_ptr()),
        count: u32::try_from(MOST_PROGRAMS).unwrap_or_default(),
        padding: 0,
    };
    // SAFETY: `ids` lives across the call and has room for the count given.
    unsafe { bpf(BPF_PROG_QUERY, &mut attributes) }?;
    ids.truncate(attributes.count as usize);
    Ok(ids)
}

/// A program by its id.
pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = ById {
        id,
        next: 0,
        flags: 0,
    };
    // SAFETY: the attributes hold no addresses.
    unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attributes) }.map(descriptor)
}

/// Whether a program is one of [`load_device_program`].
pub(crate) fn is_ours(program: BorrowedFd<'_>) -> io::Result<bool> {
    let mut info = Info::default();
    let mut attributes = InfoOf {
        fd: number(program),
        length: u32::try_from(size_of_val(&info)).unwrap_or_default(),
        info: address(std::ptr::from_mut(&mut info)),
    };
    // SAFETY: `info` lives across the call and is as long as told; the kernel writes no more than that.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info.name == *NAME)
}
