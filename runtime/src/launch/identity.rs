//! User, groups and capabilities: from everything to what the plan says, once and for all.

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::Step;
use super::failure::{InStep, StepResult};
use super::plan::{Capabilities, ProcessPlan};

/// Becomes the plan's user, and gives up what no `execve` shall ever bring back. What is permitted stays so for now.
pub(crate) fn change(process: &ProcessPlan) -> StepResult<()> {
    drop_bounding(process.capabilities.bounding).step(Step::Capabilities)?;
    set_keep_capabilities(true).step(Step::Capabilities)?;
    set_groups(process).step_at(Step::Identity, format_args!("{}:{}", process.uid, process.gid))?;
    set_keep_capabilities(false).step(Step::Capabilities)
}

/// Gives up every privilege that the process is not to have. There is no way back.
///
/// Capabilities are intersected with what this process itself has: a daemon that lacks one starts containers
/// without it rather than not at all.
pub(crate) fn give_up_privileges(process: &ProcessPlan) -> StepResult<()> {
    set_sets(granted(process)?).step(Step::Capabilities)?;
    if process.no_new_privileges {
        set_no_new_privs(true).step(Step::NoNewPrivileges)?;
    }
    Ok(())
}

/// Loads the filter if that takes the privileges which are about to be given up.
pub(crate) fn filter_early(process: &ProcessPlan) -> StepResult<()> {
    let Some(filter) = &process.seccomp else {
        return Ok(());
    };
    if may_filter_at_last(process)? {
        return Ok(());
    }
    let ours = capabilities(None).step(Step::Capabilities)?.permitted;
    // A user other than root has them permitted, but no more in effect.
    set_capabilities(
        None,
        CapabilitySets {
            effective: ours & CapabilitySet::SYS_ADMIN,
            permitted: ours,
            inheritable: CapabilitySet::empty(),
        },
    )
    .step(Step::Capabilities)?;
    filter.load().step(Step::Seccomp)
}

/// Loads the filter right before `execve`, where that is possible, so that the program's is the only call it must allow.
pub(crate) fn filter_at_last(process: &ProcessPlan) -> StepResult<()> {
    match &process.seccomp {
        Some(filter) if may_filter_at_last(process)? => filter.load().step(Step::Seccomp),
        _ => Ok(()),
    }
}

/// seccomp(2) wants `no_new_privs` or CAP_SYS_ADMIN.
fn may_filter_at_last(process: &ProcessPlan) -> StepResult<bool> {
    let privileged = CapabilitySet::from_bits_retain(granted(process)?.effective);
    Ok(process.no_new_privileges || privileged.contains(CapabilitySet::SYS_ADMIN))
}

/// The sets that the program is executed with.
fn granted(process: &ProcessPlan) -> StepResult<Capabilities> {
    let ours = capabilities(None).step(Step::Capabilities)?.permitted;
    Ok(process.capabilities.granted(ours.bits(), process.uid))
}

fn set_groups(process: &ProcessPlan) -> rustix::io::Result<()> {
    let gid = Gid::from_raw(process.gid);
    // The gid is among the groups even when it is changed later (CVE-2022-2995).
    let mut groups: Vec<Gid> = vec![gid];
    groups.extend(
        process
            .groups
            .iter()
            .filter(|group| **group != process.gid)
            .map(|group| Gid::from_raw(*group)),
    );
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(process.uid);
    set_thread_res_uid(uid, uid, uid)
}

impl Capabilities {
    /// The sets before `execve`, given what this process may grant. A user other than root keeps just the ambient
    /// ones, as it would after `execve` anyway, so that the program is looked up with its own permissions.
    fn granted(self, ours: u64, uid: u32) -> Capabilities {
        let permitted = self.permitted & self.bounding & ours;
        let ambient = self.ambient & permitted;
        let permitted = if uid == 0 { permitted } else { ambient };
        Capabilities {
            bounding: self.bounding & ours,
            permitted,
            effective: (self.effective | ambient) & permitted,
            ambient,
        }
    }
}

/// Drops from the bounding set all that is not in `keep`; the kernel names the first number that it does not know.
fn drop_bounding(keep: u64) -> rustix::io::Result<()> {
    for number in 0..u64::BITS {
        let bit = 1u64 << number;
        if keep & bit == 0 {
            match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(bit)) {
                Err(Errno::INVAL) => break,
                other => other?,
            }
        }
    }
    Ok(())
}

fn set_sets(sets: Capabilities) -> rustix::io::Result<()> {
    clear_ambient_capability_set()?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::from_bits_retain(sets.effective),
            permitted: CapabilitySet::from_bits_retain(sets.permitted),
            inheritable: CapabilitySet::from_bits_retain(sets.ambient),
        },
    )?;
    for number in (0..u64::BITS).filter(|number| sets.ambient & (1 << number) != 0) {
        configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << number), true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_limited_to_what_we_have() {
        let plan = Capabilities {
            bounding: 0b1111,
            effective: 0b0111,
            permitted: 0b0111,
            ambient: 0,
        };
        let granted = plan.granted(0b1011, 0);
        assert_eq!(
            granted,
            Capabilities {
                bounding: 0b1011,
                effective: 0b0011,
                permitted: 0b0011,
                ambient: 0
            }
        );
    }

    #[test]
    fn other_users_keep_only_ambient_capabilities() {
        let plan = Capabilities {
            bounding: 0b1111,
            effective: 0b0111,
            permitted: 0b0111,
            ambient: 0b0010,
        };
        let granted = plan.granted(u64::MAX, 1000);
        assert_eq!(
            (granted.permitted, granted.effective, granted.ambient),
            (0b0010, 0b0010, 0b0010)
        );
    }
}
