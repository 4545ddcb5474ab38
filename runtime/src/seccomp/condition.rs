//! One comparison of one argument, and its instructions.

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator};

use super::abi::Abi;
use super::bpf::{Assembler, Compare, Goto, argument_high, argument_low};

/// A system call has six arguments.
pub(super) const ARGUMENTS: usize = 6;

/// What is asked of an argument, as an unsigned 64-bit number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Test {
    MaskedEqual { mask: u64, value: u64 },
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
}

/// A test of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Condition {
    argument: u8,
    test: Test,
}

impl Condition {
    /// `None` if there is no such argument.
    pub(super) fn new(arg: &LinuxSeccompArg) -> Option<Self> {
        let argument = u8::try_from(arg.index())
            .ok()
            .filter(|index| usize::from(*index) < ARGUMENTS)?;
        let value = arg.value();
        let test = match arg.op() {
            LinuxSeccompOperator::ScmpCmpEq => Test::MaskedEqual {
                mask: u64::MAX,
                value,
            },
            LinuxSeccompOperator::ScmpCmpMaskedEq => Test::MaskedEqual {
                mask: value,
                value: arg.value_two().unwrap_or(0),
            },
            LinuxSeccompOperator::ScmpCmpNe => Test::NotEqual(value),
            LinuxSeccompOperator::ScmpCmpLt => Test::Less(value),
            LinuxSeccompOperator::ScmpCmpLe => Test::LessOrEqual(value),
            LinuxSeccompOperator::ScmpCmpGt => Test::Greater(value),
            LinuxSeccompOperator::ScmpCmpGe => Test::GreaterOrEqual(value),
        };
        Some(Self { argument, test })
    }

    /// The bits of `mask` in an argument are those of `value`.
    pub(super) fn masked(argument: u8, mask: u64, value: u64) -> Self {
        Self {
            argument,
            test: Test::MaskedEqual { mask, value },
        }
    }

    /// The same condition as a program of `abi` meets it.
    ///
    /// Where arguments have 32 bits, the kernel zero-extends them, so that a negative number written with 64 bits in a
    /// profile (`-1` is 0xffffffffffffffff) would never compare equal: such a number is cut to the width of the argument.
    pub(super) fn on(self, abi: Abi) -> Self {
        if !abi.has_narrow_arguments() {
            return self;
        }
        let test = match self.test {
            Test::MaskedEqual { mask, value } => Test::MaskedEqual {
                mask: mask & u64::from(u32::MAX),
                value: narrow(value),
            },
            Test::NotEqual(value) => Test::NotEqual(narrow(value)),
            Test::Less(value) => Test::Less(narrow(value)),
            Test::LessOrEqual(value) => Test::LessOrEqual(narrow(value)),
            Test::Greater(value) => Test::Greater(narrow(value)),
            Test::GreaterOrEqual(value) => Test::GreaterOrEqual(narrow(value)),
        };
        Self { test, ..self }
    }

    /// Writes the test: goes to `yes` where the condition holds, else to `no`.
    pub(super) fn emit(self, asm: &mut Assembler, yes: Goto, no: Goto) -> Goto {
        match self.test {
            Test::MaskedEqual { mask, value } => self.emit_equal(asm, mask, value, yes, no),
            Test::NotEqual(value) => self.emit_equal(asm, u64::MAX, value, no, yes),
            Test::Greater(value) => self.emit_order(asm, Compare::Greater, value, yes, no),
            Test::LessOrEqual(value) => self.emit_order(asm, Compare::Greater, value, no, yes),
            Test::GreaterOrEqual(value) => self.emit_order(asm, Compare::GreaterOrEqual, value, yes, no),
            Test::Less(value) => self.emit_order(asm, Compare::GreaterOrEqual, value, no, yes),
        }
    }

    fn emit_equal(self, asm: &mut Assembler, mask: u64, value: u64, yes: Goto, no: Goto) -> Goto {
        if value & !mask != 0 {
            return no;
        }
        let word = |asm: &mut Assembler, offset, mask, value, yes| {
            if mask == 0 {
                return yes;
            }
            let compare = asm.branch(Compare::Equal, value, yes, no);
            let masked = match mask {
                u32::MAX => compare,
                _ => asm.mask(mask, compare),
            };
            asm.load(offset, masked)
        };
        let lower = word(asm, argument_low(self.argument), low(mask), low(value), yes);
        let upper = argument_high(self.argument);
        word(asm, upper, high(mask), high(value), lower)
    }

    /// The upper halves decide, unless they are equal.
    fn emit_order(self, asm: &mut Assembler, compare: Compare, value: u64, yes: Goto, no: Goto) -> Goto {
        let lower = asm.branch(compare, low(value), yes, no);
        let lower = asm.load(argument_low(self.argument), lower);
        let tie = asm.branch(Compare::Equal, high(value), lower, no);
        let upper = asm.branch(Compare::Greater, high(value), yes, tie);
        asm.load(argument_high(self.argument), upper)
    }
}

fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn narrow(value: u64) -> u64 {
    let sign_extended = i64::from(value as i32) as u64;
    if value == sign_extended {
        u64::from(value as u32)
    } else {
        value
    }
}
