//! The cgroup hierarchies of the host, found in its mount table.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::CgroupError;
use crate::launch::{CgroupLayout, HierarchyMount, HostPath};

/// Options of a v1 mount that are not controllers.
const NOT_CONTROLLERS: [&str; 9] = [
    "rw",
    "ro",
    "seclabel",
    "xattr",
    "none",
    "clone_children",
    "noprefix",
    "favordynmods",
    "cpuset_v2_mode",
];

/// How the host mounts its hierarchies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Only v1.
    V1,
    /// v1 with controllers, and a v2 hierarchy without any that matter.
    Hybrid,
    /// Only v2.
    V2,
}

/// All hierarchies of the host. Never empty.
#[derive(Debug)]
pub struct Hierarchies {
    all: Vec<Hierarchy>,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) mount: PathBuf,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Controllers and the name, as mount options.
    V1 {
        options: Vec<String>,
    },
    V2,
}

impl Hierarchy {
    pub(super) fn is_v2(&self) -> bool {
        self.kind == Kind::V2
    }

    /// Whether this v1 hierarchy carries a controller.
    pub(super) fn has(&self, controller: &str) -> bool {
        matches!(&self.kind, Kind::V1 { options } if options.iter().any(|option| option == controller))
    }
}

impl Hierarchy {
    fn directory_name(&self) -> String {
        self.mount
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// Controllers that are mounted together under a name that is none of theirs.
    fn aliases(&self) -> Vec<String> {
        match &self.kind {
            Kind::V1 { options } if options.len() > 1 => {
                let name = self.directory_name();
                options
                    .iter()
                    .filter(|option| !option.contains('=') && **option != name)
                    .cloned()
                    .collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Hierarchies {
    /// Finds the hierarchies that are mounted in the caller's mount namespace.
    ///
    /// # Errors
    /// [`CgroupError::Detect`] when the mount table cannot be read or has none.
    pub fn detect() -> Result<Arc<Hierarchies>, CgroupError> {
        let table = std::fs::read("/proc/self/mountinfo").map_err(|source| CgroupError::Detect { source })?;
        let all = parse(&table);
        if all.is_empty() {
            let source = std::io::Error::new(std::io::ErrorKind::NotFound, "no cgroup hierarchy is mounted");
            return Err(CgroupError::Detect { source });
        }
        Ok(Arc::new(Hierarchies { all }))
    }

    /// How the host mounts them.
    pub fn layout(&self) -> Layout {
        match (
            self.all.iter().any(Hierarchy::is_v2),
            self.all.iter().all(Hierarchy::is_v2),
        ) {
            (_, true) => Layout::V2,
            (true, false) => Layout::Hybrid,
            (false, false) => Layout::V1,
        }
    }

    pub(super) fn all(&self) -> &[Hierarchy] {
        &self.all
    }

    /// The hierarchy that carries a controller: a v1 one, or v2 where there is nothing else.
    pub(super) fn controller(&self, name: &str) -> Option<&Hierarchy> {
        self.all.iter().find(|hierarchy| hierarchy.has(name)).or_else(|| {
            self.all
                .iter()
                .find(|hierarchy| hierarchy.is_v2() && self.layout() == Layout::V2)
        })
    }

    /// How the hierarchies are shown at `path` of each.
    pub(super) fn mount_layout(&self, path: &Path) -> Result<CgroupLayout, &'static str> {
        let source = |hierarchy: &Hierarchy| {
            HostPath::parse(hierarchy.mount.join(path).as_os_str().as_encoded_bytes())
        };
        if let (Layout::V2, [v2]) = (self.layout(), self.all.as_slice()) {
            return Ok(CgroupLayout::Unified { source: source(v2)? });
        }
        let hierarchies = self
            .all
            .iter()
            .map(|hierarchy| {
                Ok(HierarchyMount {
                    directory: hierarchy.directory_name(),
                    source: source(hierarchy)?,
                    aliases: hierarchy.aliases(),
                })
            })
            .collect::<Result<_, &'static str>>()?;
        Ok(CgroupLayout::PerHierarchy { hierarchies })
    }

    #[cfg(test)]
    pub(crate) fn from_mount_table(table: &[u8]) -> Arc<Hierarchies> {
        Arc::new(Hierarchies { all: parse(table) })
    }
}

/// Reads mountinfo (proc_pid_mountinfo(5)). A hierarchy mounted twice counts where it was mounted first.
fn parse(table: &[u8]) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in table.split(|byte| *byte == b'\n') {
        if let Some(hierarchy) = parse_line(line)
            && !found.iter().any(|other| other.kind == hierarchy.kind)
        {
            found.push(hierarchy);
        }
    }
    found
}

fn parse_line(line: &[u8]) -> Option<Hierarchy> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = fields.nth(3)?;
    let mount = fields.next()?;
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let (file_system, _source, options) = (rest.next()?, rest.next()?, rest.next()?);
    // A bind mount of part of a hierarchy is somebody's container.
    if root != b"/" {
        return None;
    }
    let kind = match file_system {
        b"cgroup2" => Kind::V2,
        b"cgroup" => {
            let options = std::str::from_utf8(options).ok()?;
            let options: Vec<String> = options
                .split(',')
                .filter(|option| !NOT_CONTROLLERS.contains(option) && !option.starts_with("release_agent="))
                .map(str::to_owned)
                .collect();
            Kind::V1 { options }
        }
        _ => return None,
    };
    Some(Hierarchy {
        mount: unescape(mount),
        kind,
    })
}

/// The mount table writes space, tab, newline and backslash in octal.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match (byte, octal) {
            (b'\\', Some(value)) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    Path::new(&OsString::from_vec(bytes)).to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 27 0:27 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
34 31 0:30 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
35 31 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
36 27 0:29 /pod/x /srv/container/memory rw,relatime - cgroup cgroup rw,memory
37 27 0:29 / /srv/again\\040here rw,relatime - cgroup cgroup rw,memory
";

    #[test]
    fn a_hybrid_host_is_understood() {
        let hierarchies = Hierarchies {
            all: parse(HYBRID.as_bytes()),
        };
        assert_eq!(hierarchies.layout(), Layout::Hybrid);
        let mounts: Vec<_> = hierarchies
            .all
            .iter()
            .map(|hierarchy| hierarchy.mount.to_str().unwrap())
            .collect();
        assert_eq!(
            mounts,
            [
                "/sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/systemd",
                "/sys/fs/cgroup/unified"
            ]
        );
        assert_eq!(
            hierarchies.controller("cpuacct").unwrap(),
            hierarchies.controller("cpu").unwrap()
        );
        assert_eq!(hierarchies.controller("hugetlb"), None);
        let layout = hierarchies.mount_layout(Path::new("pods/x")).unwrap();
        let CgroupLayout::PerHierarchy { hierarchies } = layout else {
            panic!()
        };
        assert_eq!(hierarchies[0].aliases, ["cpu", "cpuacct"]);
        assert_eq!(
            hierarchies[0].source.to_string(),
            "/sys/fs/cgroup/cpu,cpuacct/pods/x"
        );
        assert_eq!(
            (hierarchies[2].directory.as_str(), hierarchies[2].aliases.len()),
            ("systemd", 0)
        );
        assert_eq!(hierarchies[3].directory, "unified");
    }

    #[test]
    fn a_v2_host_has_one_hierarchy_for_all() {
        let table = b"31 27 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let hierarchies = Hierarchies { all: parse(table) };
        assert_eq!(hierarchies.layout(), Layout::V2);
        assert!(hierarchies.controller("memory").unwrap().is_v2());
        let CgroupLayout::Unified { source } = hierarchies.mount_layout(Path::new("")).unwrap() else {
            panic!()
        };
        assert_eq!(source.to_string(), "/sys/fs/cgroup/");
    }

    #[test]
    fn octal_escapes_are_undone() {
        assert_eq!(unescape(br"/a\040b\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape(br"/trailing\04"), Path::new(r"/trailing\04"));
    }
}
