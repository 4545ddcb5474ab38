//! A profile's rules, resolved to system call numbers of one interface.
//!
//! Of several rules for one call the first that matches decides; if none does, the profile's default action.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};

use super::abi::Abi;
use super::condition::{ARGUMENTS, Condition};
use super::error::{Place, SeccompError};
use super::multiplex;
use super::table;
use super::verdict::Verdict;

/// A profile whose values are known to be possible.
#[derive(Debug)]
pub(super) struct Policy<'a> {
    /// What happens to a call that no rule matches.
    pub(super) default: Verdict,
    rules: Vec<Rule<'a>>,
}

/// One entry of `syscalls`.
#[derive(Debug)]
struct Rule<'a> {
    names: &'a [String],
    when: When,
    verdict: Verdict,
}

#[derive(Debug)]
enum When {
    Always,
    /// Any of these groups, all conditions of which hold.
    AnyOf(Vec<Vec<Condition>>),
}

/// What happens to one system call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Decision {
    Fixed(Verdict),
    /// The first case whose conditions all hold decides.
    ByArguments {
        cases: Vec<Case>,
        otherwise: Verdict,
    },
}

/// Conditions that must all hold, and what follows then.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Case {
    pub(super) conditions: Vec<Condition>,
    pub(super) verdict: Verdict,
}

/// The decisions of a policy on one interface.
#[derive(Debug)]
pub(super) struct Decisions {
    pub(super) by_number: BTreeMap<u32, Decision>,
    /// The answer to numbers above the highest one that the profile mentions: calls that came after it.
    pub(super) newer: Verdict,
    /// That highest number.
    pub(super) highest: Option<u32>,
}

impl<'a> Policy<'a> {
    pub(super) fn new(profile: &'a LinuxSeccomp) -> Result<Self, SeccompError> {
        let default = Verdict::new(profile.default_action(), profile.default_errno_ret(), || {
            Place::Default
        })?;
        let entries = profile.syscalls().as_deref().unwrap_or_default();
        let rules = entries
            .iter()
            .enumerate()
            .map(|(index, entry)| Rule::new(index, entry))
            .collect::<Result<_, _>>()?;
        Ok(Self { default, rules })
    }

    /// Names that are no system calls on any interface known here.
    pub(super) fn unknown_names(&self) -> Vec<String> {
        let names: BTreeSet<&String> = self
            .rules
            .iter()
            .flat_map(|rule| rule.names)
            .filter(|name| !table::is_known(name))
            .collect();
        names.into_iter().cloned().collect()
    }

    /// What the policy means on one interface.
    pub(super) fn on(&self, abi: Abi) -> Decisions {
        let mut cases: BTreeMap<u32, Vec<Case>> = BTreeMap::new();
        let mut highest = None;
        let mut narrowed = BTreeSet::new();
        for rule in &self.rules {
            for name in rule.names {
                if let Some(number) = abi.number(name) {
                    if !is_private(abi, number) {
                        highest = highest.max(Some(number));
                    }
                    cases.entry(number).or_default().extend(rule.cases(abi));
                }
                if let Some((number, selector)) = multiplex::entrance(abi, name)
                    && rule.reaches_second_entrance(name, &mut narrowed)
                {
                    cases.entry(number).or_default().push(Case {
                        conditions: vec![selector],
                        verdict: rule.verdict,
                    });
                }
            }
        }
        let by_number = cases
            .into_iter()
            .map(|(number, cases)| (number, Decision::new(cases, self.default)))
            .collect();
        let newer = match highest {
            Some(_) if !self.default.is_permissive() => Verdict::NO_SUCH_CALL,
            _ => self.default,
        };
        Decisions {
            by_number,
            newer,
            highest,
        }
    }
}

impl<'a> Rule<'a> {
    fn new(index: usize, entry: &'a LinuxSyscall) -> Result<Self, SeccompError> {
        let names = entry.names();
        let Some(name) = names.first() else {
            return Err(SeccompError::NoNames { index });
        };
        let place = || Place::Rule {
            index,
            name: name.clone(),
        };
        Ok(Self {
            names,
            when: When::new(entry.args().as_deref().unwrap_or_default(), place)?,
            verdict: Verdict::new(entry.action(), entry.errno_ret(), place)?,
        })
    }

    /// Whether the rule is one for the call that `name` can also be reached through; see [`multiplex`].
    ///
    /// `narrowed` collects the names of which some uses were denied: to let the rest happen there would let those
    /// happen, too.
    fn reaches_second_entrance(&self, name: &'a str, narrowed: &mut BTreeSet<&'a str>) -> bool {
        let permissive = self.verdict.is_permissive();
        match self.when {
            When::Always => !(permissive && narrowed.contains(name)),
            When::AnyOf(_) => {
                if !permissive {
                    narrowed.insert(name);
                }
                false
            }
        }
    }

    fn cases(&self, abi: Abi) -> Vec<Case> {
        let case = |conditions: &[Condition]| Case {
            conditions: conditions.iter().map(|condition| condition.on(abi)).collect(),
            verdict: self.verdict,
        };
        match &self.when {
            When::Always => vec![case(&[])],
            When::AnyOf(groups) => groups.iter().map(|group| case(group)).collect(),
        }
    }
}

impl When {
    /// All of `args` must hold, but if one argument is compared more than once, any of them suffices: so do runc and
    /// crun since the time when a rule could not compare two arguments, and profiles rely on it.
    fn new(args: &[LinuxSeccompArg], place: impl Fn() -> Place) -> Result<Self, SeccompError> {
        let mut conditions = Vec::with_capacity(args.len());
        let mut compared = [0_usize; ARGUMENTS];
        for arg in args {
            let Some(condition) = Condition::new(arg) else {
                return Err(SeccompError::ArgumentOutOfRange {
                    place: place(),
                    argument: arg.index(),
                });
            };
            compared[arg.index()] += 1;
            conditions.push(condition);
        }
        Ok(if conditions.is_empty() {
            Self::Always
        } else if compared.iter().any(|times| *times > 1) {
            Self::AnyOf(conditions.into_iter().map(|one| vec![one]).collect())
        } else {
            Self::AnyOf(vec![conditions])
        })
    }
}

impl Decision {
    /// Leaves out what cannot decide: cases after one without conditions, and those that say what follows anyway.
    fn new(mut cases: Vec<Case>, default: Verdict) -> Self {
        let otherwise = match cases.iter().position(|case| case.conditions.is_empty()) {
            Some(always) => {
                let verdict = cases[always].verdict;
                cases.truncate(always);
                verdict
            }
            None => default,
        };
        while cases.last().is_some_and(|case| case.verdict == otherwise) {
            cases.pop();
        }
        if cases.is_empty() {
            Self::Fixed(otherwise)
        } else {
            Self::ByArguments { cases, otherwise }
        }
    }
}

/// Numbers far above all others, which 32-bit arm has for itself (`__ARM_NR_BASE`): they say nothing about how new a
/// profile is.
fn is_private(abi: Abi, number: u32) -> bool {
    abi == Abi::Arm && number >= 0xf_0000
}
