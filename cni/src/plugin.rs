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
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use serde_json::Value;

use crate::error::{Error, quote};

const LARGEST_OUTPUT: usize = 1 << 20;
const LARGEST_COMPLAINT: usize = 4096;
/// A killed process is gone within this time, or it hangs in the kernel and is left to a reaper thread.
const DEATH: Duration = Duration::from_secs(2);
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
        let child = self.prepare(path).spawn().map_err(start_failed)?;
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

enum Interrupted {
    Deadline,
    TooMuch,
    Io(io::Error),
}

impl From<Errno> for Interrupted {
    fn from(errno: Errno) -> Self {
        Interrupted::Io(errno.into())
    }
}

/// A started plugin. Dropped before it ended, its process group is killed.
struct Running {
    child: Option<Child>,
    exited: OwnedFd,
    output: Vec<u8>,
    complaint: Vec<u8>,
}

impl Running {
    fn new(child: Child) -> io::Result<Self> {
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let exited = pid
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        match exited {
            Ok(exited) => Ok(Running {
                child: Some(child),
                exited,
                output: Vec::new(),
                complaint: Vec::new(),
            }),
            Err(errno) => {
                kill_and_reap(child);
                Err(errno.into())
            }
        }
    }

    /// Feeds the plugin and reads what it writes until it exits. Its pipes may stay open behind it, held by a
    /// process that it left: what is in them at its exit is read, more is not waited for.
    fn converse(&mut self, input: Vec<u8>, deadline: Instant) -> Result<ExitStatus, Interrupted> {
        let Some(child) = self.child.as_mut() else {
            return Err(Errno::ECHILD.into());
        };
        let (mut stdin, mut stdout, mut stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        for pipe in [
            stdin.as_ref().map(AsFd::as_fd),
            stdout.as_ref().map(AsFd::as_fd),
            stderr.as_ref().map(AsFd::as_fd),
        ] {
            pipe.map(|pipe| fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)))
                .transpose()?;
        }
        let mut unsent = &input[..];
        loop {
            let exited = self.wait(deadline, stdin.as_ref(), stdout.as_ref(), stderr.as_ref())?;
            if feed(stdin.as_mut(), &mut unsent) {
                stdin = None;
            }
            if drain(stdout.as_mut(), &mut self.output, LARGEST_OUTPUT) {
                stdout = None;
            }
            if drain(stderr.as_mut(), &mut self.complaint, LARGEST_COMPLAINT) {
                stderr = None;
            }
            if self.output.len() > LARGEST_OUTPUT {
                return Err(Interrupted::TooMuch);
            }
            if exited {
                let mut child = self.child.take().ok_or(Errno::ECHILD)?;
                return child.wait().map_err(Interrupted::Io);
            }
        }
    }

    /// Waits for something to do; true if the plugin has exited.
    fn wait(
        &self,
        deadline: Instant,
        stdin: Option<&impl AsFd>,
        stdout: Option<&impl AsFd>,
        stderr: Option<&impl AsFd>,
    ) -> Result<bool, Interrupted> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Interrupted::Deadline);
        }
        let mut fds = vec![PollFd::new(self.exited.as_fd(), PollFlags::POLLIN)];
        fds.extend(stdin.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
        fds.extend(stdout.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        fds.extend(stderr.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        // Rounded up, so that the last wait does not spin.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(fds[0].revents().is_some_and(|events| !events.is_empty())),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            kill_and_reap(child);
        }
    }
}

/// Kills the plugin's whole group and takes its exit status off the process table.
fn kill_and_reap(mut child: Child) {
    // Not yet waited for, so its id cannot have become another process'.
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = child.kill();
    let deadline = Instant::now() + DEATH;
    let gone = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .is_some_and(|pidfd| ends_by(&pidfd, deadline));
    if gone {
        let _ = child.wait();
    } else {
        // It hangs in the kernel. Nobody else may wait that long.
        let _ = std::thread::Builder::new()
            .name("cni-reap".into())
            .spawn(move || child.wait());
    }
}

fn ends_by(pidfd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            Ok(ready) => return ready > 0,
            Err(_) => return false,
        }
    }
}

/// Writes what the pipe takes; true when there is nothing left to write, or nobody to read it.
fn feed(pipe: Option<&mut impl Write>, unsent: &mut &[u8]) -> bool {
    let Some(pipe) = pipe else { return false };
    while !unsent.is_empty() {
        match pipe.write(unsent) {
            Ok(written) => *unsent = &unsent[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
    true
}

/// Reads what the pipe has; true at its end. Of what is above the limit, one byte more is kept as a sign.
fn drain(pipe: Option<&mut impl Read>, into: &mut Vec<u8>, limit: usize) -> bool {
    let Some(pipe) = pipe else { return false };
    let mut chunk = [0; 16 * 1024];
    // A plugin that writes without end must not keep us from looking at the clock.
    for _ in 0..64 {
        match pipe.read(&mut chunk) {
            Ok(0) => return true,
            Ok(length) => {
                let room = (limit + 1).saturating_sub(into.len()).min(length);
                into.extend_from_slice(&chunk[..room]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
    false
}
