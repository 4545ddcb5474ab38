//! The end of all processes of a cgroup.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::tree::{children, read};
use super::{CgroupError, try_write};

/// A fork bomb in a frozen cgroup needs two rounds, an ordinary container one.
const ROUNDS: u32 = 1000;
const DEPTH_MAX: u32 = 64;

/// `cgroup.kill` (Linux 5.14): all at once, with everything below. Returns whether the kernel has it.
pub(super) fn at_once(path: &Path) -> Result<bool, CgroupError> {
    match try_write(&path.join("cgroup.kill"), "1") {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::NODEV) => Ok(false),
        Err(errno) => Err(CgroupError::Write {
            path: path.join("cgroup.kill"),
            value: "1".into(),
            source: errno.into(),
        }),
    }
}

/// Kills what is in a v1 cgroup, round by round until a round finds no process that is not dying already.
/// While the cgroup is frozen nothing in it can fork; it is thawed whatever happens.
pub(super) fn one_by_one(path: &Path, freezer: Option<&Path>) -> Result<(), CgroupError> {
    if pids(path)?.is_empty() {
        return Ok(());
    }
    let freeze = |state| freezer.map(|freezer| try_write(&freezer.join("freezer.state"), state));
    let _ = freeze("FROZEN");
    let outcome = rounds(path);
    let _ = freeze("THAWED");
    outcome
}

fn rounds(path: &Path) -> Result<(), CgroupError> {
    let mut killed: Vec<(i32, OwnedFd)> = Vec::new();
    for _ in 0..ROUNDS {
        let fresh: Vec<i32> = pids(path)?
            .into_iter()
            .filter(|pid| !killed.iter().any(|(other, _)| other == pid))
            .collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let held: Vec<(i32, OwnedFd)> = fresh.into_iter().filter_map(hold).collect();
        // A pid may have been reused between the list and the handle; what is still listed now is meant.
        let listed = pids(path)?;
        for (pid, handle) in held {
            if listed.contains(&pid) {
                let _ = pidfd_send_signal(&handle, Signal::KILL);
                killed.push((pid, handle));
            }
        }
    }
    Err(CgroupError::Kill { path: path.into() })
}

fn hold(pid: i32) -> Option<(i32, OwnedFd)> {
    let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    Some((pid, handle))
}

/// The processes of a cgroup and of those below it.
pub(super) fn pids(path: &Path) -> Result<Vec<i32>, CgroupError> {
    let mut found = Vec::new();
    collect(path, DEPTH_MAX, &mut found)?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn collect(path: &Path, depth: u32, found: &mut Vec<i32>) -> Result<(), CgroupError> {
    match read(&path.join("cgroup.procs")) {
        Ok(text) => found.extend(
            text.lines()
                .filter_map(|line| line.parse::<i32>().ok())
                .filter(|pid| *pid > 0),
        ),
        Err(CgroupError::Read { source, .. }) if is_gone(&source) => return Ok(()),
        Err(error) => return Err(error),
    }
    if depth > 0 {
        for child in children(path).unwrap_or_default() {
            collect(&child, depth - 1, found)?;
        }
    }
    Ok(())
}

/// A cgroup that is removed while we look answers ENODEV.
fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}
