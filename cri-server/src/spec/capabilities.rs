//! The capability sets of a container.

use std::collections::BTreeSet;

use crate::confinement::Held;
use crate::container::Security;
use crate::{Error, Result};

/// What a container has unless its pod says otherwise.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// All that Linux knows (capability.h, up to CHECKPOINT_RESTORE).
const ALL: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Names of the sets, without `CAP_`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// Bounding set; for root also permitted and effective.
    pub bounding: BTreeSet<&'static str>,
    /// Ambient set, which users other than root keep over an exec.
    pub ambient: BTreeSet<&'static str>,
}

/// Combines the default set with what the request adds and drops.
///
/// `ALL` on one side is applied first, names on the other side after it, so that "drop ALL, add
/// NET_ADMIN" and "add ALL, drop SYS_ADMIN" both mean what they say.
///
/// What cannot be given is left out.
///
/// # Errors
/// [`Error::Invalid`] for a name that Linux does not have.
pub fn sets(security: &Security, held: &Held) -> Result<Sets> {
    let mut sets = asked(security)?;
    held.narrow(&mut sets.bounding);
    sets.ambient.retain(|name| sets.bounding.contains(name));
    Ok(sets)
}

/// The names of all capabilities.
pub fn all() -> BTreeSet<&'static str> {
    ALL.into()
}

fn asked(security: &Security) -> Result<Sets> {
    if security.privileged {
        return Ok(Sets {
            bounding: all(),
            ambient: BTreeSet::new(),
        });
    }
    let add = names("add_capabilities", &security.add_capabilities)?;
    let drop = names("drop_capabilities", &security.drop_capabilities)?;
    let ambient = names("add_ambient_capabilities", &security.add_ambient_capabilities)?;
    let mut bounding: BTreeSet<_> = DEFAULT.into();
    if add.all {
        bounding = ALL.into();
    }
    if drop.all {
        bounding.clear();
    }
    bounding.extend(add.named.iter().chain(&ambient.named));
    bounding.retain(|c| !drop.named.contains(c));
    let ambient = if ambient.all {
        bounding.clone()
    } else {
        ambient.named
    };
    Ok(Sets {
        ambient: ambient.intersection(&bounding).copied().collect(),
        bounding,
    })
}

struct Names {
    all: bool,
    named: BTreeSet<&'static str>,
}

fn names(field: &str, given: &[String]) -> Result<Names> {
    let mut names = Names {
        all: false,
        named: BTreeSet::new(),
    };
    for name in given {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" {
            names.all = true;
        } else if let Some(known) = ALL.iter().find(|known| **known == bare) {
            names.named.insert(known);
        } else {
            return Err(Error::invalid(field, format!("unknown capability {name:?}")));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn combine(add: &[&str], drop: &[&str]) -> BTreeSet<&'static str> {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let security = Security {
            add_capabilities: owned(add),
            drop_capabilities: owned(drop),
            ..Security::default()
        };
        asked(&security).unwrap().bounding
    }

    #[test]
    fn add_and_drop_combine() {
        assert_eq!(combine(&[], &[]), DEFAULT.into());
        assert_eq!(combine(&["net_admin"], &["ALL"]), ["NET_ADMIN"].into());
        assert_eq!(combine(&["ALL"], &["CAP_SYS_ADMIN"]).len(), ALL.len() - 1);
        assert!(!combine(&[], &["CHOWN"]).contains("CHOWN"));
        let bad = Security {
            drop_capabilities: vec!["FLY".into()],
            ..Security::default()
        };
        assert!(matches!(asked(&bad), Err(Error::Invalid { .. })));
    }
}
