//! Kernel parameters of a pod: only those that belong to one of its namespaces (CVE-2022-0811).

use std::os::fd::{AsFd, OwnedFd};

use minicbor::{Decode, Encode};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::failure::{InStep, StepResult};
use super::mounts::fresh;
use super::plan::{Attributes, FileSystem};
use super::pod::{IpcMode, NetworkMode};
use super::{PlanError, Step};

/// Parameters of the IPC namespace, by their path below `/proc/sys`; a trailing slash is a prefix.
const IPC: [&str; 9] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
    "fs/mqueue/",
];
const VALUE_MAX: usize = 4096;

/// Checks a kernel parameter of a pod with these namespaces.
///
/// # Errors
/// [`PlanError`] naming the parameter: its name or value is malformed, or it belongs to none of the pod's own namespaces.
pub fn check_sysctl(name: &str, value: &str, network: NetworkMode, ipc: IpcMode) -> Result<(), PlanError> {
    Sysctl::parse(name, value, network, ipc).map(drop)
}

/// A parameter and its value.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Sysctl {
    /// Path below `/proc/sys`.
    #[n(0)]
    path: String,
    #[n(1)]
    value: String,
}

impl Sysctl {
    /// Accepts `net.ipv4.x` and `net/ipv4/x`; in the second form a dot is part of a name, such as that of a VLAN.
    pub(crate) fn parse(
        name: &str,
        value: &str,
        network: NetworkMode,
        ipc: IpcMode,
    ) -> Result<Sysctl, PlanError> {
        let field = format!("sysctls[{name}]");
        let invalid = |reason| PlanError::Invalid {
            field: field.clone(),
            value: value.to_owned(),
            reason,
        };
        if !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte))
        {
            return Err(invalid("has a name with a character that no sysctl has"));
        }
        let path = if name.contains('/') {
            name.to_owned()
        } else {
            name.replace('.', "/")
        };
        if path
            .split('/')
            .any(|component| matches!(component, "" | "." | ".."))
        {
            return Err(invalid("has a name with an empty or dotted component"));
        }
        if value.len() > VALUE_MAX || value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(invalid("is no value of one line"));
        }
        let contradiction = |with| {
            Err(PlanError::Contradiction {
                field: field.clone(),
                with,
            })
        };
        if path.starts_with("net/") {
            if network == NetworkMode::Host {
                return contradiction("the host's network namespace");
            }
        } else if IPC
            .iter()
            .any(|known| *known == path || (known.ends_with('/') && path.starts_with(known)))
        {
            if ipc == IpcMode::Host {
                return contradiction("the host's IPC namespace");
            }
        } else {
            return contradiction("the namespaces of the pod, to none of which it belongs");
        }
        Ok(Sysctl {
            path,
            value: value.to_owned(),
        })
    }
}

/// A procfs that nobody else has, when there is something to write (CVE-2025-52881). What it shows below `sys` are the
/// namespaces of whoever looks.
pub(crate) fn procfs_for(sysctls: &[Sysctl]) -> StepResult<Option<OwnedFd>> {
    let made = (!sysctls.is_empty()).then(|| fresh(FileSystem::Proc, &[], Attributes::default()));
    made.transpose().step(Step::Sysctl)
}

/// Writes all parameters.
pub(crate) fn write_all(sysctls: &[Sysctl], procfs: &OwnedFd) -> StepResult<()> {
    for sysctl in sysctls {
        write(procfs, sysctl).step_at(Step::Sysctl, &sysctl.path)?;
    }
    Ok(())
}

fn write(procfs: &OwnedFd, sysctl: &Sysctl) -> rustix::io::Result<()> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let path = format!("sys/{}", sysctl.path);
    let file = rustix::fs::openat2(
        procfs.as_fd(),
        path,
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?;
    rustix::io::write(&file, sysctl.value.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, value: &str) -> Result<Sysctl, PlanError> {
        Sysctl::parse(name, value, NetworkMode::Pod, IpcMode::Pod)
    }

    #[test]
    fn both_spellings_name_a_path() {
        assert_eq!(
            parse("net.ipv4.tcp_rmem", "1\t2").unwrap().path,
            "net/ipv4/tcp_rmem"
        );
        assert_eq!(
            parse("net/ipv4/conf/eth0.100/rp_filter", "1").unwrap().path,
            "net/ipv4/conf/eth0.100/rp_filter"
        );
        assert_eq!(parse("fs.mqueue.msg_max", "1").unwrap().path, "fs/mqueue/msg_max");
    }

    #[test]
    fn what_is_not_namespaced_or_not_a_name_is_refused() {
        for name in [
            "kernel.core_pattern",
            "vm.swappiness",
            "kernel.shm_rmid_forced2",
            "fs.mqueue",
            "net",
            "kernel.hostname",
        ] {
            assert!(
                matches!(parse(name, "1"), Err(PlanError::Contradiction { .. })),
                "{name}"
            );
        }
        for name in [
            "",
            "net..x",
            "net/../kernel/core_pattern",
            "net.a b",
            "net.x+kernel.y=1",
            "net.x\n",
            "/net/x",
        ] {
            assert!(
                matches!(parse(name, "1"), Err(PlanError::Invalid { .. })),
                "{name}"
            );
        }
        assert!(matches!(parse("net.x", "1\n2"), Err(PlanError::Invalid { .. })));
    }
}
