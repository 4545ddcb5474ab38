//! The configuration: from files and flags to a value that is correct by construction.
//!
//! ```text
//!  config.toml ─┐  read, check keys          check values
//!  config.toml.d/10-a.toml ─┼─────────► merge ─► Raw ─────────► Config
//!  config.toml.d/20-b.toml ─┤   (later wins,              (every path absolute,
//!  --socket … ──┘    tables merge)          every range checked)
//! ```
//!
//! No file is needed: every key has a default. Every error names the file, the line and the key, for a node's
//! configuration is usually written by a template, by someone who is not there when it fails.
//!
//! - `source` reads, remembers where each key came from, and merges,
//! - `raw` holds the shape of the file and all defaults,
//! - `keys` the one line that documents each key, in the order in which `crisp config` prints them,
//! - `check` turns it into a [`Config`], `render` back into a commented file.

mod check;
mod duration;
mod error;
mod keys;
mod raw;
mod render;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};

pub use error::{ConfigError, Place};
pub use source::Overrides;

/// Read when no `--config` is given; may be missing.
pub const DEFAULT_FILE: &str = "/etc/crisp/config.toml";

/// The effective configuration. It can only be had through [`Config::load`] and [`Config::from_toml`], so every field
/// has been checked; paths are absolute, and free of `..`.
#[derive(Debug, Clone)]
pub struct Config {
    /// The socket that serves CRI and the admin service.
    pub socket: PathBuf,
    /// What dies with the boot: supervisors' sockets, exit records, per-pod files.
    pub state_dir: PathBuf,
    /// What stays: records, images, writable layers.
    pub data_dir: PathBuf,
    /// What is logged, and how.
    pub log: Log,
    /// Where pods' cgroups are made, and by whom.
    pub cgroup: Cgroup,
    /// The per-pod supervisor.
    pub supervisor: Supervisor,
    /// CNI, and the network that serves without it.
    pub network: Network,
    /// Where images come from.
    pub registry: Registry,
    /// How images are pulled and kept.
    pub image: Image,
    /// Names besides the default one under which the native runtime is offered to RuntimeClasses.
    pub handlers: BTreeMap<String, Handler>,
    /// Limits of every container that its pod does not set.
    pub limits: Limits,
    /// The daemon's own metrics.
    pub metrics: Metrics,
    /// What confines containers that do not say.
    pub security: Security,
    /// The server of exec, attach and port-forward.
    pub streaming: Streaming,
    /// Directories of CDI files; a later one wins.
    pub cdi_dirs: Vec<PathBuf>,
    /// What the fields above were checked from; kept so that `crisp config` prints what the user wrote.
    raw: raw::Raw,
    /// Where it was read, so that it can be read again; nowhere for [`Config::from_toml`].
    source: Option<Source>,
}

/// The files and flags that a configuration comes from.
#[derive(Debug, Clone)]
struct Source {
    file: Option<PathBuf>,
    overrides: Overrides,
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct Log {
    /// Levels, in a form that is known to be right.
    pub level: String,
    /// For people or for programs.
    pub format: LogFormat,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where pods' cgroups are made, and by whom.
#[derive(Debug, Clone)]
pub struct Cgroup {
    /// Who makes them.
    pub driver: CgroupDriver,
    /// Parent of pods that name none, as a path within the hierarchy: starts with `/`, at least one component.
    pub root: PathBuf,
    /// First part of the names of containers' scopes; without effect for [`CgroupDriver::Cgroupfs`].
    pub prefix: String,
}

/// Who makes the cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// systemd where it has booted a host with cgroup v2 and answers, else the daemon itself.
    Auto,
    /// The daemon itself, by mkdir.
    Cgroupfs,
    /// systemd, as scopes in the slices that kubelet names.
    Systemd,
}

/// The per-pod supervisor.
#[derive(Debug, Clone)]
pub struct Supervisor {
    /// The `crisp-pod` binary. Found beside `crisp` or in `PATH` when the configuration gives a bare name; whether it
    /// can be read is seen at start.
    pub path: PathBuf,
}

/// CNI, and the network that serves without it.
#[derive(Debug, Clone)]
pub struct Network {
    /// Where conflists appear.
    pub conf_dir: PathBuf,
    /// Searched in this order for plugins; never empty.
    pub bin_dirs: Vec<PathBuf>,
    /// For one ADD, DEL or CHECK of a whole chain.
    pub chain_timeout: Duration,
    /// Serves while `conf_dir` holds no conflist.
    pub embedded: Embedded,
}

/// The embedded bridge network.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// When not, a node without a conflist has no network and says so.
    pub enabled: bool,
    /// The bridge's name: at most 10 bytes.
    pub bridge: String,
    /// The pods' addresses, the first of which is the bridge's; from /8 to /29.
    pub subnet: Ipv4Net,
    /// The same for IPv6 when set; from /48 to /120.
    pub subnet6: Option<Ipv6Net>,
    /// When unset, that of the default route's link.
    pub mtu: Option<u32>,
}

