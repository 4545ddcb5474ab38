//! Profiles in files of the node: the OCI form, and Docker's, whose rules can depend on capabilities, machine and kernel.
//!
//! A profile decides what a container may do, so nothing in it is guessed: an unknown field is an error, as is a file
//! that is empty.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::{Place, SeccompError};
use super::subject::{KernelVersion, Subject};

/// Real profiles have some 20 KiB.
const MAX_BYTES: u64 = 1 << 20;

/// Reads and parses the profile at `path` for a container.
///
/// # Errors
/// An empty path or file, anything but a regular file, and all that [`parse`] refuses.
pub fn read(path: &Path, subject: &Subject<'_>) -> Result<LinuxSeccomp, SeccompError> {
    if path.as_os_str().is_empty() {
        return Err(SeccompError::NoPath);
    }
    let unreadable = |source: std::io::Error| SeccompError::Unreadable {
        path: path.to_owned(),
        source,
    };
    // NONBLOCK: opening a pipe that nobody writes to must not wait.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| unreadable(errno.into()))?;
    let file = File::from(fd);
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(SeccompError::NotAFile {
            path: path.to_owned(),
        });
    }
    let mut json = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut json)
        .map_err(unreadable)?;
    parse(&json, subject)
}

/// Parses a profile, and keeps the rules that apply to a container.
///
/// # Errors
/// No content, more than 1 MiB of it, JSON of another shape, contradictory fields, unknown capabilities.
pub fn parse(json: &[u8], subject: &Subject<'_>) -> Result<LinuxSeccomp, SeccompError> {
    if json.len() as u64 > MAX_BYTES {
        return Err(SeccompError::TooLarge { max: MAX_BYTES });
    }
    if json.trim_ascii().is_empty() {
        return Err(SeccompError::Empty);
    }
    let document: Document = serde_json::from_slice(json).map_err(SeccompError::Malformed)?;
    document.resolve(subject)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    default_errno: Option<String>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<Family>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Entry>>,
    #[serde(rename = "comment")]
    _comment: Option<IgnoredAny>,
}

/// A machine's own interface, and those it also runs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Family {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    /// The form of old profiles.
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    errno: Option<String>,
    args: Option<Vec<LinuxSeccompArg>>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
    #[serde(rename = "comment")]
    _comment: Option<IgnoredAny>,
}

/// Whom an entry is for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    caps: Option<Vec<Capability>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Document {
    fn resolve(self, subject: &Subject<'_>) -> Result<LinuxSeccomp, SeccompError> {
        if self.listener_path.is_some_and(|path| !path.is_empty())
            || self.listener_metadata.is_some_and(|data| !data.is_empty())
        {
            return Err(SeccompError::ListenerUnsupported);
        }
        let families = self.arch_map.unwrap_or_default();
        let mut architectures = self.architectures.unwrap_or_default();
        if !families.is_empty() && !architectures.is_empty() {
            return Err(SeccompError::Contradiction {
                first: "architectures",
                second: "archMap",
            });
        }
        let native =
            |family: &&Family| subject.machine.abi(family.architecture) == Some(subject.machine.native());
        if let Some(family) = families.iter().find(native) {
            architectures.push(family.architecture);
            architectures.extend(family.sub_architectures.iter().flatten());
        }
        let mut syscalls = Vec::new();
        for (index, entry) in self.syscalls.unwrap_or_default().into_iter().enumerate() {
            syscalls.extend(entry.resolve(index, subject)?);
        }
        let errno = errno(self.default_errno_ret, self.default_errno, || Place::Default)?;
        let mut profile = LinuxSeccomp::default();
        profile
            .set_default_action(self.default_action)
            .set_default_errno_ret(errno)
            .set_architectures(Some(architectures))
            .set_flags(self.flags)
            .set_syscalls(Some(syscalls));
        Ok(profile)
    }
}

impl Entry {
    /// `None` if the entry is not for the container.
    fn resolve(self, index: usize, subject: &Subject<'_>) -> Result<Option<LinuxSyscall>, SeccompError> {
        let names = match (self.name, self.names.unwrap_or_default()) {
            (Some(_), names) if !names.is_empty() => {
                return Err(SeccompError::Contradiction {
                    first: "name",
                    second: "names",
                });
            }
            (Some(name), _) => vec![name],
            (None, names) => names,
        };
        let Some(name) = names.first().cloned() else {
            return Err(SeccompError::NoNames { index });
        };
        let errno = errno(self.errno_ret, self.errno, || Place::Rule { index, name })?;
        let includes = self.includes.unwrap_or_default();
        let excludes = self.excludes.unwrap_or_default();
        // Both are evaluated, so that a mistake is found on every machine.
        let included = includes.all_hold(subject)?;
        let excluded = excludes.any_holds(subject)?;
        if !included || excluded {
            return Ok(None);
        }
        let mut syscall = LinuxSyscall::default();
        syscall
            .set_names(names)
            .set_action(self.action)
            .set_errno_ret(errno)
            .set_args(self.args);
        Ok(Some(syscall))
    }
}

impl Condition {
    fn kernel(&self, subject: &Subject<'_>) -> Result<Option<bool>, SeccompError> {
        let Some(version) = self.min_kernel.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        Ok(Some(subject.kernel >= version.parse::<KernelVersion>()?))
    }

    fn machine(&self, subject: &Subject<'_>) -> Option<bool> {
        let arches = self.arches.as_ref().filter(|arches| !arches.is_empty())?;
        let name = subject.machine.rule_name();
        Some(arches.iter().any(|arch| arch == name))
    }

    /// As `includes`: all capabilities, one of the machines, the kernel.
    fn all_hold(&self, subject: &Subject<'_>) -> Result<bool, SeccompError> {
        let caps = self.caps.iter().flatten();
        let has_all = caps.into_iter().all(|cap| subject.capabilities.contains(cap));
        let kernel = self.kernel(subject)?.unwrap_or(true);
        Ok(has_all && kernel && self.machine(subject).unwrap_or(true))
    }

    /// As `excludes`: one of the capabilities, one of the machines, or the kernel.
    fn any_holds(&self, subject: &Subject<'_>) -> Result<bool, SeccompError> {
        let caps = self.caps.iter().flatten();
        let has_one = caps.into_iter().any(|cap| subject.capabilities.contains(cap));
        let kernel = self.kernel(subject)?.unwrap_or(false);
        Ok(has_one || kernel || self.machine(subject).unwrap_or(false))
    }
}

/// The errno of a rule. Podman's profiles give it by number and by name; the number is what every reader of them knows.
fn errno(
    number: Option<u32>,
    name: Option<String>,
    place: impl FnOnce() -> Place,
) -> Result<Option<u32>, SeccompError> {
    let name = name.filter(|name| !name.is_empty());
    let (None, Some(name)) = (number, name) else {
        return Ok(number);
    };
    let known = match name.as_str() {
        "EPERM" => libc::EPERM,
        "ENOENT" => libc::ENOENT,
        "EACCES" => libc::EACCES,
        "EINVAL" => libc::EINVAL,
        "ENOSYS" => libc::ENOSYS,
        "ENOTSUP" | "EOPNOTSUPP" => libc::EOPNOTSUPP,
        "EAFNOSUPPORT" => libc::EAFNOSUPPORT,
        _ => {
            return Err(SeccompError::UnknownErrno { place: place(), name });
        }
    };
    Ok(Some(known as u32))
}
