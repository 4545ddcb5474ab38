//! Whether crisp is root, and with all the capabilities that takes.

use super::{Finding, Host};

const AREA: &str = "privileges";

/// (bit, name, whether no pod runs without it, what happens without it): capability.h.
const CAPABILITIES: &[(u32, &str, bool, &str)] = &[
    (21, "SYS_ADMIN", true, "no namespaces and no mounts"),
    (12, "NET_ADMIN", true, "no pod network"),
    (18, "SYS_CHROOT", true, "no root file system for containers"),
    (7, "SETUID", true, "containers cannot change to their user"),
    (6, "SETGID", true, "containers cannot change to their groups"),
    (
        8,
        "SETPCAP",
        true,
        "containers cannot be stripped of capabilities",
    ),
    (1, "DAC_OVERRIDE", true, "image layers cannot be unpacked"),
    (
        0,
        "CHOWN",
        true,
        "image layers cannot be unpacked with their owners",
    ),
    (
        3,
        "FOWNER",
        true,
        "image layers cannot be unpacked with their modes",
    ),
    (5, "KILL", true, "containers of other users cannot be stopped"),
    (
        27,
        "MKNOD",
        false,
        "devices in images are left out, and containers get theirs by bind mounts",
    ),
    (
        19,
        "SYS_PTRACE",
        false,
        "processes of other users cannot be looked into",
    ),
    (
        24,
        "SYS_RESOURCE",
        false,
        "oom_score_adj cannot be lowered and resource limits not raised above crisp's own",
    ),
    (31, "SETFCAP", false, "file capabilities in images are left out"),
    (
        13,
        "NET_RAW",
        false,
        "containers do not get NET_RAW, which is among the default capabilities",
    ),
    (
        10,
        "NET_BIND_SERVICE",
        false,
        "containers do not get NET_BIND_SERVICE, which is among the default capabilities",
    ),
    (
        29,
        "AUDIT_WRITE",
        false,
        "containers do not get AUDIT_WRITE, which is among the default capabilities",
    ),
];

const REMEDY: &str = "run crisp as root on the host, as its systemd unit does; in a container, privileged";

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let status = host.read("/proc/self/status").unwrap_or_default();
    let mut findings = vec![user(&status)];
    let effective = field(&status, "CapEff")
        .and_then(|mask| u64::from_str_radix(mask, 16).ok())
        .unwrap_or(0);
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(bit, ..)| effective & (1 << bit) == 0)
        .collect();
    if missing.is_empty() {
        findings.push(Finding::has(AREA, "capabilities", "all that are used"));
    }
    for (_, name, essential, effect) in missing {
        let finding = Finding::lacks(AREA, format!("CAP_{name}"), "missing", *effect, REMEDY);
        findings.push(if *essential { finding.essential() } else { finding });
    }
    findings
}

fn user(status: &str) -> Finding {
    // Real, effective, saved and file system ids.
    let effective = field(status, "Uid").and_then(|ids| ids.split_whitespace().nth(1));
    match effective {
        Some("0") => Finding::has(AREA, "user", "root"),
        other => {
            let detail = format!("user {}", other.unwrap_or("unknown"));
            Finding::lacks(AREA, "user", detail, "crisp cannot start a pod", REMEDY).essential()
        }
    }
}

/// A line of /proc/<pid>/status.
pub(super) fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}
