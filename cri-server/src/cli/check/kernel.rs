//! What the kernel's version and files tell.

use std::path::Path;

use super::{Finding, Host};
use crate::confinement::apparmor::PARSERS;

const AREA: &str = "kernel";
/// The oldest kernel that crisp is made for.
const OLDEST: (u32, u32) = (5, 15);
/// The first that stacks EROFS images by descriptor.
const STACKS_IMAGES: (u32, u32) = (6, 15);

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let text = host.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = parse(&text);
    let mut findings = vec![release(&text, version)];
    let newer = |version: Option<(u32, u32)>, than| version.is_some_and(|version| version >= than);
    findings.push(overlay(host));
    findings.push(if newer(version, (6, 7)) {
        Finding::has(AREA, "layers by descriptor", "lowerdir+")
    } else {
        Finding::lacks(
            AREA,
            "layers by descriptor",
            "no lowerdir+ before Linux 6.7",
            "layers are mounted by relative paths, which takes a process of its own for each mount",
            "Linux 6.7 or later",
        )
    });
    findings.push(user_namespaces(host, newer(version, (6, 3))));
    findings.push(erofs(host, newer(version, STACKS_IMAGES)));
    findings.push(seccomp(host));
    findings.push(memfd(host));
    findings.push(pressure(host));
    findings.push(Finding::has(AREA, "security modules", security_modules(host)));
    findings.extend(apparmor(host));
    findings
}

/// Whether layers can be EROFS images.
pub(super) fn stacks_images(host: &Host) -> bool {
    let text = host.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    has_file_system(host, "erofs") && parse(&text).is_some_and(|version| version >= STACKS_IMAGES)
}

fn parse(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|letter: char| !letter.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn release(text: &str, version: Option<(u32, u32)>) -> Finding {
    match version {
        Some(version) if version >= OLDEST => Finding::has(AREA, "release", text),
        _ => {
            let (major, minor) = OLDEST;
            let effect = "containers cannot be started: calls that crisp builds on are missing";
            let remedy = format!("Linux {major}.{minor} or later");
            Finding::lacks(AREA, "release", text, effect, remedy).essential()
        }
    }
}

fn has_file_system(host: &Host, name: &str) -> bool {
    let list = host.read("/proc/filesystems").unwrap_or_default();
    list.lines()
        .any(|line| line.split_whitespace().next_back() == Some(name))
}

fn overlay(host: &Host) -> Finding {
    if has_file_system(host, "overlay") {
        return Finding::has(AREA, "overlayfs", "present");
    }
    let effect = "images are copied for every container: slow starts, and disk space used many times over";
    Finding::lacks(
        AREA,
        "overlayfs",
        "not in /proc/filesystems",
        effect,
        "modprobe overlay, and at boot in /etc/modules-load.d",
    )
}

fn user_namespaces(host: &Host, mountable: bool) -> Finding {
    let what = "user namespaces";
    let effect = "pods with `hostUsers: false` are refused";
    let limit = host
        .read("/proc/sys/user/max_user_namespaces")
        .ok()
        .and_then(|text| text.parse::<u64>().ok());
    match limit {
        _ if !mountable => Finding::lacks(
            AREA,
            what,
            "no id-mapped tmpfs before Linux 6.3",
            effect,
            "Linux 6.3 or later",
        ),
        Some(0) => Finding::lacks(
            AREA,
            what,
            "forbidden",
            effect,
            "sysctl user.max_user_namespaces=65536",
        ),
        Some(_) if host.exists("/proc/self/ns/user") => Finding::has(AREA, what, "with id-mapped mounts"),
        _ => Finding::lacks(AREA, what, "not built in", effect, "a kernel with CONFIG_USER_NS"),
    }
}

fn erofs(host: &Host, stackable: bool) -> Finding {
    let effect = "image layers can only be kept as directories, which are slower to unpack and to remove";
    match (has_file_system(host, "erofs"), stackable) {
        (true, true) => Finding::has(AREA, "EROFS", "layers can be images"),
        (true, false) => Finding::lacks(
            AREA,
            "EROFS",
            "not below an overlay by descriptor",
            effect,
            "Linux 6.15 or later",
        ),
        (false, _) => Finding::lacks(
            AREA,
            "EROFS",
            "not in /proc/filesystems",
            effect,
            "modprobe erofs, if the kernel has it",
        ),
    }
}

fn seccomp(host: &Host) -> Finding {
    let status = host.read("/proc/self/status").unwrap_or_default();
    let mode = super::privilege::field(&status, "Seccomp");
    if !host.exists("/proc/sys/kernel/seccomp/actions_avail") {
        let effect = "containers with a seccomp profile are refused";
        return Finding::lacks(
            AREA,
            "seccomp",
            "no filters",
            effect,
            "a kernel with CONFIG_SECCOMP_FILTER",
        );
    }
    match mode {
        Some("2") => Finding::lacks(
            AREA,
            "seccomp",
            "crisp itself runs under a filter",
            "calls that the filter forbids fail in every container",
            "run crisp unconfined, as its systemd unit does",
        ),
        _ => Finding::has(AREA, "seccomp", "filters"),
    }
}

fn memfd(host: &Host) -> Finding {
    match host.read("/proc/sys/vm/memfd_noexec").as_deref() {
        Ok("2") => Finding::lacks(
            AREA,
            "executable memory files",
            "vm.memfd_noexec=2",
            "supervisors are started from a read-only clone of their binary instead of sealed memory",
            "sysctl vm.memfd_noexec=1, if that is not wanted",
        ),
        _ => Finding::has(AREA, "executable memory files", "allowed"),
    }
}

fn pressure(host: &Host) -> Finding {
    if host.exists("/proc/pressure/cpu") {
        return Finding::has(AREA, "pressure stall information", "present");
    }
    let effect = "pod statistics come without PSI";
    Finding::lacks(
        AREA,
        "pressure stall information",
        "off",
        effect,
        "boot with psi=1",
    )
}

fn security_modules(host: &Host) -> String {
    match host.read("/sys/kernel/security/lsm") {
        Ok(list) if !list.is_empty() => list.replace(',', " "),
        _ => "unknown: securityfs is not mounted".into(),
    }
}

/// Nothing to say where AppArmor is off: there it confines nobody.
fn apparmor(host: &Host) -> Option<Finding> {
    const WHAT: &str = "AppArmor";
    let enabled = host.read("/sys/module/apparmor/parameters/enabled").ok()?;
    if !enabled.starts_with('Y') {
        return None;
    }
    Some(
        if PARSERS.iter().any(|path| host.exists(Path::new("/").join(path))) {
            Finding::has(AREA, WHAT, "with a parser for the default profile")
        } else {
            Finding::lacks(
                AREA,
                WHAT,
                "no apparmor_parser",
                "containers that ask for the runtime's default profile run without one",
                "apt install apparmor",
            )
        },
    )
}
