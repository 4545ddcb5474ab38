//! Classic BPF: instructions, and an assembler that works from the end of a program to its start.
//!
//! All jumps of classic BPF go forward. Written backwards, every target is known before the jump to it:
//!
//! ```text
//!   written  ◄──────────────────────────────────────────────────
//!   runs     ──────────────────────────────────────────────────►
//!            load arch · jeq ─► load nr · tree ─► chains ─► ret
//! ```
//!
//! A conditional jump reaches 255 instructions. Where a target is further away, the assembler puts a landing beside the
//! jump: a copy of the `ret`, or a `ja`, which has 32 bits; later jumps use the same landing while it is near.

use std::collections::HashMap;

use super::verdict::Verdict;

/// Offset of `nr` in `struct seccomp_data`.
pub(super) const NR: u32 = 0;
/// Offset of `arch` in `struct seccomp_data`.
pub(super) const ARCH: u32 = 4;

/// `BPF_LD | BPF_W | BPF_ABS`
const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`
const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`
const JUMP: u16 = 0x05;
/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;

/// The furthest target of a conditional jump for which another landing may still come between.
const REACH: usize = 254;

/// Offset of the lower half of an argument in `struct seccomp_data`. Both machines are little-endian.
pub(super) fn argument_low(index: u8) -> u32 {
    16 + 8 * u32::from(index)
}

/// Offset of the upper half of an argument.
pub(super) fn argument_high(index: u8) -> u32 {
    argument_low(index) + 4
}

/// `struct sock_filter` of linux/filter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    operand: u32,
}

impl Instruction {
    fn new(code: u16, operand: u32) -> Self {
        Self {
            code,
            if_true: 0,
            if_false: 0,
            operand,
        }
    }

    fn to_bytes(self) -> [u8; 8] {
        let [c0, c1] = self.code.to_ne_bytes();
        let [k0, k1, k2, k3] = self.operand.to_ne_bytes();
        [c0, c1, self.if_true, self.if_false, k0, k1, k2, k3]
    }
}

/// Unsigned comparisons of the accumulator with a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    Greater,
    GreaterOrEqual,
}

impl Compare {
    /// `BPF_JMP | BPF_J.. | BPF_K`
    fn code(self) -> u16 {
        match self {
            Self::Equal => 0x15,
            Self::Greater => 0x25,
            Self::GreaterOrEqual => 0x35,
        }
    }
}

/// A place in the program: how many instructions had been written before it, counted from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Label(usize);

/// Where control goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goto {
    Return(Verdict),
    At(Label),
}

/// Writes a program from its end.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    reversed: Vec<Instruction>,
    /// The latest `ret` of each verdict.
    returns: HashMap<Verdict, Label>,
    /// The latest `ja` to each label.
    jumps: HashMap<Label, Label>,
}

impl Assembler {
    /// Goes to `yes` if the accumulator compares so with `operand`, else to `no`.
    pub(super) fn branch(&mut self, compare: Compare, operand: u32, yes: Goto, no: Goto) -> Goto {
        if yes == no {
            return yes;
        }
        let no = self.landing(no);
        let yes = self.landing(yes);
        let at = self.reversed.len();
        self.push(Instruction {
            code: compare.code(),
            if_true: offset(at, yes),
            if_false: offset(at, no),
            operand,
        })
    }

    /// Loads the word at `offset` of `struct seccomp_data` into the accumulator, then goes on.
    pub(super) fn load(&mut self, offset: u32, then: Goto) -> Goto {
        self.before(Instruction::new(LOAD, offset), then)
    }

    /// Keeps the bits of `mask` in the accumulator, then goes on.
    pub(super) fn mask(&mut self, mask: u32, then: Goto) -> Goto {
        self.before(Instruction::new(AND, mask), then)
    }

    /// The program in the order in which it runs; `entry` is made its first instruction.
    pub(super) fn finish(mut self, entry: Goto) -> Program {
        self.fall_into(entry);
        let mut bytes = Vec::with_capacity(self.reversed.len() * 8);
        for instruction in self.reversed.iter().rev() {
            bytes.extend_from_slice(&instruction.to_bytes());
        }
        Program(bytes)
    }

