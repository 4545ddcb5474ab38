//! How often the kernel killed in a container's cgroup for want of memory.
//!
//! systemd removes a scope as soon as nobody is in it, which may be before its counter is read. On v2 the pod's counter has
//! the kills of all its containers: what has risen there and in none of the others was this one's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The `oom_kill` counter of a cgroup: v1 `memory.oom_control`, v2 `memory.events`.
///
/// Held open from the start, since the directory may be gone when it is read. What counts is a rise: a cgroup that is
/// used again brings its count along.
#[derive(Debug)]
pub(super) struct OomCounter {
    file: File,
    at_start: u64,
    /// Nobody has it of a container that was started by another supervisor image.
    pod: Option<PodCounter>,
}

/// The counter of the cgroup above, which lasts longer.
#[derive(Debug)]
struct PodCounter {
    file: File,
    at_start: u64,
    /// What the pod's containers had of it at that time.
    explained: u64,
}

impl OomCounter {
    /// Opens the counter and notes what it says. `explained` is how many kills are known of the pod's containers.
    pub(super) fn open(path: &str, explained: u64) -> io::Result<OomCounter> {
        let file = File::open(path)?;
        let at_start = read(&file).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(OomCounter {
            file,
            at_start,
            pod: PodCounter::above(Path::new(path), explained),
        })
    }

    /// Takes up a counter of another supervisor image.
    pub(super) fn resume(file: OwnedFd, at_start: u64) -> OomCounter {
        OomCounter {
            file: File::from(file),
            at_start,
            pod: None,
        }
    }

    pub(super) fn at_start(&self) -> u64 {
        self.at_start
    }

    /// By how much it has risen; unknown when the cgroup is gone.
    pub(super) fn rise(&self) -> Option<u64> {
        read(&self.file).map(|now| now.saturating_sub(self.at_start))
    }

    /// Whether it has risen. When the cgroup is gone, whether the pod's has by more than `explained` has since.
    pub(super) fn has_risen(&self, explained: impl FnOnce() -> u64) -> bool {
        match (self.rise(), &self.pod) {
            (Some(rise), _) => rise > 0,
            (None, Some(pod)) => pod.has_risen(explained()),
            (None, None) => false,
        }
    }
}

impl PodCounter {
    /// Only v2 counts up the tree.
    fn above(counter: &Path, explained: u64) -> Option<PodCounter> {
        let name = counter.file_name().filter(|name| *name == "memory.events")?;
        let file = File::open(counter.parent()?.parent()?.join(name)).ok()?;
        let at_start = read(&file)?;
        Some(PodCounter {
            file,
            at_start,
            explained,
        })
    }

    fn has_risen(&self, explained: u64) -> bool {
        let others = explained.saturating_sub(self.explained);
        read(&self.file).is_some_and(|now| now.saturating_sub(self.at_start) > others)
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
        let counter = OomCounter::open(file.path().to_str().unwrap(), 0).unwrap();
        assert!(!counter.has_risen(|| 0));
        std::fs::write(file.path(), b"oom_kill 5\n").unwrap();
        assert!(counter.has_risen(|| 0));
    }

    #[test]
    fn a_counter_that_is_gone_is_told_by_the_pods() {
        let pod = tempfile::tempdir().unwrap();
        let (above, own) = (
            pod.path().join("memory.events"),
            pod.path().join("scope/memory.events"),
        );
        std::fs::create_dir(pod.path().join("scope")).unwrap();
        std::fs::write(&above, "oom_kill 7\n").unwrap();
        std::fs::write(&own, "oom_kill 0\n").unwrap();
        // Two of those seven are known of containers that have ended, one more of them is told later.
        let counter = OomCounter::open(own.to_str().unwrap(), 2).unwrap();
        // As if it were gone: an open file of a removed cgroup cannot be read.
        std::fs::write(&own, "").unwrap();
        assert!(!counter.has_risen(|| 2));
        std::fs::write(&above, "oom_kill 8\n").unwrap();
        assert!(!counter.has_risen(|| 3), "the kill was another's");
        assert!(counter.has_risen(|| 2), "the kill was nobody else's");
    }
}
