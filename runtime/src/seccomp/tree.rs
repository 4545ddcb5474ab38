//! From a number to its decision: ranges of numbers that share one, found by bisection.
//!
//! An allow-list has long runs of equal answers, so that a few dozen ranges describe some five hundred calls. A single
//! number between two ranges of one kind is not worth two comparisons: it becomes an exception of the joined range.

use super::bpf::{Assembler, Compare, Goto};

/// Numbers from `start` to the next span's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) to: Goto,
}

/// What bisection finds.
#[derive(Debug, Clone, Copy)]
struct Leaf {
    start: u32,
    to: Goto,
    exception: Option<(u32, Goto)>,
}

/// Appends a span, unless the last one goes to the same place.
pub(super) fn extend(spans: &mut Vec<Span>, start: u32, to: Goto) {
    if spans.last().is_none_or(|last| last.to != to) {
        spans.push(Span { start, to });
    }
}

/// Writes the search for the accumulator's value. `spans` begin with 0 and ascend.
pub(super) fn emit(asm: &mut Assembler, spans: &[Span]) -> Goto {
    bisect(asm, &leaves(spans))
}

fn leaves(spans: &[Span]) -> Vec<Leaf> {
    let mut leaves = Vec::with_capacity(spans.len());
    let mut rest = spans;
    while let [first, tail @ ..] = rest {
        let exception = match tail {
            [single, next, ..] if single.start + 1 == next.start && first.to == next.to => {
                Some((single.start, single.to))
            }
            _ => None,
        };
        rest = if exception.is_some() { &tail[2..] } else { tail };
        leaves.push(Leaf {
            start: first.start,
            to: first.to,
            exception,
        });
    }
    leaves
}

fn bisect(asm: &mut Assembler, leaves: &[Leaf]) -> Goto {
    match leaves {
        [] => Goto::Return(super::verdict::Verdict::KILL_PROCESS),
        [leaf] => match leaf.exception {
            Some((number, to)) => asm.branch(Compare::Equal, number, to, leaf.to),
            None => leaf.to,
        },
        _ => {
            let (lower, upper) = leaves.split_at(leaves.len() / 2);
            let from = upper[0].start;
            let upper = bisect(asm, upper);
            let lower = bisect(asm, lower);
            asm.branch(Compare::GreaterOrEqual, from, upper, lower)
        }
    }
}
