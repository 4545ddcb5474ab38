//! What can keep a command from its end, and the exit code that a script sees.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::ConfigError;

/// A command that failed. The text tells the cause first and the remedy last.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The daemon could not start, or ended in an error.
    #[error("{0}")]
    Serve(crate::Error),
    /// No threads, no timers.
    #[error("threads cannot be started: {0}")]
    Threads(io::Error),
    /// Nobody listens.
    #[error("no daemon answers on {}: {source}; start it with `systemctl start crisp`, or run `crisp`", socket.display())]
    Down {
        /// Where it was looked for.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke before an answer came.
    #[error("the daemon on {} gave no answer: {message}", socket.display())]
    NoAnswer {
        /// Where it was called.
        socket: PathBuf,
        /// What gRPC says.
        message: String,
    },
    /// The daemon refused a call.
    #[error("{call}: {message}")]
    Refused {
        /// The remote procedure.
        call: &'static str,
        /// The daemon's own words.
        message: String,
    },
    /// The status report is not one that this build reads.
    #[error("the daemon's report cannot be read: {0}; use the `crisp` of the daemon's version")]
    Report(serde_json::Error),
    /// A file or stream of the user's cannot be read or written.
    #[error("{name}: {source}")]
    File {
        /// Its name, `standard input` or `standard output`.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// A text is no image's name.
    #[error("{0}")]
    Name(String),
    /// The user's credentials cannot be had.
    #[error("cannot log in: {0}")]
    Login(String),
    /// The demo could not go on.
    #[error("{step}: {problem}")]
    Demo {
        /// What it was doing.
        step: &'static str,
        /// What went wrong.
        problem: String,
    },
}

impl CliError {
    /// 2 for what the user wrote, 3 for an absent daemon, else 1.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Name(_) => ExitCode::from(2),
            Self::Down { .. } | Self::NoAnswer { .. } => ExitCode::from(3),
            _ if self.is_silent() => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }

    /// A reader such as `head` that has seen enough is no error.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}
