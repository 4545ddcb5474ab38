//! Programs of the administrator's choice: credential helpers and image verifiers.
//!
//! They get nothing of ours but what they are handed: a clean environment, `/` as directory, three
//! pipes, a process group of their own that is killed when the time is over or nobody waits any more.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// A verdict or a secret is short.
const LARGEST_OUTPUT: u64 = 64 << 10;
const LARGEST_COMPLAINT: u64 = 4 << 10;
/// Where programs are looked for when the daemon was started without a PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program and what it is given.
pub(crate) struct Program<'a> {
    /// A path, or a name to be looked up in PATH.
    pub(crate) name: &'a Path,
    pub(crate) arguments: Vec<OsString>,
    /// What else it finds in its environment, beside PATH.
    pub(crate) environment: Vec<(&'static str, OsString)>,
    /// What it reads.
    pub(crate) input: Vec<u8>,
    /// How long it may take.
    pub(crate) limit: Duration,
}

/// What a program that ended has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) success: bool,
    pub(crate) output: Vec<u8>,
    pub(crate) complaint: Vec<u8>,
}

/// Why a program gave no answer. Texts are stable: no durations, no ids.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("cannot be run: {0}")]
    Run(#[from] io::Error),
    #[error("did not end within its time limit")]
    TooSlow,
    #[error("wrote more than a program of its kind may")]
    TooMuch,
}

impl Program<'_> {
    /// Runs it to its end.
    pub(crate) async fn run(self) -> Result<Said, ProgramError> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let child = Command::new(self.name)
            .args(&self.arguments)
            .env_clear()
            .env("PATH", path)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let mut running = Running(child);
        match tokio::time::timeout(self.limit, running.converse(&self.input)).await {
            Ok(said) => said,
            Err(_) => Err(ProgramError::TooSlow),
        }
    }
}

/// Killed with all its children when dropped before it was waited for.
struct Running(Child);

impl Running {
    async fn converse(&mut self, input: &[u8]) -> Result<Said, ProgramError> {
        let (stdin, stdout, stderr) = (self.0.stdin.take(), self.0.stdout.take(), self.0.stderr.take());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program that does not care to read closes the pipe, which is no failure.
                let _ = stdin.write_all(input).await;
            }
        };
        let (_, output, complaint) = tokio::join!(
            feed,
            read(stdout, LARGEST_OUTPUT),
            read(stderr, LARGEST_COMPLAINT)
        );
        let output = output?.ok_or(ProgramError::TooMuch)?;
        let complaint = complaint?.unwrap_or_default();
        let status = self.0.wait().await?;
        Ok(Said {
            success: status.success(),
            output,
            complaint,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Without an id it was reaped, and its number may be somebody else's.
        let group = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Everything up to the limit; `None` when there is more.
async fn read(stream: Option<impl AsyncRead + Unpin>, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(limit + 1).read_to_end(&mut bytes).await?;
    }
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// What a program said, in one short line without control characters.
pub(crate) fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ").chars().take(200).collect()
}

/// A variable of our own environment, to be handed on.
pub(crate) fn inherited(name: &'static str) -> Option<(&'static str, OsString)> {
    std::env::var_os(OsStr::new(name)).map(|value| (name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program<'static> {
        Program {
            name: Path::new("/bin/sh"),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("EXTRA", "yes".into())],
            input: b"hello".to_vec(),
            limit: Duration::from_secs(20),
        }
    }

    #[tokio::test]
    async fn speaks_through_pipes_in_a_clean_environment() {
        let said = shell("cat; env | cut -d= -f1 | sort | tr '\\n' ' '; pwd; echo no >&2; exit 3")
            .run()
            .await
            .unwrap();
        let output = String::from_utf8(said.output).unwrap();
        assert!(output.starts_with("hello"), "{output}");
        assert!(
            output.contains("EXTRA") && !output.contains("CARGO") && output.ends_with("/\n"),
            "{output}"
        );
        assert_eq!((said.success, &*said.complaint), (false, &b"no\n"[..]));
    }

    #[tokio::test]
    async fn time_and_output_are_bounded_and_children_die_too() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", mark.display());
        let mut slow = shell(&script);
        slow.limit = Duration::from_secs(5);
        assert!(matches!(slow.run().await, Err(ProgramError::TooSlow)));
        let child: i32 = std::fs::read_to_string(mark).unwrap().trim().parse().unwrap();
        let child = Pid::from_raw(child).unwrap();
        // Killed at once; whoever inherited it reaps it in its own time.
        let gone = || match std::fs::read_to_string(format!("/proc/{}/stat", child.as_raw_nonzero())) {
            Ok(stat) => stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .trim_start()
                .starts_with('Z'),
            Err(_) => true,
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !gone() {
            assert!(
                std::time::Instant::now() < deadline,
                "the grandchild outlived its time"
            );
            tokio::task::yield_now().await;
        }
        let much = shell("exec cat /dev/zero").run().await;
        assert!(matches!(much, Err(ProgramError::TooMuch)), "{much:?}");
        let mut missing = shell("");
        missing.name = Path::new("/nonexistent/helper");
        assert!(matches!(missing.run().await, Err(ProgramError::Run(_))));
    }
}
