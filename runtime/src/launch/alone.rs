//! The short way: init is the only clone.
//!
//! It is the first process of a PID namespace of its own, so whoever could look at it is a process of the host. It makes
//! what comes from the host while it is still in the host's mount namespace, as stage-1 does for others, and then leaves
//! for one of its own.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::channel::Reporter;
use super::exec::become_program;
use super::failure::{InStep, StepResult, failure};
use super::plan::LaunchPlan;
use super::rootfs::Entry;
use super::sealed::unseal;
use super::stage1::{Host, keep_only, settle, ties};
use super::steps::{Next, confine, enter_root};
use super::{Ahead, ChildStdio, Step, Stock};
use crate::sys::clone::unshare;

/// Starts a container.
pub(crate) fn container(
    plan: BorrowedFd<'_>,
    stdio: &ChildStdio,
    ahead: Ahead<'_>,
    reporter: &Reporter,
) -> StepResult<()> {
    let stocked = ahead.stock.into_iter().flat_map(Stock::fds);
    let given = [Some(plan), Some(reporter.as_fd()), ahead.root, ahead.empty];
    keep_only(stdio, given.into_iter().flatten().chain(stocked))?;
    let plan: LaunchPlan = unseal(plan).step(Step::DecodePlan)?;
    if !plan.is_alone() {
        return Err(failure(Step::Namespaces, Some("pid".into()), Errno::INVAL));
    }
    settle(&plan.cgroup, &plan.process)?;
    // From here on fds are closed by number, under the feet of their owners, which therefore are never dropped.
    let prepared = ManuallyDrop::new(Host::default().prepare(&plan, ahead.root)?);
    reporter.prepared().step(Step::Namespaces)?;
    leave_host(ahead.empty, plan.cgroup.namespace)?;
    let entry = match ahead.empty {
        Some(_) => Entry::Cover,
        None => Entry::Pivot,
    };
    let shelf = ahead.stock.map(Stock::shelf).unwrap_or_default();
    let seen = ManuallyDrop::new(enter_root(&plan, &prepared, (entry, shelf), reporter)?);
    confine(
        &plan.process,
        &ties(stdio, &prepared, &seen, reporter),
        Next::Program,
    )?;
    Err(become_program(&plan.process))
}

/// Goes on in a mount namespace of its own: a copy of the empty one, or of the host's where there is none.
fn leave_host(empty: Option<BorrowedFd<'_>>, cgroup: bool) -> StepResult<()> {
    if let Some(empty) = empty {
        move_into_link_name_space(empty, Some(LinkNameSpaceType::Mount)).step_at(Step::Namespaces, "mnt")?;
    }
    let mut own = UnshareFlags::NEWNS;
    // Its root is the cgroup that the process is in by now.
    own.set(UnshareFlags::NEWCGROUP, cgroup);
    unshare(own).step(Step::Namespaces)
}
