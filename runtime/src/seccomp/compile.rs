//! From a profile to a filter.

use std::collections::{BTreeSet, HashMap};

use oci_spec::runtime::{Arch, LinuxSeccomp};

use super::abi::{Abi, Machine, X32_BIT};
use super::bpf::{ARCH, Assembler, Compare, Goto, NR, Program};
use super::error::SeccompError;
use super::filter::{Filter, Flags};
use super::rules::{Decision, Decisions, Policy};
use super::tree::{self, Span};
use super::verdict::Verdict;

/// `BPF_MAXINSNS` of linux/bpf_common.h.
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

/// A filter, and what of the profile is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// To be loaded in the child.
    pub filter: Filter,
    /// What a user may want to be told.
    pub ignored: Ignored,
}

/// Parts of a profile that have no effect, as in other runtimes: profiles are written for many machines and kernels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignored {
    /// Names that are no system calls known here, sorted: of another machine, too new, or misspelt.
    pub syscalls: Vec<String>,
    /// Architectures that this machine does not run.
    pub architectures: Vec<Arch>,
}

/// Compiles a profile for a machine.
///
/// - The machine's own interface is always covered, others if `architectures` names them. A call through one that is not
///   covered kills the process; one through x32 answers ENOSYS, as on a kernel without it.
/// - Of several rules for a call the first that matches decides.
/// - Numbers above the highest that the profile mentions answer ENOSYS, unless the default action lets calls happen.
///
/// # Errors
/// Everything in a profile that has no meaning or that the kernel would misread; see [`SeccompError`].
pub fn compile(profile: &LinuxSeccomp, machine: Machine) -> Result<Compiled, SeccompError> {
    if profile.listener_path().is_some() || profile.listener_metadata().is_some() {
        return Err(SeccompError::ListenerUnsupported);
    }
    let policy = Policy::new(profile)?;
    let mut abis = BTreeSet::from([machine.native()]);
    let mut ignored = Ignored {
        syscalls: policy.unknown_names(),
        architectures: Vec::new(),
    };
    for arch in profile.architectures().iter().flatten() {
        match machine.abi(*arch) {
            Some(abi) => {
                abis.insert(abi);
            }
            None => ignored.architectures.push(*arch),
        }
    }
    let program = Compiler::default().program(&policy, machine, &abis);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong {
            length: program.len(),
            max: MAX_INSTRUCTIONS,
        });
    }
    let flags = Flags::new(profile.flags().as_deref());
    Ok(Compiled {
        filter: Filter::new(program, flags),
        ignored,
    })
}

/// Writes the parts of a program; equal decisions about arguments are written once.
#[derive(Default)]
struct Compiler {
    asm: Assembler,
    written: HashMap<Decision, Goto>,
}

impl Compiler {
    fn program(mut self, policy: &Policy<'_>, machine: Machine, abis: &BTreeSet<Abi>) -> Program {
        // The machine's own interface is asked for first, so it is written last.
        let mut searches = Vec::new();
        for abi in abis.iter().filter(|abi| **abi != Abi::X32) {
            let decisions = policy.on(*abi);
            let mut spans = Vec::new();
            self.append(&mut spans, 0, &decisions, policy.default);
            if *abi == Abi::X86_64 {
                if abis.contains(&Abi::X32) {
                    let decisions = policy.on(Abi::X32);
                    self.append(&mut spans, X32_BIT, &decisions, policy.default);
                } else {
                    tree::extend(&mut spans, X32_BIT, Goto::Return(Verdict::NO_SUCH_CALL));
                }
            }
            searches.push((*abi, spans));
        }
        searches.sort_by_key(|(abi, _)| *abi == machine.native());
        let mut next = Goto::Return(Verdict::KILL_PROCESS);
        for (abi, spans) in searches {
            let search = tree::emit(&mut self.asm, &spans);
            let search = self.asm.load(NR, search);
            next = self.asm.branch(Compare::Equal, abi.audit_arch(), search, next);
        }
        let entry = self.asm.load(ARCH, next);
        self.asm.finish(entry)
    }

    /// Covers all numbers from `first` on.
    fn append(&mut self, spans: &mut Vec<Span>, first: u32, decisions: &Decisions, default: Verdict) {
        let gap = |number: u32| match decisions.highest {
            Some(highest) if number < highest => Goto::Return(default),
            _ => Goto::Return(decisions.newer),
        };
        let mut next = first;
        for (number, decision) in &decisions.by_number {
            if *number > next {
                tree::extend(spans, next, gap(next));
            }
            let to = self.decide(decision);
            tree::extend(spans, *number, to);
            next = number + 1;
        }
        tree::extend(spans, next, gap(next));
    }

    fn decide(&mut self, decision: &Decision) -> Goto {
        let (cases, otherwise) = match decision {
            Decision::Fixed(verdict) => return Goto::Return(*verdict),
            Decision::ByArguments { cases, otherwise } => (cases, *otherwise),
        };
        if let Some(written) = self.written.get(decision) {
            return *written;
        }
        let mut next = Goto::Return(otherwise);
        for case in cases.iter().rev() {
            let mut holds = Goto::Return(case.verdict);
            for condition in case.conditions.iter().rev() {
                holds = condition.emit(&mut self.asm, holds, next);
            }
            next = holds;
        }
        self.written.insert(decision.clone(), next);
        next
    }
}
