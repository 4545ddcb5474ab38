//! What a server may leave behind, listed before and after: mounts, namespace pins, links, cgroups,
//! processes, sockets, files, shared memory.
//!
//! The lists are those of the server's own [`Host`] (whose mount and network namespaces hold nothing
//! else), of the cgroup trees below its root, of its state and data directories, and, of the machine
//! itself, what names this server. So servers of other tests never show up in them.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::Host;

/// Something that exists on the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trace {
    /// A mount point in the host's mount namespace.
    Mount(String),
    /// A mount of the machine's that names this server.
    MachineMount(String),
    /// A namespace pinned below `/run/netns`.
    Pin(PathBuf),
    /// A link in the host's network namespace.
    Link(String),
    /// A `cr…` link in the machine's network namespace.
    MachineLink(String),
    /// A cgroup below the server's root.
    Cgroup(PathBuf),
    /// A process in the host's namespaces or in one of the cgroups.
    Process(i32, String),
    /// A socket in the host's network namespace.
    Socket(String),
    /// A file or directory in the state or data directory.
    File(PathBuf),
    /// POSIX shared memory.
    SharedMemory(PathBuf),
}

impl fmt::Display for Trace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount(line) => write!(out, "mount {line}"),
            Self::MachineMount(line) => write!(out, "mount on the machine {line}"),
            Self::Pin(path) => write!(out, "namespace pin {}", path.display()),
            Self::Link(name) => write!(out, "link {name}"),
            Self::MachineLink(name) => write!(out, "link on the machine {name}"),
            Self::Cgroup(path) => write!(out, "cgroup {}", path.display()),
            Self::Process(pid, what) => write!(out, "process {pid} {what}"),
            Self::Socket(line) => write!(out, "socket {line}"),
            Self::File(path) => write!(out, "file {}", path.display()),
            Self::SharedMemory(path) => write!(out, "shared memory {}", path.display()),
        }
    }
}

/// Where to look.
pub struct Scope<'a> {
    /// The host the server lives on.
    pub host: &'a Host,
    /// The cgroup root the server was given, without a leading slash.
    pub cgroup_root: &'a str,
    /// The directory all paths of this server lie below.
    pub directory: &'a Path,
    /// Its directories whose content is listed, and the parts of them that may stay.
    pub files: &'a [PathBuf],
    /// Parts of those that outlive pods and images (databases, locks).
    pub lasting: &'a [PathBuf],
}

