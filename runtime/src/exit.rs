//! Exit records: one small file per container in `/run/crisp/exits`, written before anybody hears of the exit.
//!
//! A record is what is left when both the daemon and the supervisor have died: it is immutable, named by the
//! container's id, and carries the boot id and the process's start time so that it cannot be taken for the exit of another
//! boot or another process. The directory is on a tmpfs: records die with the boot, the daemon copies them into its
//! own records before.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use minicbor::{Decode, Encode};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, renameat, unlinkat};

use crate::protocol::{ContainerId, ExitStatus, Process};

/// Largest record in bytes that is read.
const MAX_RECORD: u64 = 4096;

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ExitRecord {
    /// The container.
    #[n(0)]
    pub container: ContainerId,
    /// `/proc/sys/kernel/random/boot_id` of the boot it lived in.
    #[n(1)]
    pub boot_id: String,
    /// Its init.
    #[n(2)]
    pub process: Process,
    /// How init ended.
    #[n(3)]
    pub status: ExitStatus,
    /// The end by the clock that only counts forward (`CLOCK_BOOTTIME`), in nanoseconds.
    #[n(4)]
    pub finished_boot: u64,
}

/// The directory of the records, held open so that it stays the same one whatever is mounted over it.
#[derive(Debug)]
pub struct ExitDirectory(OwnedFd);

impl ExitDirectory {
    /// Opens the directory.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path) -> io::Result<ExitDirectory> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(ExitDirectory(openat(CWD, path, flags, Mode::empty())?))
    }

    /// Writes a record; a reader sees the old one, none, or the whole of it.
    ///
    /// # Errors
    /// Those of open, write and rename.
    pub fn write(&self, record: &ExitRecord) -> io::Result<()> {
        let mut bytes = Vec::new();
        minicbor::encode(record, &mut bytes).map_err(io::Error::other)?;
        // An id never begins with a dot, so a temporary name is never taken for a record.
        let temporary = format!(".{}", record.container);
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(&self.0, &*temporary, flags, Mode::RUSR | Mode::WUSR)?;
        File::from(file).write_all(&bytes)?;
        Ok(renameat(
            &self.0,
            &*temporary,
            &self.0,
            record.container.as_str(),
        )?)
    }

    /// Reads the record of a container; `None` when there is none.
    ///
    /// # Errors
    /// `InvalidData` when the file is no record, else those of open and read.
    pub fn read(&self, container: &ContainerId) -> io::Result<Option<ExitRecord>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match openat(&self.0, container.as_str(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        file.take(MAX_RECORD).read_to_end(&mut bytes)?;
        let invalid = |e: minicbor::decode::Error| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
        minicbor::decode(&bytes).map(Some).map_err(invalid)
    }

    /// Removes the record of a container, if there is one.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub fn remove(&self, container: &ContainerId) -> io::Result<()> {
        match unlinkat(&self.0, container.as_str(), AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    /// The containers that have a record.
    ///
    /// # Errors
    /// Those of getdents(2).
    pub fn list(&self) -> io::Result<Vec<ContainerId>> {
        let mut containers = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let name = entry?
                .file_name()
                .to_str()
                .ok()
                .and_then(|name| ContainerId::new(name).ok());
            containers.extend(name);
        }
        Ok(containers)
    }
}

impl AsFd for ExitDirectory {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for ExitDirectory {
    fn from(fd: OwnedFd) -> ExitDirectory {
        ExitDirectory(fd)
    }
}

/// `CLOCK_BOOTTIME` in nanoseconds.
pub(crate) fn boot_clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or(0)
}

/// The id of this boot: changes with every boot, never repeats.
///
/// # Errors
/// Those of reading `/proc/sys/kernel/random/boot_id`.
pub fn boot_id() -> io::Result<String> {
    let mut id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    id.truncate(id.trim_end().len());
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::UnixNanos;

    fn record(id: &str) -> ExitRecord {
        ExitRecord {
            container: ContainerId::new(id).unwrap(),
            boot_id: boot_id().unwrap(),
            process: Process {
                pid: 17,
                start_time: 4711,
                started_at: UnixNanos(5),
            },
            status: ExitStatus {
                code: 137,
                signal: Some(9),
                oom_killed: true,
                finished_at: UnixNanos(1_763_662_200_123_456_789),
            },
            finished_boot: 99,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let exits = ExitDirectory::open(folder.path()).unwrap();
        let mut written = record("abc");
        exits.write(&written).unwrap();
        assert_eq!(exits.read(&written.container).unwrap(), Some(written.clone()));
        written.status.code = 3;
        exits.write(&written).unwrap();
        assert_eq!(exits.read(&written.container).unwrap(), Some(written.clone()));
        assert_eq!(exits.list().unwrap(), vec![written.container.clone()]);
        exits.remove(&written.container).unwrap();
        exits.remove(&written.container).unwrap();
        assert_eq!(exits.read(&written.container).unwrap(), None);
    }

    #[test]
    fn keys_of_a_later_version_are_ignored_and_garbage_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let exits = ExitDirectory::open(folder.path()).unwrap();
        let known = record("abc");
        let mut bytes = Vec::new();
        minicbor::encode(&known, &mut bytes).unwrap();
        // One key more: a map of five becomes a map of six.
        assert_eq!(bytes[0], 0xa5);
        bytes[0] = 0xa6;
        bytes.extend([0x18, 0x63, 0x65, b'l', b'a', b't', b'e', b'r']);
        std::fs::write(folder.path().join("abc"), &bytes).unwrap();
        assert_eq!(exits.read(&known.container).unwrap(), Some(known.clone()));
        std::fs::write(folder.path().join("abc"), b"").unwrap();
        assert_eq!(
            exits.read(&known.container).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn a_link_in_place_of_a_record_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let exits = ExitDirectory::open(folder.path()).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("abc")).unwrap();
        assert!(exits.read(&ContainerId::new("abc").unwrap()).is_err());
    }
}
