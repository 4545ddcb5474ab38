//! What an exec has started, wherever it is now: a child that has begun a session of its own is in no group of the exec's.
//!
//! Found by following children, which a process cannot change, at the moment when the exec loses its owner and it
//! is all still below it. A process that was handed over to the container's init before that (a daemon, by the
//! way daemons are made) is the container's from then on and none of this.
//!
//! A cgroup for each exec would find the same and those daemons too, but shows itself inside the container: there a path of
//! `/` in `/proc/self/cgroup` is how programs find their limits.

use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::sys::{pidfd, proc};

/// Most processes that are followed: what a fork bomb makes beyond that ends with its container.
const MAX: usize = 4096;

/// Processes below an exec, each held so that its number cannot be another's.
#[derive(Debug, Default)]
pub(super) struct Brood(Vec<(i32, OwnedFd)>);

impl Brood {
    /// All that is below a child of ours that is not reaped.
    pub(super) fn below(leader: i32) -> Brood {
        let mut found = Brood::default();
        found.gather(leader);
        found
    }

    /// Kills them, and what they have started since.
    pub(super) fn kill(&mut self) {
        let known: Vec<i32> = self.0.iter().map(|(pid, _)| *pid).collect();
        for pid in known {
            self.gather(pid);
        }
        for (_, process) in &self.0 {
            // ESRCH: it has ended.
            let _ = pidfd::signal(process.as_fd(), libc::SIGKILL);
        }
    }

    /// Adds all that is below `ancestor` and not here yet.
    fn gather(&mut self, ancestor: i32) {
        let mut parents = VecDeque::from([ancestor]);
        while let Some(parent) = parents.pop_front() {
            for pid in children(parent) {
                if self.0.len() >= MAX {
                    return;
                }
                if self.0.iter().any(|(known, _)| *known == pid) {
                    continue;
                }
                let held = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
                // The number was free for others between the look and the hold; a child of this parent it is still.
                if let Some(held) = held
                    && proc::parent(pid).is_ok_and(|found| found == parent)
                {
                    self.0.push((pid, held));
                    parents.push_back(pid);
                }
            }
        }
    }
}

/// The children of all threads of a process: `/proc/<pid>/task/<tid>/children`, proc(5). None of a process that has ended,
/// and none where the kernel has no such file.
fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}
