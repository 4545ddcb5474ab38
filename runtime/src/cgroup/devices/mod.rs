//! Access to devices: deny all, then the list.
//!
//! ```text
//!   rules of the spec ──► Policy ──┬─ v1: writes to devices.deny and devices.allow
//!                                  └─ v2: a BPF program, attached to the cgroup
//! ```

mod v1;
mod v2;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::CgroupError;

pub(super) use v1::writes as v1_writes;
pub(super) use v2::attach;

/// What of a device may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Access {
    read: bool,
    write: bool,
    make: bool,
}

const MAKE: Access = Access {
    read: false,
    write: false,
    make: true,
};
const EVERYTHING: Access = Access {
    read: true,
    write: true,
    make: true,
};

/// Which kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Character,
    Block,
}

/// One rule; `None` is any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Kind,
    major: Option<u32>,
    minor: Option<u32>,
    access: Access,
}

impl Rule {
    const fn allow(kind: Kind, major: Option<u32>, minor: Option<u32>, access: Access) -> Self {
        Self {
            allow: true,
            kind,
            major,
            minor,
            access,
        }
    }

    /// Whether it is about every device there is.
    fn is_about_all(&self) -> bool {
        self.kind == Kind::Any
    }
}

/// What every container may do: make any node, and use the nodes of `/dev` that it always has.
const ALWAYS: [Rule; 10] = [
    Rule::allow(Kind::Character, None, None, MAKE),
    Rule::allow(Kind::Block, None, None, MAKE),
    Rule::allow(Kind::Character, Some(1), Some(3), EVERYTHING),
    Rule::allow(Kind::Character, Some(1), Some(5), EVERYTHING),
    Rule::allow(Kind::Character, Some(1), Some(7), EVERYTHING),
    Rule::allow(Kind::Character, Some(1), Some(8), EVERYTHING),
    Rule::allow(Kind::Character, Some(1), Some(9), EVERYTHING),
    Rule::allow(Kind::Character, Some(5), Some(0), EVERYTHING),
    Rule::allow(Kind::Character, Some(5), Some(2), EVERYTHING),
    Rule::allow(Kind::Character, Some(136), None, EVERYTHING),
];

/// The rules of a container, of which the last that is about a device counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    /// Of devices that no rule is about.
    otherwise: bool,
    rules: Vec<Rule>,
}

impl Policy {
    /// From the list of a specification; an empty one leaves the cgroup as its parent is.
    pub(super) fn parse(list: &[LinuxDeviceCgroup]) -> Result<Option<Self>, CgroupError> {
        let rules = list
            .iter()
            .enumerate()
            .map(|(index, rule)| parse(index, rule))
            .collect::<Result<Vec<_>, CgroupError>>()?;
        let Some(first) = rules.first() else {
            return Ok(None);
        };
        // "Allow everything" comes first for privileged containers; otherwise nothing is allowed but what follows.
        if first.is_about_all() && first.allow {
            return Ok(Some(Policy {
                otherwise: true,
                rules: rules[1..].to_vec(),
            }));
        }
        let listed = rules.iter().skip_while(|rule| rule.is_about_all() && !rule.allow);
        Ok(Some(Policy {
            otherwise: false,
            rules: ALWAYS.iter().chain(listed).copied().collect(),
        }))
    }
}

fn parse(index: usize, rule: &LinuxDeviceCgroup) -> Result<Rule, CgroupError> {
    let refuse = |name: &str, value: String, reason: &'static str| CgroupError::Limit {
        field: format!("linux.resources.devices[{index}].{name}"),
        value,
        reason,
    };
    let number = |name: &str, value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value)
            .map(Some)
            .map_err(|_| refuse(name, value.to_string(), "is no device number")),
    };
    let access = rule.access().as_deref().unwrap_or("rwm");
    if access.is_empty() || !access.bytes().all(|byte| b"rwm".contains(&byte)) {
        return Err(refuse("access", access.into(), "is not made of r, w and m"));
    }
    let (major, minor) = (number("major", rule.major())?, number("minor", rule.minor())?);
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A if (major, minor) == (None, None) => Kind::Any,
        LinuxDeviceType::C | LinuxDeviceType::U => Kind::Character,
        LinuxDeviceType::B => Kind::Block,
        other => {
            return Err(refuse(
                "type",
                other.as_str().into(),
                "is no type that access is controlled for",
            ));
        }
    };
    let access = if kind == Kind::Any {
        EVERYTHING
    } else {
        Access {
            read: access.contains('r'),
            write: access.contains('w'),
            make: access.contains('m'),
        }
    };
    Ok(Rule {
        allow: rule.allow(),
        kind,
        major,
        minor,
        access,
    })
}

#[cfg(test)]
mod tests;
