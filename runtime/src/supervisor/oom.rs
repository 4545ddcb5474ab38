//! How often the kernel killed in a container's cgroup for want of memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// The `oom_kill` counter of a cgroup: v1 `memory.oom_control`, v2 `memory.events`.
///
/// Held open from the start, since the directory may be gone when it is read. What counts is a rise: a cgroup that is
/// used again brings its count along.
#[derive(Debug)]
pub(super) struct OomCounter {
    file: File,
    at_start: u64,
}

impl OomCounter {
    /// Opens the counter and notes what it says.
    pub(super) fn open(path: &str) -> io::Result<OomCounter> {
        let file = File::open(path)?;
        let at_start = read(&file).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(OomCounter { file, at_start })
    }

    /// Takes up a counter of another supervisor image.
    pub(super) fn resume(file: OwnedFd, at_start: u64) -> OomCounter {
        OomCounter {
            file: File::from(file),
            at_start,
        }
    }

    pub(super) fn at_start(&self) -> u64 {
        self.at_start
    }

    /// Whether it has risen. A cgroup that is gone says no.
    pub(super) fn has_risen(&self) -> bool {
        read(&self.file).is_some_and(|now| now > self.at_start)
    }
}

impl AsFd for OomCounter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn read(file: &File) -> Option<u64> {
    let mut text = [0; 512];
    let length = file.read_at(&mut text, 0).ok()?;
    parse(std::str::from_utf8(&text[..length]).ok()?)
}

fn parse(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn both_formats_have_the_line() {
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(
            parse("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n"),
            Some(1)
        );
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\n"), None);
    }

    #[test]
    fn only_a_rise_counts() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"oom_kill 4\n").unwrap();
        let counter = OomCounter::open(file.path().to_str().unwrap()).unwrap();
        assert!(!counter.has_risen());
        std::fs::write(file.path(), b"oom_kill 5\n").unwrap();
        assert!(counter.has_risen());
    }
}
