//! The process: arguments, environment, identity, privileges, limits.

use oci_spec::runtime::{
    Capabilities as OciCapabilities, Capability, LinuxCapabilities, PosixRlimitType, Process,
};

use super::super::plan::{Capabilities, LimitedResource, ProcessPlan, ResourceLimit, Terminal};
use super::{ExactStrings, PlanError, container_path, invalid, missing, process_string, refuse};
use crate::launch::values::ProcessString;

/// Uids and gids from 2^31 on are refused: programs that hold them in a signed integer take them for errors.
const ID_MAX: u32 = i32::MAX as u32;
/// Profiles and labels are written into procfs files that take no more than a page.
const NAME_MAX: usize = 4000;
/// The kernel's NGROUPS_MAX.
const GROUPS_MAX: usize = 65536;

pub(super) fn convert(
    field: &str,
    process: &Process,
    exact: &ExactStrings,
) -> Result<ProcessPlan, PlanError> {
    use std::os::unix::ffi::OsStrExt;
    let named = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    refuse(&[
        (&format!("{field}.ioPriority"), process.io_priority().is_some()),
        (&format!("{field}.scheduler"), process.scheduler().is_some()),
        (
            &format!("{field}.execCPUAffinity"),
            process.exec_cpu_affinity().is_some(),
        ),
        (&format!("{field}.commandLine"), named(process.command_line())),
        (
            &format!("{field}.user.username"),
            named(process.user().username()),
        ),
    ])?;
    let args = strings(
        &format!("{field}.args"),
        exact.args.as_deref(),
        process.args().as_deref(),
    )?;
    if args.first().is_none_or(|program| program.to_bytes().is_empty()) {
        return Err(missing(&format!("{field}.args")));
    }
    let env = strings(
        &format!("{field}.env"),
        exact.env.as_deref(),
        process.env().as_deref(),
    )?;
    check_env(&format!("{field}.env"), &env)?;
    let user = process.user();
    let umask = user.umask().unwrap_or(0o022);
    if umask > 0o777 {
        return Err(invalid(
            &format!("{field}.user.umask"),
            &format!("{umask:o}"),
            "is no file mode mask",
        ));
    }
    let groups = user.additional_gids().clone().unwrap_or_default();
    if groups.len() > GROUPS_MAX {
        return Err(invalid(
            &format!("{field}.user.additionalGids"),
            &groups.len(),
            "are more groups than Linux has",
        ));
    }
    let id = |name: &str, id: u32| match id {
        0..=ID_MAX => Ok(id),
        _ => Err(invalid(&format!("{field}.user.{name}"), &id, "is 2^31 or more")),
    };
    for group in &groups {
        id("additionalGids", *group)?;
    }
    Ok(ProcessPlan {
        args,
        env,
        cwd: container_path(&format!("{field}.cwd"), process.cwd().as_os_str().as_bytes())?,
        uid: id("uid", user.uid())?,
        gid: id("gid", user.gid())?,
        groups,
        umask,
        capabilities: process
            .capabilities()
            .as_ref()
            .map_or(Ok(Capabilities::default()), |sets| {
                capabilities(&format!("{field}.capabilities"), sets)
            })?,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: rlimits(&format!("{field}.rlimits"), process)?,
        oom_score_adj: oom_score_adj(&format!("{field}.oomScoreAdj"), process)?,
        terminal: terminal(&format!("{field}.consoleSize"), process)?,
        seccomp: None,
        apparmor: profile_name(
            &format!("{field}.apparmorProfile"),
            process.apparmor_profile().as_deref(),
        )?,
        selinux: label(
            &format!("{field}.selinuxLabel"),
            process.selinux_label().as_deref(),
        )?,
    })
}

/// What procfs takes as the name of an AppArmor profile: a line of at most a page.
fn profile_name(field: &str, name: Option<&str>) -> Result<Option<ProcessString>, PlanError> {
    match name.unwrap_or_default() {
        "" => Ok(None),
        name if name.len() > NAME_MAX || name.chars().any(char::is_control) => {
            Err(invalid(field, &name, "is no name of a profile"))
        }
        name => process_string(field, name.as_bytes()).map(Some),
    }
}

/// `user:role:type[:level]`, where only the level may itself have colons.
pub(super) fn label(field: &str, label: Option<&str>) -> Result<Option<ProcessString>, PlanError> {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic());
    match label.unwrap_or_default() {
        "" => Ok(None),
        text if text.len() <= NAME_MAX && text.split(':').count() >= 3 && text.split(':').all(plain) => {
            process_string(field, text.as_bytes()).map(Some)
        }
        text => Err(invalid(field, &text, "is no SELinux label")),
    }
}