impl Scope<'_> {
    /// All that there is now.
    pub fn list(&self) -> BTreeSet<Trace> {
        let mut traces = BTreeSet::new();
        self.mounts(&mut traces);
        self.network(&mut traces);
        traces.extend(self.cgroups().into_iter().map(Trace::Cgroup));
        traces.extend(
            self.processes()
                .into_iter()
                .map(|(pid, what)| Trace::Process(pid, what)),
        );
        for directory in self.files {
            walk(&self.host.path(directory), &mut |path| {
                let path = Path::new("/").join(path.strip_prefix(self.host.path("/")).unwrap_or(path));
                if !self.lasting.iter().any(|lasting| path.starts_with(lasting)) {
                    traces.insert(Trace::File(path));
                }
            });
        }
        walk(&self.host.path("/dev/shm"), &mut |path| {
            traces.insert(Trace::SharedMemory(path.to_owned()));
        });
        walk(&self.host.path("/run/netns"), &mut |path| {
            traces.insert(Trace::Pin(path.to_owned()));
        });
        traces
    }

    /// The cgroups below the server's root, in every hierarchy, deepest last.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for hierarchy in hierarchies() {
            directories(&hierarchy.join(self.cgroup_root), &mut found);
        }
        found
    }

    /// Processes that are the server's: in its host's mount or network namespace, or in its cgroups.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let (mount, network) = (self.host.namespace("mnt"), self.host.namespace("net"));
        let own = std::process::id() as i32;
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            let inside = |kind: &str, wanted: &Path| {
                fs::read_link(entry.path().join("ns").join(kind)).is_ok_and(|namespace| namespace == wanted)
            };
            let grouped = || {
                let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
                groups.lines().any(|line| {
                    let path = line
                        .splitn(3, ':')
                        .nth(2)
                        .unwrap_or_default()
                        .trim_start_matches('/');
                    path == self.cgroup_root || path.starts_with(&format!("{}/", self.cgroup_root))
                })
            };
            if pid != own && (inside("mnt", &mount) || inside("net", &network) || grouped()) {
                found.push((pid, describe(&entry.path())));
            }
        }
        found
    }

    /// Kills what is left and removes the cgroups: the way out of a failed test.
    pub fn sweep(&self) {
        for _ in 0..200 {
            let processes = self.processes();
            if processes.is_empty() {
                break;
            }
            for (pid, _) in processes {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        for cgroup in self.cgroups().iter().rev() {
            let _ = fs::remove_dir(cgroup);
        }
    }

    fn mounts(&self, traces: &mut BTreeSet<Trace>) {
        for line in fs::read_to_string(self.host.proc("mountinfo"))
            .unwrap_or_default()
            .lines()
        {
            traces.insert(Trace::Mount(stable(line)));
        }
        let named = self.directory.to_string_lossy();
        for line in fs::read_to_string("/proc/self/mountinfo")
            .unwrap_or_default()
            .lines()
        {
            if line.contains(&*named) {
                traces.insert(Trace::MachineMount(stable(line)));
            }
        }
    }

    fn network(&self, traces: &mut BTreeSet<Trace>) {
        traces.extend(links(&self.host.proc("net/dev")).into_iter().map(Trace::Link));
        let ours = |name: &String| name.len() == 13 && name.starts_with("cr");
        traces.extend(
            links(Path::new("/proc/self/net/dev"))
                .into_iter()
                .filter(ours)
                .map(Trace::MachineLink),
        );
        let unix = fs::read_to_string(self.host.proc("net/unix")).unwrap_or_default();
        for path in unix
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(7))
        {
            traces.insert(Trace::Socket(format!("unix {path}")));
        }
        for family in ["tcp", "tcp6"] {
            let table = fs::read_to_string(self.host.proc(&format!("net/{family}"))).unwrap_or_default();
            for line in table.lines().skip(1) {
                let fields: Vec<_> = line.split_whitespace().collect();
                // 0A is LISTEN: connections come and go with the client.
                if fields.get(3) == Some(&"0A") {
                    traces.insert(Trace::Socket(format!("{family} {}", fields[1])));
                }
            }
        }
    }
}

/// Everything in `after` that `before` did not have.
pub fn left_behind<'a>(before: &'a BTreeSet<Trace>, after: &'a BTreeSet<Trace>) -> Vec<&'a Trace> {
    after.difference(before).collect()
}

/// Root, mount point, type and source of a mountinfo line: its ids differ from one mount to the next.
fn stable(line: &str) -> String {
    let fields: Vec<_> = line.split(' ').collect();
    let kind = fields
        .iter()
        .position(|field| *field == "-")
        .map_or(&[][..], |dash| &fields[dash + 1..]);
    format!(
        "{} {} {}",
        fields.get(3).unwrap_or(&""),
        fields.get(4).unwrap_or(&""),
        kind[..kind.len().min(2)].join(" ")
    )
}

fn links(table: &Path) -> Vec<String> {
    let table = fs::read_to_string(table).unwrap_or_default();
    table
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim().to_owned())
        .collect()
}

fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let of_cgroups = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    mounts
        .lines()
        .filter(of_cgroups)
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect()
}

/// The names below a cgroup, in each hierarchy that has it.
pub fn cgroups_in(parent: &str) -> Vec<BTreeSet<String>> {
    let parents = hierarchies()
        .into_iter()
        .map(|hierarchy| hierarchy.join(parent.trim_start_matches('/')));
    let names = |parent: PathBuf| {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        // Those of containers and pods, not the kernel's files.
        names.filter(|name| name.len() == 64).collect()
    };
    parents.filter(|parent| parent.is_dir()).map(names).collect()
}