    fn push(&mut self, instruction: Instruction) -> Goto {
        let label = Label(self.reversed.len());
        self.reversed.push(instruction);
        Goto::At(label)
    }

    fn before(&mut self, instruction: Instruction, then: Goto) -> Goto {
        self.fall_into(then);
        self.push(instruction)
    }

    /// Sees to it that what is written next continues at `to`.
    fn fall_into(&mut self, to: Goto) {
        match to {
            Goto::At(label) if label.0 + 1 == self.reversed.len() => {}
            _ => {
                self.land(to);
            }
        }
    }

    /// A label for `to` within the reach of a conditional jump that is written next.
    fn landing(&mut self, to: Goto) -> Label {
        let known = match to {
            Goto::Return(verdict) => self.returns.get(&verdict).copied(),
            Goto::At(label) if self.reaches(label) => Some(label),
            Goto::At(label) => self.jumps.get(&label).copied(),
        };
        match known {
            Some(label) if self.reaches(label) => label,
            _ => self.land(to),
        }
    }

    fn reaches(&self, label: Label) -> bool {
        self.reversed.len() - label.0 - 1 <= REACH
    }

    /// Writes a single instruction that goes to `to`.
    fn land(&mut self, to: Goto) -> Label {
        let here = Label(self.reversed.len());
        let instruction = match to {
            Goto::Return(verdict) => {
                self.returns.insert(verdict, here);
                Instruction::new(RETURN, verdict.value())
            }
            Goto::At(label) => {
                self.jumps.insert(label, here);
                let distance = here.0 - label.0 - 1;
                Instruction::new(JUMP, u32::try_from(distance).unwrap_or(u32::MAX))
            }
        };
        self.reversed.push(instruction);
        here
    }
}

/// The distance field of a conditional jump at `at`. A cut distance would be a jump to anywhere.
fn offset(at: usize, to: Label) -> u8 {
    u8::try_from(at - to.0 - 1).expect("the landing is within reach")
}

/// A finished program: `struct sock_filter` after `struct sock_filter`, in the machine's byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program(pub(super) Vec<u8>);

impl Program {
    /// The number of instructions.
    pub(super) fn len(&self) -> usize {
        self.0.len() / 8
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxSeccompAction;

    use super::*;
    use crate::seccomp::error::Place;

    fn verdict(errno: u32) -> Goto {
        let action = LinuxSeccompAction::ScmpActErrno;
        Goto::Return(Verdict::new(action, Some(errno), || Place::Default).unwrap())
    }

    /// The operand of the instruction that control reaches from `at`, through unconditional jumps.
    fn reached(program: &[u8], mut at: usize) -> u32 {
        loop {
            let instruction = &program[at * 8..at * 8 + 8];
            let operand = u32::from_ne_bytes(instruction[4..].try_into().unwrap());
            if instruction[..2] != JUMP.to_ne_bytes() {
                return operand;
            }
            at += 1 + operand as usize;
        }
    }

    /// Around 255 instructions, where one landing more or less decides whether a target is still within reach.
    #[test]
    fn both_targets_of_a_branch_are_reached_from_any_distance() {
        for padding in 240..300 {
            for swapped in [false, true] {
                let mut asm = Assembler::default();
                let far = asm.load(1000, verdict(1));
                let near = asm.load(2000, far);
                let mut next = near;
                for _ in 0..padding {
                    next = asm.load(NR, next);
                }
                let (first, second) = if swapped { (far, near) } else { (near, far) };
                let entry = asm.branch(Compare::Equal, 7, first, second);
                let Program(bytes) = asm.finish(entry);
                let targets = [bytes[2], bytes[3]].map(|jump| 1 + usize::from(jump));
                let [yes, no] = targets.map(|at| reached(&bytes, at));
                let expected = if swapped { (1000, 2000) } else { (2000, 1000) };
                assert_eq!((yes, no), expected, "{padding}");
            }
        }
    }
}
