//! What this node's kernel and file systems can do, tried once at the start.

use std::path::Path;

use runtime::launch::{probe_recursive_read_only, probe_user_namespaces};

/// Each holds the system's answer where it cannot be had.
#[derive(Clone, Debug)]
pub struct Features {
    /// Pods with a user namespace of their own: the layers' file system can be id-mapped.
    pub user_namespaces: Result<(), String>,
    /// Volumes that are read-only with everything mounted below them.
    pub recursive_read_only: Result<(), String>,
}

impl Features {
    /// Tries them. `data` is the directory that layers and writable layers are below.
    pub(super) fn probe(data: &Path) -> Self {
        let text = |answer: std::io::Result<()>| answer.map_err(|error| error.to_string());
        let mapped = ["l", "rw"].map(|folder| probe_user_namespaces(&data.join(folder)));
        Self {
            user_namespaces: mapped.into_iter().try_for_each(text),
            recursive_read_only: text(probe_recursive_read_only()),
        }
    }
}
