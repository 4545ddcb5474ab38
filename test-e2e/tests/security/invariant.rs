//! The host invariant: what no attack may change. Mounts, namespaces, links, cgroups, processes and files of the
//! server itself are compared by [`Server::close`]; here is what lies beyond them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use test_e2e::built;
use test_e2e::harness::Server;
use test_e2e::images::digest;

/// Parameters of the host that an escape would change first: each names a program that the kernel runs as root, or
/// opens a door.
const SYSCTLS: [&str; 6] = [
    "kernel/core_pattern",
    "kernel/modprobe",
    "kernel/hostname",
    "kernel/randomize_va_space",
    "kernel/yama/ptrace_scope",
    "vm/mmap_min_addr",
];

/// The host as it was before an attack.
pub(crate) struct HostInvariant {
    canary: PathBuf,
    before: BTreeMap<String, String>,
}

impl HostInvariant {
    /// Puts a canary tree on the host and remembers it, the parameters, and the runtime's binaries.
    pub(crate) fn of(server: &Server) -> Self {
        let canary = server.directory().join("canary");
        fs::create_dir_all(canary.join("sub/empty")).unwrap();
        fs::write(canary.join("file"), "host").unwrap();
        fs::write(canary.join("sub/file"), "host, too").unwrap();
        let before = state(&canary);
        Self { canary, before }
    }

    /// The canary tree: a directory of the host that no container was given.
    pub(crate) fn canary(&self) -> &Path {
        &self.canary
    }

    /// Compares, naming the attack that changed something.
    pub(crate) fn holds(&self, attack: &str) {
        let after = state(&self.canary);
        for (what, before) in &self.before {
            assert_eq!(after.get(what), Some(before), "{attack} changed {what}");
        }
        let added: Vec<_> = after
            .keys()
            .filter(|what| !self.before.contains_key(*what))
            .collect();
        assert!(added.is_empty(), "{attack} added {added:?}");
    }
}

fn state(canary: &Path) -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    walk(canary, &mut state);
    for name in SYSCTLS {
        if let Ok(value) = fs::read_to_string(Path::new("/proc/sys").join(name)) {
            state.insert(format!("sysctl {name}"), value);
        }
    }
    for name in ["crisp", "crisp-pod"] {
        let path = built::crisp().with_file_name(name);
        if let Ok(bytes) = fs::read(&path) {
            state.insert(format!("binary {name}"), digest(&bytes));
        }
    }
    state
}

/// Type, owner, mode and content of everything below a directory.
fn walk(path: &Path, state: &mut BTreeMap<String, String>) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let content = match metadata.is_file() {
        true => digest(&fs::read(path).unwrap()),
        false => String::new(),
    };
    let description = format!(
        "{:o} {}:{} {content}",
        metadata.mode(),
        metadata.uid(),
        metadata.gid()
    );
    state.insert(path.display().to_string(), description);
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            walk(&entry.unwrap().path(), state);
        }
    }
}

/// All regular files below a directory.
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_below(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}
