//! An interpreter of classic BPF as far as seccomp allows it, stricter than it needs to be: what it does not know, or
//! what leaves the program or the data, is an error.

/// `struct seccomp_data` of linux/seccomp.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) nr: u32,
    pub(crate) arch: u32,
    pub(crate) args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> Result<u32, String> {
        let mut data = [0; 64];
        data[0..4].copy_from_slice(&self.nr.to_le_bytes());
        data[4..8].copy_from_slice(&self.arch.to_le_bytes());
        for (index, arg) in self.args.iter().enumerate() {
            let at = 16 + 8 * index;
            data[at..at + 8].copy_from_slice(&arg.to_le_bytes());
        }
        let at = offset as usize;
        let bytes = at.is_multiple_of(4).then(|| data.get(at..at + 4)).flatten();
        let bytes = bytes.ok_or_else(|| format!("load from {offset}"))?;
        Ok(u32::from_le_bytes(bytes.try_into().unwrap()))
    }
}

/// A program that passed the checks of the kernel's `bpf_check_classic` and `seccomp_check_filter`.
pub(crate) struct Program(Vec<Instruction>);

#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    yes: usize,
    no: usize,
    k: u32,
}

impl Program {
    pub(crate) fn new(bytes: &[u8]) -> Result<Self, String> {
        let program: Vec<Instruction> = bytes
            .chunks(8)
            .map(|raw| {
                let [c0, c1, yes, no, k0, k1, k2, k3] = raw.try_into().map_err(|_| "cut short")?;
                Ok(Instruction {
                    code: u16::from_le_bytes([c0, c1]),
                    yes: usize::from(yes),
                    no: usize::from(no),
                    k: u32::from_le_bytes([k0, k1, k2, k3]),
                })
            })
            .collect::<Result<_, String>>()?;
        if program.is_empty() || program.len() > 4096 {
            return Err(format!("{} instructions", program.len()));
        }
        for (at, instruction) in program.iter().enumerate() {
            let targets = match instruction.code {
                0x20 if instruction.k % 4 == 0 && instruction.k <= 60 => vec![0],
                0x54 => vec![0],
                0x05 => vec![instruction.k as usize],
                0x15 | 0x25 | 0x35 => vec![instruction.yes, instruction.no],
                0x06 => vec![],
                code => return Err(format!("instruction {at}: {code:#x} {:#x}", instruction.k)),
            };
            if targets.iter().any(|jump| at + 1 + jump >= program.len()) {
                return Err(format!("instruction {at} leaves the program"));
            }
        }
        Ok(Self(program))
    }

    /// What the program returns, and how many instructions that took.
    pub(crate) fn run(&self, call: &Call) -> Result<(u32, usize), String> {
        let (mut a, mut at) = (0_u32, 0);
        for steps in 1.. {
            let Instruction { code, yes, no, k } = *self.0.get(at).ok_or("left the program")?;
            at += 1;
            match code {
                0x20 => a = call.word(k)?,
                0x54 => a &= k,
                0x05 => at += k as usize,
                0x15 => at += if a == k { yes } else { no },
                0x25 => at += if a > k { yes } else { no },
                0x35 => at += if a >= k { yes } else { no },
                0x06 => return Ok((k, steps)),
                _ => return Err(format!("unknown instruction {code:#x}")),
            }
        }
        unreachable!("jumps go forward")
    }
}

/// The interpreter refuses what it should, or its verdicts say nothing.
#[test]
fn refuses_programs_that_the_kernel_refuses() {
    let instruction = |code: u16, yes: u8, no: u8, k: u32| {
        let mut bytes = code.to_le_bytes().to_vec();
        bytes.extend([yes, no]);
        bytes.extend(k.to_le_bytes());
        bytes
    };
    let ret = instruction(0x06, 0, 0, 7);
    let call = Call {
        nr: 1,
        arch: 2,
        args: [0; 6],
    };
    assert_eq!(Program::new(&ret).unwrap().run(&call), Ok((7, 1)));
    let bad: [&[u8]; 7] = [
        &[],
        &ret[..7],
        &instruction(0x20, 0, 0, 0),
        &[instruction(0x15, 1, 0, 0), ret.clone()].concat(),
        &[instruction(0x05, 0, 0, u32::MAX), ret.clone()].concat(),
        &[instruction(0x20, 0, 0, 64), ret.clone()].concat(),
        &ret.repeat(4097),
    ];
    for program in bad {
        assert!(Program::new(program).is_err(), "{program:?}");
    }
}