fn directories(path: &Path, found: &mut Vec<PathBuf>) {
    if !path.is_dir() {
        return;
    }
    found.push(path.to_owned());
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            directories(&entry.path(), found);
        }
    }
}

/// Everything below `directory`, without following links.
fn walk(directory: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        visit(&entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
}

fn describe(process: &Path) -> String {
    let command = fs::read(process.join("cmdline")).unwrap_or_default();
    let command: Vec<_> = command
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    let state = fs::read_to_string(process.join("status")).unwrap_or_default();
    let state = state
        .lines()
        .find_map(|line| line.strip_prefix("State:"))
        .unwrap_or("gone")
        .trim();
    let name = fs::read(process.join("comm")).unwrap_or_default();
    let name = std::ffi::OsStr::from_bytes(name.trim_ascii_end());
    format!("[{}] {state}: {}", name.display(), command.join(" ").trim())
}

#[cfg(test)]
mod tests {
    use super::{Scope, Trace, left_behind};
    use crate::host::Host;
    use std::fs;
    use std::process::{Command, Stdio};

    /// What a test that fails on its way has made goes all the same.
    struct Swept<'a, F: Fn(&'a Host) -> Scope<'a>>(&'a F, &'a Host);

    impl<'a, F: Fn(&'a Host) -> Scope<'a>> Drop for Swept<'a, F> {
        fn drop(&mut self) {
            self.0(self.1).sweep();
        }
    }

    /// Each kind of leftover is seen, and only in the host that has it.
    #[tokio::test]
    async fn what_is_left_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        fs::create_dir(&state).unwrap();
        let (host, other) = (Host::new().await, Host::new().await);
        let files = [state.clone()];
        let lasting = [state.join("db")];
        let root = format!("crisp-test-leaks-{}", std::process::id());
        let scope = |host| Scope {
            host,
            cgroup_root: &root,
            directory: directory.path(),
            files: &files,
            lasting: &lasting,
        };
        let (before, before_other) = (scope(&host).list(), scope(&other).list());

        fs::create_dir(state.join("db")).unwrap();
        fs::write(state.join("db/pods.db"), "").unwrap();
        assert_eq!(
            left_behind(&before, &scope(&host).list()),
            Vec::<&Trace>::new(),
            "what may stay is no leak"
        );

        let inside = state.clone();
        let (mut child, listener) = host
            .enter(move || {
                nix::mount::mount(
                    Some("tmpfs"),
                    &inside,
                    Some("tmpfs"),
                    nix::mount::MsFlags::empty(),
                    None::<&str>,
                )
                .unwrap();
                fs::create_dir(inside.join("sandboxes")).unwrap();
                fs::write("/dev/shm/segment", "").unwrap();
                fs::create_dir("/run/netns").unwrap();
                fs::write("/run/netns/crisp-0123456789ab", "").unwrap();
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                (
                    Command::new("sleep")
                        .arg("1000")
                        .stdout(Stdio::null())
                        .spawn()
                        .unwrap(),
                    listener,
                )
            })
            .await;
        let _swept = Swept(&scope, &host);
        let hierarchies = super::hierarchies();
        let cgroup = hierarchies.first().expect("a host with cgroups").join(&root);
        fs::create_dir(&cgroup).unwrap();

        let after = scope(&host).list();
        let found: Vec<String> = left_behind(&before, &after)
            .iter()
            .map(ToString::to_string)
            .collect();
        for kind in [
            "mount /",
            "file ",
            "shared memory ",
            "namespace pin ",
            "socket tcp ",
            "process ",
            "cgroup ",
        ] {
            assert!(
                found.iter().any(|line| line.starts_with(kind)),
                "{kind} is missing: {found:#?}"
            );
        }
        assert!(
            left_behind(&before_other, &scope(&other).list())
                .iter()
                .all(|trace| matches!(trace, Trace::Cgroup(_) | Trace::File(_)))
        );

        drop(listener);
        scope(&host).sweep();
        assert!(!child.wait().unwrap().success(), "swept");
        assert!(!cgroup.exists());
    }
}
