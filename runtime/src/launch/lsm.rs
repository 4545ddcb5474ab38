//! What a security module is told before `execve`: the AppArmor profile, the SELinux label.
//!
//! Both take effect with `execve`, and both are asked for by writing into a file of procfs. A container that could put
//! something else in place of that file would get rid of its confinement (CVE-2019-16884, CVE-2025-52881), so the file is
//! one of a procfs that was made for this purpose and is attached nowhere.

use std::os::fd::AsFd;

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

/// Asks for the plan's profile and label. The request outlives a change of user and a clone; it takes no privilege but
/// for the procfs.
pub(crate) fn label_on_exec(process: &ProcessPlan) -> StepResult<()> {
    if let Some(profile) = &process.apparmor {
        let request = [b"exec ", profile.to_bytes()].concat();
        write_first(&APPARMOR, &request).step_at(Step::AppArmor, text(profile))?;
    }
    if let Some(label) = &process.selinux {
        write_first(&SELINUX, label.to_bytes()).step_at(Step::Selinux, text(label))?;
    }
    Ok(())
}

/// Writes into the first of the files that exists.
fn write_first(files: &[&str], request: &[u8]) -> rustix::io::Result<()> {
    let procfs = fresh(FileSystem::Proc, &[], Attributes::default())?;
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
