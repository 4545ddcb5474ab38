//! What a security module is told before `execve`: the AppArmor profile, the SELinux label.
//!
//! Both take effect with `execve`, and both are asked for by writing into a file of procfs. A container that could put
//! something else in place of that file would get rid of its confinement (CVE-2019-16884, CVE-2025-52881), so the file is
//! one of a procfs that was made for this purpose and is attached nowhere. It is made by stage-1 as long as that belongs
//! to the host: inside a user namespace the kernel gives a new procfs only to who sees all of another one, which no
//! container with masked paths does.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Step;
use super::failure::{InStep, StepResult};
use super::mounts::fresh;
use super::plan::{Attributes, FileSystem, ProcessPlan};
use super::values::ProcessString;

/// Where AppArmor is told. The second is shared by all modules and may belong to another one; kernels before 5.8 have
/// nothing else.
const APPARMOR: [&str; 2] = ["thread-self/attr/apparmor/exec", "thread-self/attr/exec"];
/// Where SELinux is told.
const SELINUX: [&str; 1] = ["thread-self/attr/exec"];

/// The procfs for [`label_on_exec`], when there is something to ask for. It shows the host's processes: whoever holds it
/// must be alone in its PID namespace.
pub(crate) fn procfs_for(process: &ProcessPlan) -> StepResult<Option<OwnedFd>> {
    let (step, name) = match (&process.apparmor, &process.selinux) {
        (Some(profile), _) => (Step::AppArmor, profile),
        (None, Some(label)) => (Step::Selinux, label),
        (None, None) => return Ok(None),
    };
    let made = fresh(FileSystem::Proc, &[], Attributes::default());
    made.map(Some).step_at(step, text(name))
}

/// Asks for the plan's profile and label. The request outlives a change of user and a clone, and takes no privilege.
pub(crate) fn label_on_exec(process: &ProcessPlan, procfs: Option<&OwnedFd>) -> StepResult<()> {
    if let Some(profile) = &process.apparmor {
        let request = [b"exec ", profile.to_bytes()].concat();
        write_first(procfs, &APPARMOR, &request).step_at(Step::AppArmor, text(profile))?;
    }
    if let Some(label) = &process.selinux {
        write_first(procfs, &SELINUX, label.to_bytes()).step_at(Step::Selinux, text(label))?;
    }
    Ok(())
}

/// Writes into the first of the files that exists.
fn write_first(procfs: Option<&OwnedFd>, files: &[&str], request: &[u8]) -> rustix::io::Result<()> {
    let procfs = procfs.ok_or(Errno::BADF)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let mut outcome = Err(Errno::NOENT);
    for file in files {
        let opened = rustix::fs::openat2(
            procfs.as_fd(),
            *file,
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        );
        match opened {
            Err(Errno::NOENT) => {}
            Ok(opened) => {
                outcome = rustix::io::write(&opened, request).map(drop);
                break;
            }
            Err(errno) => return Err(errno),
        }
    }
    outcome
}

fn text(name: &ProcessString) -> String {
    String::from_utf8_lossy(name.to_bytes()).into_owned()
}
