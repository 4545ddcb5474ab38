//! The machines that containers run on, and the system call interfaces that each of them offers.

use oci_spec::runtime::Arch;

use super::table;

/// The bit of a system call number that marks an x32 call (`__X32_SYSCALL_BIT`).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// A machine that filters are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Machine {
    /// x86-64, which also runs i386 and perhaps x32 programs.
    X86_64,
    /// arm64, which perhaps also runs 32-bit arm programs.
    Aarch64,
}

impl Machine {
    /// The machine that this program was built for.
    pub const HOST: Self = if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else {
        Self::X86_64
    };

    /// The machine's own interface. A filter always covers it.
    pub fn native(self) -> Abi {
        match self {
            Self::X86_64 => Abi::X86_64,
            Self::Aarch64 => Abi::Aarch64,
        }
    }

    /// The interface that an OCI profile means by `arch`, if this machine has it.
    pub fn abi(self, arch: Arch) -> Option<Abi> {
        match (self, arch) {
            (_, Arch::ScmpArchNative) => Some(self.native()),
            (Self::X86_64, Arch::ScmpArchX86_64) => Some(Abi::X86_64),
            (Self::X86_64, Arch::ScmpArchX86) => Some(Abi::X86),
            (Self::X86_64, Arch::ScmpArchX32) => Some(Abi::X32),
            (Self::Aarch64, Arch::ScmpArchAarch64) => Some(Abi::Aarch64),
            (Self::Aarch64, Arch::ScmpArchArm) => Some(Abi::Arm),
            _ => None,
        }
    }

    /// The machine's name in the `arches` of a conditional rule: Go's name for it.
    pub(super) fn rule_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }
}

/// A system call interface: what numbers mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Abi {
    /// x86-64.
    X86_64,
    /// i386, on an x86-64 kernel.
    X86,
    /// x86-64 with 32-bit pointers: the same audit architecture as x86-64, a bit in the number tells them apart.
    X32,
    /// arm64.
    Aarch64,
    /// 32-bit arm (EABI), on an arm64 kernel.
    Arm,
}

impl Abi {
    /// The `AUDIT_ARCH_*` value in `seccomp_data.arch` (linux/audit.h).
    pub fn audit_arch(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// The number that `seccomp_data.nr` has for the system call of that name; that of x32 has its marking bit.
    pub fn number(self, name: &str) -> Option<u32> {
        let number = table::lookup(name, self)?;
        Some(match self {
            Self::X32 => number | X32_BIT,
            _ => number,
        })
    }

    /// Whether arguments are 32 bits wide, so that the kernel fills the upper half with zeroes.
    pub(super) fn has_narrow_arguments(self) -> bool {
        matches!(self, Self::X86 | Self::Arm)
    }
}
