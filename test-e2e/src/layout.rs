//! The files and the configuration of one server, all below one temporary directory.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::host::Host;
use crate::leaks::Scope;

/// Where the server's own misbehaving registry listens, on its host's loopback.
pub const REGISTRY_PORT: u16 = 5000;
/// Where a real registry may listen; also configured as plain http.
pub const DOCKER_REGISTRY_PORT: u16 = 5001;
/// The embedded network of every server; each has a network namespace of its own.
pub const SUBNET: &str = "10.91.0.0/24";
/// Its gateway, which is how pods reach the host.
pub const GATEWAY: &str = "10.91.0.1";
/// The embedded network's bridge.
pub const BRIDGE: &str = "crisp0";

/// Work on the host before the start, given the server's directory.
pub type Preparation = Box<dyn FnOnce(&Path) + Send>;

/// What a server is started with. The defaults serve nearly every test.
#[derive(Default)]
pub struct Settings {
    /// Conflists put into the CNI directory before the start: file name and text.
    pub conflists: Vec<(String, String)>,
    /// The embedded network's subnet; [`SUBNET`] unless set.
    pub subnet: Option<&'static str>,
    /// CNI plugins of the test's own: name and script, found before Debian's.
    pub plugins: Vec<(String, String)>,
    /// Whether the embedded network is off.
    pub without_embedded: bool,
    /// Environment variables of the daemon.
    pub environment: Vec<(String, String)>,
    /// Whether systemd makes the cgroups, for hosts that it runs.
    pub systemd: bool,
    /// More TOML, appended to the configuration.
    pub config: String,
    /// Done on the host, with the server's directory, before the start: a mount below it, say.
    pub prepare: Option<Preparation>,
    /// Where the server's directory is made; among the temporary files unless set.
    pub base: Option<PathBuf>,
    /// A program (and its arguments) that is to exec the daemon: `nice`, a shell with a umask.
    pub wrapper: Vec<String>,
}

/// The files of one server, all below one temporary directory.
pub(crate) struct Layout {
    pub(crate) directory: TempDir,
    pub(crate) cgroup_root: String,
    /// The state and the data directory.
    pub(crate) files: [PathBuf; 2],
    lasting: Vec<PathBuf>,
}

impl Layout {
    /// Below `base`, else where temporary files go.
    pub(crate) fn new(base: Option<&Path>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::Builder::new()
            .prefix("crisp-")
            .tempdir_in(base.map_or_else(std::env::temp_dir, Path::to_owned))
            .expect("a temporary directory");
        let (state, data) = (directory.path().join("state"), directory.path().join("data"));
        for below in ["net.d", "plugins", "logs", "state", "data"] {
            fs::create_dir(directory.path().join(below)).expect("an empty directory");
        }
        Self {
            // The mount points below all images, the empty attachment directory, what the embedded network remembers of
            // the host.
            lasting: vec![
                data.join("db"),
                data.join("m"),
                data.join("cni/attachments"),
                data.join("cni/host.json"),
                state.join("lock"),
            ],
            files: [state, data],
            cgroup_root: format!("crisp-test-{}-{number}", std::process::id()),
            directory,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn config(&self, settings: &Settings) -> String {
        let mut text = String::new();
        let _ = write!(
            text,
            "socket = \"{socket}\"\nstate_dir = \"{state}\"\ndata_dir = \"{data}\"\n\n\
             [cgroup]\ndriver = \"{driver}\"\nroot = \"/{cgroup}\"\n\n\
             [network]\nconf_dir = \"{conf}\"\nbin_dirs = [\"{plugins}\", \"/opt/cni/bin\", \"/usr/lib/cni\"]\n\n\
             [network.embedded]\nenabled = {embedded}\nbridge = \"{BRIDGE}\"\nsubnet = \"{subnet}\"\n\n\
             [registry]\ninsecure = [\"127.0.0.1:{REGISTRY_PORT}\", \"127.0.0.1:{DOCKER_REGISTRY_PORT}\"]\n\n{more}",
            socket = self.path("crisp.sock").display(),
            state = self.path("state").display(),
            data = self.path("data").display(),
            driver = if settings.systemd { "systemd" } else { "cgroupfs" },
            cgroup = self.cgroup_root,
            conf = self.path("net.d").display(),
            plugins = self.path("plugins").display(),
            embedded = !settings.without_embedded,
            subnet = settings.subnet.unwrap_or(SUBNET),
            more = settings.config,
        );
        text
    }

    /// Where this server may leave traces.
    pub(crate) fn scope<'a>(&'a self, host: &'a Host) -> Scope<'a> {
        Scope {
            host,
            cgroup_root: &self.cgroup_root,
            directory: self.directory.path(),
            files: &self.files,
            lasting: &self.lasting,
        }
    }

    /// Prints the end of the daemon's log to where cargo shows a failed test's output.
    pub(crate) fn print_log(&self) {
        const SHOWN: usize = 200;
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        println!("---- crisp's log, the last {SHOWN} lines");
        for line in &lines[lines.len().saturating_sub(SHOWN)..] {
            println!("{line}");
        }
        println!("---- end of crisp's log");
    }
}
