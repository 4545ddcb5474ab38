//! How a session ended, as clients read it: a `v1.Status` of the Kubernetes API on the error stream.

use serde_json::{Value, json};

use super::protocol::Version;

/// The end of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The command exited with 0, or there was none to exit.
    Success,
    /// It exited with another code.
    ExitCode(i32),
    /// It could not be run, or was lost on the way.
    Failure(String),
}

impl Ending {
    /// What the error stream carries. Before version 4 that was text, and nothing when all was well.
    pub fn render(&self, version: Version) -> Vec<u8> {
        if version >= Version::V4 {
            return self.status().to_string().into_bytes();
        }
        self.message().unwrap_or_default().into_bytes()
    }

    fn message(&self) -> Option<String> {
        match self {
            Self::Success => None,
            Self::ExitCode(code) => Some(format!(
                "command terminated with non-zero exit code: exit status {code}"
            )),
            Self::Failure(why) => Some(format!("Internal error occurred: {why}")),
        }
    }

    fn status(&self) -> Value {
        let message = self.message();
        match self {
            Self::Success => json!({ "metadata": {}, "status": "Success" }),
            Self::ExitCode(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            }),
            Self::Failure(why) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "InternalError",
                "details": { "causes": [{ "message": why }] },
                "code": 500,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_where_clients_look_for_it() {
        let status: Value = serde_json::from_slice(&Ending::ExitCode(42).render(Version::V4)).expect("JSON");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "42");
        assert!(Ending::Success.render(Version::V3).is_empty());
        assert!(!Ending::ExitCode(1).render(Version::V1).is_empty());
    }
}
