//! v1: files that take one rule per write (Documentation/admin-guide/cgroup-v1/devices.rst).

use super::{Access, Kind, Policy, Rule};

/// A write to `devices.allow` or `devices.deny`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cgroup) struct DeviceWrite {
    pub(in crate::cgroup) file: &'static str,
    pub(in crate::cgroup) value: String,
}

/// The writes for a policy, in their order.
pub(in crate::cgroup) fn writes(policy: &Policy) -> Vec<DeviceWrite> {
    let write = |allow: bool, value: String| DeviceWrite {
        file: if allow { "devices.allow" } else { "devices.deny" },
        value,
    };
    let mut writes = vec![write(policy.otherwise, "a".to_owned())];
    writes.extend(policy.rules.iter().map(|rule| write(rule.allow, text(rule))));
    writes
}

/// `TYPE MAJOR:MINOR ACCESS`, or `a` for everything.
fn text(rule: &Rule) -> String {
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let kind = match rule.kind {
        Kind::Any => return "a".to_owned(),
        Kind::Character => "c",
        Kind::Block => "b",
    };
    format!(
        "{kind} {}:{} {}",
        number(rule.major),
        number(rule.minor),
        letters(rule.access)
    )
}

fn letters(access: Access) -> String {
    [(access.read, 'r'), (access.write, 'w'), (access.make, 'm')]
        .into_iter()
        .filter_map(|(set, letter)| set.then_some(letter))
        .collect()
}
