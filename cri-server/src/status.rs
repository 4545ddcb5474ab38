//! The one place that picks a gRPC code.
//!
//! kubelet and crictl act on some of them: `NotFound` means "forget it", `DeadlineExceeded` of an
//! exec means "the probe failed", and of a failed pull kubelet reads the first word of the message.

use image::ErrorKind;
use tonic::{Code, Status};

use crate::Error;

/// Longest message, in bytes: events and conditions carry it.
const MAX_MESSAGE: usize = 512;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<&Error> for Status {
    fn from(error: &Error) -> Self {
        if let Error::Shared(error) = error {
            return Self::from(&**error);
        }
        Self::new(code(error), bounded(message(error)))
    }
}

fn code(error: &Error) -> Code {
    match error {
        Error::Invalid { .. } | Error::Ambiguous { .. } | Error::Plan(_) | Error::Seccomp { .. } => {
            Code::InvalidArgument
        }
        Error::NotFound { .. } => Code::NotFound,
        Error::State { .. } => Code::FailedPrecondition,
        Error::Busy(_) => Code::ResourceExhausted,
        Error::ExecTimeout { .. } => Code::DeadlineExceeded,
        Error::Lagging => Code::ResourceExhausted,
        Error::Image(error) => image(error),
        Error::Pull(error) => image(error),
        Error::Network(_) | Error::Supervisor(_) | Error::Launch(_) | Error::Cgroup(_) | Error::Io { .. } => {
            Code::Unknown
        }
        Error::ImageVolume { .. } | Error::RecursiveReadOnly { .. } => Code::Unknown,
        Error::Store(_) | Error::Crashed => Code::Internal,
        Error::Shared(error) => code(error),
    }
}

/// kubelet tells people to look at their registry, or at their policy, when a message starts so.
fn message(error: &Error) -> String {
    let kind = match error {
        Error::Image(error) => Some(error.kind()),
        Error::Pull(error) => Some(error.kind()),
        _ => None,
    };
    match kind {
        Some(ErrorKind::RegistryUnavailable) => format!("RegistryUnavailable: {error}"),
        Some(ErrorKind::Unverified) => format!("SignatureValidationFailed: {error}"),
        _ => error.to_string(),
    }
}

/// Cuts at a character boundary.
fn bounded(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE - 1)
            .rev()
            .find(|i| message.is_char_boundary(*i))
            .unwrap_or(0);
        message.truncate(end);
    }
    message
}

/// kubelet reads the first word of a failed pull's message, and only where the code is Unknown.
fn image(error: &image::Error) -> Code {
    match error.kind() {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Unauthorized
        | ErrorKind::RegistryUnavailable
        | ErrorKind::Unverified
        | ErrorKind::Invalid
        | ErrorKind::NoSpace
        | ErrorKind::AlreadyExists
        | ErrorKind::Internal => Code::Unknown,
    }
}