impl Embedded {
    /// The bridge's own address: the gateway of the pods.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet.network()) + 1)
    }
}

/// Where images come from.
#[derive(Debug, Clone)]
pub struct Registry {
    /// For a registry host, the URLs to try before the host itself.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Hosts spoken to by plain HTTP, or by TLS without verification where they offer that.
    pub insecure: Vec<String>,
    /// Docker's `config.json`, asked for pulls that bring no credentials of their own.
    pub docker_config: Option<PathBuf>,
    /// Requests under way to one host at a time, 1 to 64.
    pub connections_per_host: usize,
    /// Directories with `<host>/hosts.toml`; the first that has the host counts.
    pub config_dirs: Vec<PathBuf>,
}

/// How images are pulled and kept.
#[derive(Debug, Clone)]
pub struct Image {
    /// Layers fetched at once for one image, 1 to 64.
    pub max_parallel_layers: usize,
    /// Keep layers as they were fetched, beside the unpacked ones.
    pub keep_compressed: bool,
    /// How layers are kept.
    pub layer_format: image::LayerFormatChoice,
    /// A pull that receives nothing for so long has failed, and so has an import that keeps others waiting.
    pub progress_timeout: Duration,
    /// Names that kubelet's garbage collection must leave alone.
    pub pinned: Vec<String>,
    /// Who decides which images may be pulled.
    pub verifier: Option<image::Verifier>,
}

/// One alias of the native runtime. It has no settings of its own yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {}

/// Limits of every container that its pod does not set.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Processes and threads; `None` leaves it to kubelet's limit of the pod.
    pub pids: Option<u64>,
    /// RLIMIT_NOFILE, soft and hard.
    pub open_files: (u64, u64),
    /// How long an ExecSync waits for output after its command has exited.
    pub exec_drain: Duration,
}

/// What confines containers that do not say.
#[derive(Debug, Clone, Copy)]
pub struct Security {
    /// For containers that name no seccomp profile.
    pub seccomp_when_unset: SeccompWhenUnset,
}

/// The seccomp profile of containers that name none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeccompWhenUnset {
    /// None.
    Unconfined,
    /// The one that `RuntimeDefault` names.
    RuntimeDefault,
}

/// The server of exec, attach and port-forward.
#[derive(Debug, Clone)]
pub struct Streaming {
    /// Where it listens.
    pub address: IpAddr,
    /// Its port; 0 for any that is free.
    pub port: u16,
    /// Without, it speaks plain HTTP.
    pub tls: Option<TlsFiles>,
    /// A session on which nothing moves for so long is closed.
    pub idle_timeout: Duration,
    /// Sessions at once; never 0.
    pub max_sessions: usize,
}

/// A certificate chain and its key, in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The daemon's own metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Where they are served; `None` for nowhere.
    pub address: Option<SocketAddr>,
}

impl Config {
    /// The configuration from `file` (or [`DEFAULT_FILE`], if there is one), the drop-ins in `<file>.d/*.toml` in the
    /// order of their names, and the command line. A later source wins; tables merge, lists are replaced.
    ///
    /// # Errors
    /// An unreadable file, TOML that is none, an unknown key, a value of the wrong type or out of range: each with its
    /// place.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut merged = source::Merged::default();
        match file {
            Some(file) => merged.read(file)?,
            None => merged.read_if_present(Path::new(DEFAULT_FILE))?,
        }
        merged.read_drop_ins(file.unwrap_or(Path::new(DEFAULT_FILE)))?;
        merged.apply(overrides);
        let mut config = check::check(merged.into_raw()?)?;
        config.source = Some(Source {
            file: file.map(Path::to_owned),
            overrides: overrides.clone(),
        });
        Ok(config)
    }

    /// The configuration as its files are now; `None` when it comes from no file. For what a running daemon
    /// may take up without a restart.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn again(&self) -> Option<Result<Self, ConfigError>> {
        let source = self.source.as_ref()?;
        Some(Self::load(source.file.as_deref(), &source.overrides))
    }

    /// The configuration that one document alone describes: for tests and for tools that print one.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let mut merged = source::Merged::default();
        merged.add(Path::new("config.toml"), text)?;
        check::check(merged.into_raw()?)
    }

    /// The effective configuration as TOML: each key with a line that says what it is; defaults are commented out.
    /// [`Config::from_toml`] reads it back as the same configuration.
    pub fn to_toml(&self) -> String {
        render::toml(&self.raw)
    }

    /// The effective configuration as JSON, defaults included.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(&self.raw).unwrap_or_default()
    }
}
