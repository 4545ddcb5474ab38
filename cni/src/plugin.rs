//! One execution of a plugin (CNI spec 1.1.0, section 2).
//!
//! A plugin is foreign code with the host's rights, so it gets nothing but what it needs: the `CNI_*`
//! variables and `PATH`, `/` as its directory, three pipes, a process group of its own. What it may take is
//! bounded: time by the chain's deadline, after which the whole group is killed; output by 1 MiB.
//!
//! ```text
//!   configuration ──► stdin  ┌────────┐ stdout ──► result or error, JSON, ≤ 1 MiB
//!                            │ plugin │
//!   CNI_*, PATH ──► env      └────────┘ stderr ──► quoted if it dies without a word, first 4 KiB
//! ```

use std::fmt;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde_json::Value;

use crate::error::{Error, quote};
use crate::process::{Interrupted, Running};

/// A plugin that is being replaced this moment (installers copy over it) cannot be executed; it is tried again for
/// this long.
const REPLACEMENT: Duration = Duration::from_secs(1);
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Compare with what ADD made.
    Check,
    /// Collect what belongs to no valid attachment.
    Gc,
    /// Can the plugin serve ADD now?
    Status,
}

impl Command {
    fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The directories that plugins are in, searched in order.
#[derive(Debug, Clone)]
pub(crate) struct PluginDirectories(pub(crate) Vec<PathBuf>);

impl PluginDirectories {
    /// The first executable file of that name. `kind` is a bare file name: the configuration's parser saw to it.
    pub(crate) fn find(&self, kind: &str) -> Result<PathBuf, Error> {
        use std::os::unix::fs::PermissionsExt;
        let executable = |path: &PathBuf| {
            path.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        self.0
            .iter()
            .map(|directory| directory.join(kind))
            .find(executable)
            .ok_or_else(|| Error::PluginMissing {
                plugin: kind.into(),
                directories: self.0.clone(),
            })
    }

    fn joined(&self) -> String {
        self.0
            .iter()
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
            .join(":")
    }
}

/// The `CNI_*` variables of an attachment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variables {
    pub(crate) container_id: String,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) if_name: String,
    pub(crate) args: String,
}

/// One execution to be.
#[derive(Debug)]
pub(crate) struct Execution<'a> {
    pub(crate) directories: &'a PluginDirectories,
    pub(crate) kind: &'a str,
    pub(crate) command: Command,
    /// None for GC and STATUS, which are about the network.
    pub(crate) variables: Option<&'a Variables>,
    pub(crate) deadline: Instant,
}

/// How a plugin ended.
struct Outcome {
    status: ExitStatus,
    output: Vec<u8>,
    complaint: Vec<u8>,
}

impl Execution<'_> {
    /// Runs the plugin and reads its answer: a JSON value for ADD, nothing of interest for the others.
    ///
    /// Blocks until the plugin has ended, at most to the deadline.
    pub(crate) fn run(&self, configuration: &Value) -> Result<Option<Value>, Error> {
        let path = self.directories.find(self.kind)?;
        let input = configuration.to_string().into_bytes();
        let outcome = self.execute(&path, input)?;
        if !outcome.status.success() {
            return Err(self.failure(&outcome));
        }
        match self.command {
            Command::Add => self.answer(&outcome.output).map(Some),
            _ => Ok(None),
        }
    }

    fn answer(&self, output: &[u8]) -> Result<Value, Error> {
        let invalid = |problem| Error::PluginResult {
            plugin: self.kind.into(),
            command: self.command,
            problem,
        };
        if output.iter().all(u8::is_ascii_whitespace) {
            return Err(invalid("it exited with code 0 and wrote nothing".into()));
        }
        serde_json::from_slice(output).map_err(|_| invalid(format!("no JSON: {}", quote(output))))
    }

    fn failure(&self, outcome: &Outcome) -> Error {
        let plugin = self.kind.to_owned();
        let said: Option<Value> = serde_json::from_slice(&outcome.output).ok();
        let code = said
            .as_ref()
            .and_then(|said| said.get("code")?.as_u64())
            .and_then(|code| u32::try_from(code).ok());
        if let (Some(said), Some(code)) = (&said, code) {
            let text = |key: &str| said.get(key).and_then(Value::as_str).unwrap_or_default();
            let message = match (text("msg"), text("details")) {
                (message, "") => message.to_owned(),
                (message, details) => format!("{message} ({details})"),
            };
            return Error::PluginRefused {
                plugin,
                command: self.command,
                code,
                message: quote(message.as_bytes()),
            };
        }
        let how = match (outcome.status.code(), outcome.status.signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended".into(),
        };
        let words = if outcome.output.is_empty() {
            &outcome.complaint
        } else {
            &outcome.output
        };
        Error::PluginDied {
            plugin,
            command: self.command,
            how,
            said: quote(words),
        }
    }

    fn execute(&self, path: &Path, input: Vec<u8>) -> Result<Outcome, Error> {
        let start_failed = |source| Error::PluginStart {
            plugin: self.kind.into(),
            source,
        };
        let child = self.start(path).map_err(start_failed)?;
        let mut running = Running::new(child).map_err(start_failed)?;
        match running.converse(input, self.deadline) {
            Ok(status) => Ok(Outcome {
                status,
                output: std::mem::take(&mut running.output),
                complaint: std::mem::take(&mut running.complaint),
            }),
            Err(Interrupted::Deadline) => Err(Error::PluginDeadline {
                plugin: self.kind.into(),
                command: self.command,
            }),
            Err(Interrupted::TooMuch) => Err(Error::PluginResult {
                plugin: self.kind.into(),
                command: self.command,
                problem: "it wrote more than 1 MiB and was killed".into(),
            }),
            Err(Interrupted::Io(source)) => Err(start_failed(source)),
        }
    }

    fn start(&self, path: &Path) -> io::Result<Child> {
        let patience = self.deadline.min(Instant::now() + REPLACEMENT);
        loop {
            match self.prepare(path).spawn() {
                Err(error)
                    if error.raw_os_error() == Some(Errno::ETXTBSY as i32) && Instant::now() < patience =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                outcome => return outcome,
            }
        }
    }

    fn prepare(&self, path: &Path) -> std::process::Command {
        let mut command = std::process::Command::new(path);
        command
            .env_clear()
            .env(
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()),
            )
            .env("CNI_COMMAND", self.command.as_str())
            .env("CNI_PATH", self.directories.joined())
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(variables) = self.variables {
            command
                .env("CNI_CONTAINERID", &variables.container_id)
                .env("CNI_NETNS", variables.netns.as_deref().unwrap_or(Path::new("")))
                .env("CNI_IFNAME", &variables.if_name)
                .env("CNI_ARGS", &variables.args);
        }
        command
    }
}
