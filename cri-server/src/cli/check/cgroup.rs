//! Which cgroup hierarchies there are, and which controllers.

use std::collections::BTreeSet;

use runtime::cgroup::systemd::Systemd;

use super::{Finding, Host};

const AREA: &str = "cgroups";

/// (controller's name on v2, on v1, what a pod loses without it).
const CONTROLLERS: &[(&str, &str, &str)] = &[
    ("cpu", "cpu", "CPU requests and limits have no effect"),
    (
        "memory",
        "memory",
        "memory limits have no effect, and OOM kills cannot be told from other kills",
    ),
    ("pids", "pids", "a fork bomb in one pod takes the whole node"),
    (
        "cpuset",
        "cpuset",
        "exclusive CPUs (kubelet's static policy) have no effect",
    ),
    ("io", "blkio", "pod statistics come without disk figures"),
    ("hugetlb", "hugetlb", "huge page limits have no effect"),
];

/// What is mounted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hierarchies {
    /// Mount point of v2.
    unified: Option<String>,
    /// Controllers that v1 holds.
    legacy: BTreeSet<String>,
}

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mounts = host.read("/proc/self/mountinfo").unwrap_or_default();
    let hierarchies = hierarchies(&mounts);
    let unified = hierarchies.unified.as_ref().map(|mount| {
        let controllers = host
            .read(format!("{mount}/cgroup.controllers"))
            .unwrap_or_default();
        controllers
            .split_whitespace()
            .map(str::to_owned)
            .collect::<BTreeSet<_>>()
    });
    let mut findings = vec![mode(&hierarchies)];
    if findings[0].is_essential() {
        return findings;
    }
    for (v2, v1, effect) in CONTROLLERS {
        let on_v2 = unified
            .as_ref()
            .is_some_and(|controllers| controllers.contains(*v2));
        findings.push(if on_v2 {
            Finding::has(AREA, *v2, "v2")
        } else if hierarchies.legacy.contains(*v1) {
            Finding::has(AREA, *v2, "v1")
        } else {
            let remedy =
                format!("a kernel with the {v2} controller, not disabled by cgroup_disable= at boot");
            Finding::lacks(AREA, *v2, "no controller", *effect, remedy)
        });
    }
    findings
}

/// Whether systemd can be asked to make cgroups, where it runs the host. `None` where it does not.
pub(super) fn service_manager() -> Option<Finding> {
    const WHAT: &str = "systemd";
    Systemd::has_booted().then(|| match Systemd::of_host().version() {
        Ok(version) => Finding::has(AREA, WHAT, version),
        Err(error) => Finding::lacks(
            AREA,
            WHAT,
            error.to_string(),
            "the daemon makes cgroups by itself, and kubelet's `cgroupDriver: systemd` has no counterpart",
            "start the system bus (dbus.service), and show crisp /run/dbus and /run/systemd",
        ),
    })
}

fn mode(hierarchies: &Hierarchies) -> Finding {
    const WHAT: &str = "mode";
    match (&hierarchies.unified, hierarchies.legacy.is_empty()) {
        (Some(_), true) => Finding::has(AREA, WHAT, "v2"),
        (unified, false) => Finding::lacks(
            AREA,
            WHAT,
            if unified.is_some() { "v1 (hybrid)" } else { "v1" },
            "no memory QoS and no PSI of pods",
            "boot with systemd.unified_cgroup_hierarchy=1",
        ),
        (None, true) => Finding::lacks(
            AREA,
            WHAT,
            "none mounted",
            "containers cannot be limited, killed or told apart",
            "mount -t cgroup2 none /sys/fs/cgroup",
        )
        .essential(),
    }
}

/// Reads mountinfo (proc_pid_mountinfo(5)): the type stands after the separator, v1 controllers in the super options.
fn hierarchies(mountinfo: &str) -> Hierarchies {
    let mut found = Hierarchies::default();
    for line in mountinfo.lines() {
        let Some((mount, source)) = line.split_once(" - ") else {
            continue;
        };
        let mut source = source.split_whitespace();
        match (source.next(), source.nth(1)) {
            (Some("cgroup2"), _) => found.unified = mount.split_whitespace().nth(4).map(str::to_owned),
            (Some("cgroup"), Some(options)) => {
                let controllers = options.split(',').filter(|option| {
                    !option.contains('=') && !matches!(*option, "rw" | "ro" | "xattr" | "none")
                });
                found.legacy.extend(controllers.map(str::to_owned));
            }
            _ => {}
        }
    }
    found
}
