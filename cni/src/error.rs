//! What can go wrong, a variant per operation.
//!
//! Texts say the cause first and are stable: no durations, addresses drawn at random or fresh ids, so that a
//! repeated event stays one event. A plugin's own message is quoted with its name and code.

use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use nix::errno::Errno;

use crate::names::PodId;
use crate::plugin::Command;

/// Why a network operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is not acceptable; nothing was changed.
    #[error("{field}: {problem} ({value:?})")]
    Request {
        /// The field, named as in the request type.
        field: &'static str,
        /// The offending value, shortened.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A configuration file is no valid network configuration.
    #[error("{}: {at}: {problem}", file.display())]
    Configuration {
        /// The file.
        file: PathBuf,
        /// Where in it: `line 3 column 7` or a path such as `plugins[1].type`.
        at: String,
        /// What is wrong there.
        problem: String,
    },
    /// A configuration file or directory cannot be read.
    #[error("read {}: {source}", path.display())]
    ReadConfiguration {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no network that a pod could be attached to.
    #[error("no pod network: {reason}")]
    NoNetwork {
        /// Why, with the remedy.
        reason: String,
    },
    /// A plugin's binary is in none of the directories.
    #[error("CNI plugin {plugin} is not in {}", list(directories))]
    PluginMissing {
        /// The plugin's type.
        plugin: String,
        /// Where it was looked for.
        directories: Vec<PathBuf>,
    },
    /// A plugin could not be started.
    #[error("start CNI plugin {plugin}: {source}")]
    PluginStart {
        /// The plugin's type.
        plugin: String,
        /// Why.
        source: io::Error,
    },
    /// A plugin did not finish in its time; its process group was killed.
    #[error("CNI plugin {plugin} {command} did not finish before the chain's deadline and was killed")]
    PluginDeadline {
        /// The plugin's type.
        plugin: String,
        /// What it was asked to do.
        command: Command,
    },
    /// A plugin refused, in its own words.
    #[error("CNI plugin {plugin} {command} failed with code {code}: {message}")]
    PluginRefused {
        /// The plugin's type.
        plugin: String,
        /// What it was asked to do.
        command: Command,
        /// The plugin's error code (CNI spec, section 5, "Error").
        code: u32,
        /// The plugin's message and details.
        message: String,
    },
    /// A plugin ended badly without a proper error.
    #[error("CNI plugin {plugin} {command} {how}: {said}")]
    PluginDied {
        /// The plugin's type.
        plugin: String,
        /// What it was asked to do.
        command: Command,
        /// `exited with code 3` or `was killed by signal 9`.
        how: String,
        /// What it wrote, shortened.
        said: String,
    },
    /// A plugin reported success, but with an answer that is none.
    #[error("CNI plugin {plugin} {command} gave no valid result: {problem}")]
    PluginResult {
        /// The plugin's type.
        plugin: String,
        /// What it was asked to do.
        command: Command,
        /// What is wrong with it.
        problem: String,
    },
    /// Attaching failed and undoing it failed too; the attachment stays recorded and a detach tries again.
    #[error("{cause}; undoing it failed as well: {}", list_errors(undo))]
    Undo {
        /// Why attaching failed.
        cause: Box<Error>,
        /// Why undoing failed.
        undo: Vec<Error>,
    },
    /// Steps of a detach failed; the others were done, and the attachment stays recorded for another try.
    #[error("detach: {}", list_errors(failures))]
    Detach {
        /// Every failed step.
        failures: Vec<Error>,
    },
    /// A port of the host leads into another pod.
    #[error(
        "host port {protocol} {port} is taken by another pod or another container of this one; choose another port"
    )]
    HostPortTaken {
        /// The port of the host.
        port: u16,
        /// `tcp`, `udp` or `sctp`.
        protocol: &'static str,
    },
    /// No attachment of that pod is recorded.
    #[error("pod {pod} has no recorded network attachment")]
    NotAttached {
        /// The pod.
        pod: PodId,
    },
    /// The recorded attachment is not what is found in the pod or on the host.
    #[error("pod {pod}: {problem}")]
    Check {
        /// The pod.
        pod: PodId,
        /// What differs.
        problem: String,
    },
    /// A record of the attachment cache cannot be read or written.
    #[error("attachment record: {step} {}: {source}", path.display())]
    Record {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record of the attachment cache makes no sense.
    #[error("attachment record {}: {problem}", path.display())]
    RecordContent {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A record was written by a newer daemon.
    #[error("attachment record {}: version {version} is newer than this daemon", path.display())]
    RecordNewer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A network namespace cannot be entered, pinned or examined.
    #[error("network namespace: {step} {}: {source}", path.display())]
    Namespace {
        /// What was tried.
        step: &'static str,
        /// The pin, or a description when there is no path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a link, address, route or nftables request.
    #[error("{step} {object}: {source}")]
    Netlink {
        /// What was asked.
        step: &'static str,
        /// Of what.
        object: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A kernel parameter cannot be read or written.
    #[error("{step} {}: {source}", path.display())]
    Sysctl {
        /// `read` or `write`.
        step: &'static str,
        /// The file below `/proc/sys`.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The embedded network's subnets are not usable.
    #[error("subnets {subnets:?}: {problem}")]
    Subnets {
        /// As configured.
        subnets: Vec<IpNet>,
        /// What is wrong with them.
        problem: &'static str,
    },
    /// The host already uses addresses of the embedded network.
    #[error("subnet {subnet} is in use: the host reaches {taken} by link {link}; choose another subnet")]
    SubnetTaken {
        /// Ours.
        subnet: IpNet,
        /// What overlaps.
        taken: IpNet,
        /// The link that it is on.
        link: String,
    },
    /// Every address is leased.
    #[error("no free address in {}", subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Exhausted {
        /// The pool.
        subnets: Vec<IpNet>,
    },
    /// A link of the wanted name belongs to something else.
    #[error("link {link} exists and is not ours: {problem}")]
    LinkTaken {
        /// The link.
        link: String,
        /// What it is instead.
        problem: &'static str,
    },
    /// The host's end of a pod's link did not start to forward.
    #[error("link {link} does not forward")]
    NotForwarding {
        /// The link.
        link: String,
    },
    /// A thread for the work could not be made, or broke down.
    #[error("network thread: {source}")]
    Thread {
        /// Why.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn namespace(step: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Error::Namespace {
            step,
            path: path.into(),
            source: source.into(),
        }
    }

    fn errno(&self) -> Option<Errno> {
        match self {
            Error::Netlink { source, .. } => source.raw_os_error().map(Errno::from_raw),
            _ => None,
        }
    }

    /// A netlink request was refused because its object does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        self.errno() == Some(Errno::ENOENT)
    }

    /// A netlink request was refused because the link does not exist.
    pub(crate) fn is_no_device(&self) -> bool {
        self.errno() == Some(Errno::ENODEV)
    }

    /// A netlink request was refused because its object exists already.
    pub(crate) fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }
}

/// At most this much of a foreign text is quoted, so that a whole message stays below 512 bytes.
const LONGEST_QUOTE: usize = 256;

/// A foreign text made fit for a message: one line, bounded, no control characters.
pub(crate) fn quote(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut line = String::new();
    for word in text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
    {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > LONGEST_QUOTE {
            let end = (0..=LONGEST_QUOTE)
                .rev()
                .find(|end| line.is_char_boundary(*end))
                .unwrap_or(0);
            line.truncate(end);
            line.push('…');
            break;
        }
    }
    if line.is_empty() { "(nothing)".into() } else { line }
}

fn list(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

fn list_errors(errors: &[Error]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_one_bounded_line() {
        assert_eq!(quote(b" two\n\tlines \x07"), "two lines");
        assert_eq!(quote(b""), "(nothing)");
        let long = quote("ä".repeat(4000).as_bytes());
        assert!(long.len() <= LONGEST_QUOTE + 4, "{}", long.len());
        assert!(long.ends_with('…'));
    }
}
