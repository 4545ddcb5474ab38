//! Why a supervisor did not do what it was asked for.

use std::fmt;

use minicbor::{Decode, Encode};

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Failure {
    /// Stable name of the step.
    #[n(0)]
    pub step: String,
    /// What it worked on: a path, a device, a name.
    #[n(1)]
    pub path: Option<String>,
    /// The kernel's answer; 0 when the step has no errno.
    #[n(2)]
    pub errno: i32,
}

/// A request that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Refusal {
    /// Why, for programs.
    #[n(0)]
    pub code: RefusalCode,
    /// The kernel's answer, when there was one.
    #[n(1)]
    pub errno: Option<i32>,
}

/// Why a request was not carried out. A code of a later version decodes as `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// The kind of request is not known to the supervisor, or not for this target.
    Unsupported,
    /// The body broke the protocol.
    Malformed,
    /// `Hello` did not come first.
    HelloFirst,
    /// `CreatePod` has not succeeded yet.
    NoPod,
    /// No container of that id.
    UnknownContainer,
    /// No exec of that id.
    UnknownExec,
    /// An exec of that id exists.
    ExecExists,
    /// The container is not running.
    NotRunning,
    /// Not while a container runs, or is being launched.
    Busy,
    /// The target has no terminal, log or stdin to work on.
    NoStdio,
    /// A system call failed; see the errno.
    System,
    /// Too many containers for one supervisor.
    Full,
    /// A code that this build does not know.
    Other(u16),
}

impl RefusalCode {
    const CODES: [RefusalCode; 12] = [
        RefusalCode::Unsupported,
        RefusalCode::Malformed,
        RefusalCode::HelloFirst,
        RefusalCode::NoPod,
        RefusalCode::UnknownContainer,
        RefusalCode::UnknownExec,
        RefusalCode::ExecExists,
        RefusalCode::NotRunning,
        RefusalCode::Busy,
        RefusalCode::NoStdio,
        RefusalCode::System,
        RefusalCode::Full,
    ];

    fn number(self) -> u16 {
        match self {
            RefusalCode::Unsupported => 1,
            RefusalCode::Malformed => 2,
            RefusalCode::HelloFirst => 3,
            RefusalCode::NoPod => 4,
            RefusalCode::UnknownContainer => 5,
            RefusalCode::UnknownExec => 6,
            RefusalCode::ExecExists => 7,
            RefusalCode::NotRunning => 8,
            RefusalCode::Busy => 9,
            RefusalCode::NoStdio => 10,
            RefusalCode::System => 11,
            RefusalCode::Full => 12,
            RefusalCode::Other(number) => number,
        }
    }
}

impl<C> Encode<C> for RefusalCode {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u16(self.number())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for RefusalCode {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let number = d.u16()?;
        let known = Self::CODES.into_iter().find(|code| code.number() == number);
        Ok(known.unwrap_or(RefusalCode::Other(number)))
    }
}

impl fmt::Display for Failure {
    /// `<step> <path>: <errno text>`, the message of a `StartError`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.step)?;
        if let Some(path) = &self.path {
            write!(f, " {path}")?;
        }
        if self.errno != 0 {
            // std prints "No such file or directory (os error 2)"; the number says nothing more to a reader.
            let text = std::io::Error::from_raw_os_error(self.errno).to_string();
            let text = text.split(" (os error").next().unwrap_or(&text);
            write!(f, ": {text}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.code {
            RefusalCode::Unsupported => "not supported",
            RefusalCode::Malformed => "malformed request",
            RefusalCode::HelloFirst => "hello did not come first",
            RefusalCode::NoPod => "the pod's namespaces do not exist yet",
            RefusalCode::UnknownContainer => "no such container",
            RefusalCode::UnknownExec => "no such exec",
            RefusalCode::ExecExists => "an exec of that id exists",
            RefusalCode::NotRunning => "the container is not running",
            RefusalCode::Busy => "busy",
            RefusalCode::NoStdio => "nothing of that kind is attached",
            RefusalCode::System => "system call failed",
            RefusalCode::Full => "too many containers in one pod",
            RefusalCode::Other(_) => "refused for a reason this build does not know",
        };
        f.write_str(text)?;
        match self.errno {
            Some(errno) => write!(f, ": {}", std::io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}
