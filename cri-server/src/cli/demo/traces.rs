//! What a pod may leave behind, listed before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;

/// Somewhere to look.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// Mount points in our mount namespace.
    Mounts,
    /// Pinned network namespaces.
    NetworkNamespaces,
    /// Links in our network namespace.
    Links,
    /// Cgroups below this one, in every hierarchy, and the processes in them.
    Cgroups(PathBuf),
    /// Supervisors, wherever they are.
    Supervisors,
    /// Files and directories below `root`, but not those below what lasts.
    Files { root: PathBuf, lasting: Vec<PathBuf> },
}

impl Place {
    /// Where a daemon's own end shows.
    pub(super) fn of_host(config: &Config) -> Vec<Self> {
        let cgroups = Self::Cgroups(config.cgroup.root.clone());
        vec![
            Self::Mounts,
            Self::NetworkNamespaces,
            Self::Links,
            cgroups,
            Self::Supervisors,
        ]
    }

    /// The directories of a daemon that runs: databases, the mount points below all images, the lock and the
    /// socket stay.
    pub(super) fn of_store(config: &Config) -> Vec<Self> {
        let state = vec![config.socket.clone(), config.state_dir.join("crisp.lock")];
        vec![
            Self::Files {
                root: config.state_dir.clone(),
                lasting: state,
            },
            Self::Files {
                root: config.data_dir.clone(),
                lasting: vec![config.data_dir.join("db"), config.data_dir.join("m")],
            },
        ]
    }

    pub(super) fn all(config: &Config) -> Vec<Self> {
        let mut places = Self::of_host(config);
        places.extend(Self::of_store(config));
        places
    }

    fn look(&self, found: &mut BTreeSet<String>) {
        match self {
            Self::Mounts => found.extend(mounts().into_iter().map(|mount| format!("mount {mount}"))),
            Self::NetworkNamespaces => {
                found.extend(names("/run/netns").map(|name| format!("netns /run/netns/{name}")));
            }
            Self::Links => found.extend(names("/sys/class/net").map(|name| format!("link {name}"))),
            Self::Cgroups(root) => cgroups(root, found),
            Self::Supervisors => supervisors(found),
            Self::Files { root, lasting } => walk(root, &mut |path| {
                if !lasting.iter().any(|kept| path.starts_with(kept)) {
                    found.insert(format!("file {}", path.display()));
                }
            }),
        }
    }
}

/// All that there was at one moment.
#[derive(Debug)]
pub(super) struct Traces(BTreeSet<String>);

impl Traces {
    pub(super) fn take(places: &[Place]) -> Self {
        let mut found = BTreeSet::new();
        places.iter().for_each(|place| place.look(&mut found));
        Self(found)
    }

    /// What was not there before.
    pub(super) fn beyond(self, before: &Self) -> Vec<String> {
        self.0
            .into_iter()
            .filter(|trace| !before.0.contains(trace))
            .collect()
    }
}

fn names(directory: &str) -> impl Iterator<Item = String> + use<> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// (mount point, type) of each line of mountinfo (proc_pid_mountinfo(5)).
fn mount_table() -> Vec<(String, String)> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let parse = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        Some((
            mount.split(' ').nth(4)?.to_owned(),
            source.split(' ').next()?.to_owned(),
        ))
    };
    table.lines().filter_map(parse).collect()
}

fn mounts() -> Vec<String> {
    mount_table()
        .into_iter()
        .map(|(point, kind)| format!("{point} ({kind})"))
        .collect()
}

fn cgroups(root: &Path, found: &mut BTreeSet<String>) {
    let below = root.strip_prefix("/").unwrap_or(root);
    for (hierarchy, kind) in mount_table() {
        if !kind.starts_with("cgroup") {
            continue;
        }
        walk(&Path::new(&hierarchy).join(below), &mut |path| {
            if path.is_dir() {
                found.insert(format!("cgroup {}", path.display()));
            } else if path.ends_with("cgroup.procs") {
                let pids = fs::read_to_string(path).unwrap_or_default();
                found.extend(
                    pids.lines()
                        .map(|pid| format!("process {pid} in {}", path.display())),
                );
            }
        });
    }
}

fn supervisors(found: &mut BTreeSet<String>) {
    for pid in names("/proc").filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.trim_end() == "crisp-pod" {
            found.insert(format!("process {pid} (crisp-pod)"));
        }
    }
}

/// Everything below `directory`, links not followed.
fn walk(directory: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        visit(&path);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_found_and_what_lasts_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().to_owned();
        fs::create_dir_all(root.join("db")).expect("a directory");
        let places = [Place::Files {
            root: root.clone(),
            lasting: vec![root.join("db"), root.join("crisp.sock")],
        }];
        let before = Traces::take(&places);
        fs::write(root.join("db/pods.db"), "").expect("a file");
        fs::write(root.join("crisp.sock"), "").expect("a file");
        fs::create_dir_all(root.join("sandboxes/abc")).expect("a directory");
        fs::write(root.join("sandboxes/abc/hosts"), "").expect("a file");
        let left = Traces::take(&places).beyond(&before);
        let expected = ["sandboxes", "sandboxes/abc", "sandboxes/abc/hosts"];
        assert_eq!(
            left,
            expected.map(|path| format!("file {}", root.join(path).display()))
        );
    }

    #[test]
    fn the_host_is_seen() {
        assert!(
            mounts().iter().any(|mount| mount.starts_with("/proc (proc)")),
            "{:?}",
            mounts()
        );
        assert!(names("/sys/class/net").any(|name| name == "lo"));
    }
}
