//! What can be wrong with a configuration, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A line of a file, counted from one.
    File(PathBuf, usize),
    /// A flag of the command line.
    Flag(&'static str),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Flag(flag) => f.write_str(flag),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file, or the directory of drop-ins, cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no TOML.
    #[error("{place}: {problem}")]
    Syntax {
        /// The offending line.
        place: Place,
        /// As the parser puts it.
        problem: String,
    },
    /// There is no such key.
    #[error("{place}: unknown key `{key}`{}", did_you_mean(*.nearest))]
    UnknownKey {
        /// Where it stands.
        place: Place,
        /// With its table: `network.embedded.brigde`.
        key: String,
        /// The key that may have been meant.
        nearest: Option<&'static str>,
    },
    /// The value is of the wrong type or out of range.
    #[error("{place}: `{key}`: {problem}")]
    Value {
        /// Where it was set.
        place: Place,
        /// With its table.
        key: String,
        /// What is wrong, then what would be right.
        problem: String,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    match nearest {
        Some(key) => format!("; did you mean `{key}`?"),
        None => "; `crisp config` lists all keys".into(),
    }
}
