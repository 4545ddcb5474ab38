//! Reaching every process of a container, also those that share another's pid namespace.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::sys::pidfd;

/// Rounds of a search for processes that appear while others are signalled.
const ROUNDS: usize = 8;
/// How deep below the container's cgroup it looks for cgroups that the container made itself.
const DEPTH: usize = 32;

/// Signals every process in the cgroup and below it.
///
/// SIGKILL goes through `cgroup.kill` where there is one (v2, 5.14), which no fork escapes. Else the processes are taken
/// from `cgroup.procs`: SIGKILL is repeated until none is new, another signal is sent once to each.
pub(super) fn signal_cgroup(cgroup: &str, signal: i32) -> io::Result<()> {
    let cgroup = Path::new(cgroup);
    if signal == libc::SIGKILL && fs::write(cgroup.join("cgroup.kill"), "1").is_ok() {
        return Ok(());
    }
    let rounds = if signal == libc::SIGKILL { ROUNDS } else { 1 };
    for _ in 0..rounds {
        let mut reached = 0;
        signal_below(cgroup, signal, DEPTH, &mut reached)?;
        if reached == 0 {
            break;
        }
    }
    Ok(())
}

fn signal_below(cgroup: &Path, signal: i32, depth: usize, reached: &mut usize) -> io::Result<()> {
    let held: Vec<(i32, OwnedFd)> = processes(cgroup)?
        .into_iter()
        .filter_map(|pid| Some((pid, pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?)))
        .collect();
    // A pid that is still listed now, after it was opened, is the process that was opened.
    let listed = processes(cgroup)?;
    for (_, process) in held.iter().filter(|(pid, _)| listed.contains(pid)) {
        *reached += usize::from(pidfd::signal(process.as_fd(), signal).is_ok());
    }
    if depth == 0 {
        return Ok(());
    }
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // Gone meanwhile: then there is nobody in it.
            let _ = signal_below(&entry.path(), signal, depth - 1, reached);
        }
    }
    Ok(())
}

fn processes(cgroup: &Path) -> io::Result<Vec<i32>> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    // 0 stands for a process outside our pid namespace.
    Ok(text
        .lines()
        .filter_map(|pid| pid.parse().ok())
        .filter(|pid| *pid > 0)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::path::PathBuf;
    use std::process::{Child, Command};

    /// A cgroup of its own, with one below, in the hierarchy without controllers, or on a pure v2 host in the only one. It goes
    /// with its test, however that ends; who is in it has to go before.
    struct Group(PathBuf);

    impl Group {
        fn new() -> Group {
            let unified = Path::new("/sys/fs/cgroup/unified");
            let root = if unified.is_dir() {
                unified
            } else {
                Path::new("/sys/fs/cgroup")
            };
            let made = tempfile::Builder::new().prefix("crisp-test-").tempdir_in(root);
            // What a cgroup has in it cannot be removed by name, as a temporary directory would.
            let group = Group(made.unwrap().keep());
            fs::create_dir(group.inner()).unwrap();
            group
        }

        fn inner(&self) -> PathBuf {
            self.0.join("inner")
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let removed = fs::remove_dir(self.inner()).and_then(|()| fs::remove_dir(&self.0));
            assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
        }
    }

    /// A process that goes with its test, however that ends.
    struct Sleeper(Child);

    impl Sleeper {
        fn new() -> Sleeper {
            Sleeper(Command::new("/bin/sleep").arg("1000").spawn().unwrap())
        }

        fn within(cgroup: &Path) -> Sleeper {
            let sleeper = Sleeper::new();
            fs::write(cgroup.join("cgroup.procs"), sleeper.0.id().to_string()).unwrap();
            sleeper
        }

        fn signal(&mut self) -> Option<i32> {
            self.0.wait().unwrap().signal()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_signal_reaches_all_below_and_nobody_else() {
        let group = Group::new();
        let cgroup = group.0.to_str().unwrap();
        let mut children = [Sleeper::within(&group.0), Sleeper::within(&group.inner())];
        let mut stranger = Sleeper::new();
        signal_cgroup(cgroup, libc::SIGTERM).unwrap();
        for child in &mut children {
            assert_eq!(child.signal(), Some(libc::SIGTERM));
        }
        assert!(stranger.0.try_wait().unwrap().is_none());
        let mut last = Sleeper::within(&group.inner());
        signal_cgroup(cgroup, libc::SIGKILL).unwrap();
        assert_eq!(last.signal(), Some(libc::SIGKILL));
    }
}