fn strings(
    field: &str,
    exact: Option<&[Vec<u8>]>,
    spec: Option<&[String]>,
) -> Result<Vec<ProcessString>, PlanError> {
    match exact {
        Some(list) => list.iter().map(|bytes| process_string(field, bytes)).collect(),
        None => spec
            .unwrap_or_default()
            .iter()
            .map(|text| process_string(field, text.as_bytes()))
            .collect(),
    }
}

fn check_env(field: &str, env: &[ProcessString]) -> Result<(), PlanError> {
    for variable in env {
        match variable.to_bytes().iter().position(|byte| *byte == b'=') {
            Some(0) => return Err(invalid(field, &"(hidden)", "has no name before =")),
            Some(_) => {}
            None => return Err(invalid(field, &"(hidden)", "is not NAME=value")),
        }
    }
    Ok(())
}

fn oom_score_adj(field: &str, process: &Process) -> Result<i32, PlanError> {
    match process.oom_score_adj().unwrap_or(0) {
        adj @ -1000..=1000 => Ok(adj),
        adj => Err(invalid(field, &adj, "is not between -1000 and 1000")),
    }
}

fn terminal(field: &str, process: &Process) -> Result<Option<Terminal>, PlanError> {
    if !process.terminal().unwrap_or(false) {
        return Ok(None);
    }
    let Some(size) = process.console_size() else {
        return Ok(Some(Terminal::default()));
    };
    let cells =
        |cells: u64| u16::try_from(cells).map_err(|_| invalid(field, &cells, "is larger than a terminal"));
    Ok(Some(Terminal {
        rows: cells(size.height())?,
        columns: cells(size.width())?,
    }))
}

fn rlimits(field: &str, process: &Process) -> Result<Vec<ResourceLimit>, PlanError> {
    let mut limits: Vec<ResourceLimit> = Vec::new();
    for limit in process.rlimits().as_deref().unwrap_or_default() {
        let resource = resource(limit.typ());
        if limits.iter().any(|other| other.resource == resource) {
            return Err(PlanError::Contradiction {
                field: format!("{field}[{}]", limit.typ()),
                with: "an earlier entry",
            });
        }
        if limit.soft() > limit.hard() {
            return Err(PlanError::Contradiction {
                field: format!("{field}[{}].soft", limit.typ()),
                with: "its hard limit",
            });
        }
        limits.push(ResourceLimit {
            resource,
            soft: limit.soft(),
            hard: limit.hard(),
        });
    }
    Ok(limits)
}

fn resource(kind: PosixRlimitType) -> LimitedResource {
    match kind {
        PosixRlimitType::RlimitCpu => LimitedResource::Cpu,
        PosixRlimitType::RlimitFsize => LimitedResource::FileSize,
        PosixRlimitType::RlimitData => LimitedResource::Data,
        PosixRlimitType::RlimitStack => LimitedResource::Stack,
        PosixRlimitType::RlimitCore => LimitedResource::Core,
        PosixRlimitType::RlimitRss => LimitedResource::Rss,
        PosixRlimitType::RlimitNproc => LimitedResource::Processes,
        PosixRlimitType::RlimitNofile => LimitedResource::OpenFiles,
        PosixRlimitType::RlimitMemlock => LimitedResource::Memlock,
        PosixRlimitType::RlimitAs => LimitedResource::AddressSpace,
        PosixRlimitType::RlimitLocks => LimitedResource::Locks,
        PosixRlimitType::RlimitSigpending => LimitedResource::PendingSignals,
        PosixRlimitType::RlimitMsgqueue => LimitedResource::Msgqueue,
        PosixRlimitType::RlimitNice => LimitedResource::Nice,
        PosixRlimitType::RlimitRtprio => LimitedResource::RealtimePriority,
        PosixRlimitType::RlimitRttime => LimitedResource::RealtimeTime,
    }
}

fn capabilities(field: &str, sets: &LinuxCapabilities) -> Result<Capabilities, PlanError> {
    let mask = |set: &Option<OciCapabilities>| {
        set.iter()
            .flatten()
            .fold(0u64, |mask, capability| mask | 1 << number(*capability))
    };
    let converted = Capabilities {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        permitted: mask(sets.permitted()),
        ambient: mask(sets.ambient()),
    };
    let contradiction = |set: &str, with| PlanError::Contradiction {
        field: format!("{field}.{set}"),
        with,
    };
    if converted.permitted & !converted.bounding != 0 {
        return Err(contradiction("permitted", "the bounding set"));
    }
    if converted.effective & !converted.permitted != 0 {
        return Err(contradiction("effective", "the permitted set"));
    }
    if converted.ambient & !converted.permitted != 0 {
        return Err(contradiction("ambient", "the permitted set"));
    }
    // Inheritable capabilities leak through file capabilities (CVE-2022-24769): only what ambient needs is kept.
    if mask(sets.inheritable()) & !converted.ambient != 0 {
        return Err(contradiction("inheritable", "the ambient set"));
    }
    Ok(converted)
}

/// The number of a capability in capability(7).
fn number(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}
