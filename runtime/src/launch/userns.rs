//! User namespaces: which ids of a container are which ids of the host, and the namespace that says so.
//!
//! ```text
//!   supervisor ──clone3(NEWUSER)──► holder    parked on a pipe, has done nothing yet
//!       │ /proc/<holder>/{uid,gid}_map            │
//!       │ opens /proc/<holder>/ns/*               │
//!       └───────────── one byte ────────────────► goes on as root of the namespace, or exits
//! ```
//! The namespace lives as long as somebody holds a descriptor of it. A mount is id-mapped by handing the kernel such
//! a descriptor (mount_setattr(2), `MOUNT_ATTR_IDMAP`): what is stored as 0 then belongs to the container's root.

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use minicbor::{Decode, Encode};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, set_parent_process_death_signal, waitid};
use rustix::thread::{
    LinkNameSpaceType, move_into_link_name_space, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::PlanError;
use crate::sys::clone::{Child, CloneOptions, Namespaces, clone3};

/// The kernel's limit of ranges (user_namespaces(7)).
const RANGES_MAX: usize = 340;

/// `length` ids from `container` on are the host's from `host` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct IdRange {
    /// First id inside.
    #[n(0)]
    pub container: u32,
    /// First id on the host.
    #[n(1)]
    pub host: u32,
    /// How many.
    #[n(2)]
    pub length: u32,
}

/// The ids of a user namespace. Never empty, and never the host's root by accident: see [`IdMapping::new`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct IdMapping {
    #[n(0)]
    uids: Vec<IdRange>,
    #[n(1)]
    gids: Vec<IdRange>,
}

impl IdMapping {
    /// Checks both lists. `field` is how errors name them: `linux.uidMappings` is `field` + `uidMappings`.
    ///
    /// # Errors
    /// [`PlanError`] naming the list that is empty, too long, out of range, or maps an id twice.
    pub fn new(field: &str, uids: Vec<IdRange>, gids: Vec<IdRange>) -> Result<IdMapping, PlanError> {
        check(&format!("{field}uidMappings"), &uids)?;
        check(&format!("{field}gidMappings"), &gids)?;
        Ok(IdMapping { uids, gids })
    }

    /// The ranges of user ids.
    pub fn uids(&self) -> &[IdRange] {
        &self.uids
    }

    /// The ranges of group ids.
    pub fn gids(&self) -> &[IdRange] {
        &self.gids
    }

    /// The host's uid of a container's.
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        outward(&self.uids, uid)
    }

    /// The host's gid of a container's.
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        outward(&self.gids, gid)
    }

    /// The last gid of the range that starts with root's group.
    pub fn last_gid_from_root(&self) -> Option<u32> {
        let range = self.gids.iter().find(|range| range.container == 0)?;
        Some(range.length - 1)
    }

    /// The container's uid of a host's.
    pub(crate) fn container_uid(&self, uid: u32) -> Option<u32> {
        inward(&self.uids, uid)
    }

    /// The container's gid of a host's.
    pub(crate) fn container_gid(&self, gid: u32) -> Option<u32> {
        inward(&self.gids, gid)
    }

    /// The host's ids of the container's root; the overflow id where root itself is not mapped.
    pub(crate) fn root(&self) -> (Uid, Gid) {
        const NOBODY: u32 = 65534;
        (
            Uid::from_raw(self.host_uid(0).unwrap_or(NOBODY)),
            Gid::from_raw(self.host_gid(0).unwrap_or(NOBODY)),
        )
    }
}

/// The pod's user namespace and its ids.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserNamespace<'a> {
    pub(crate) namespace: BorrowedFd<'a>,
    pub(crate) ids: &'a IdMapping,
}

fn check(field: &str, ranges: &[IdRange]) -> Result<(), PlanError> {
    let invalid = |value: String, reason| PlanError::Invalid {
        field: field.to_owned(),
        value,
        reason,
    };
    if ranges.is_empty() {
        return Err(PlanError::Missing { field: field.into() });
    }
    if ranges.len() > RANGES_MAX {
        return Err(invalid(
            ranges.len().to_string(),
            "ranges are more than the 340 of the kernel",
        ));
    }
    for (index, range) in ranges.iter().enumerate() {
        let shown = || format!("{}:{}:{}", range.container, range.host, range.length);
        // The last id of all means "none".
        let end = |first: u32| first.checked_add(range.length).filter(|end| *end < u32::MAX);
        if range.length == 0 || end(range.container).is_none() || end(range.host).is_none() {
            return Err(invalid(shown(), "is empty or goes beyond the last id"));
        }
        let meets =
            |a: u32, b: u32, length: u32| a < b.saturating_add(length) && b < a.saturating_add(range.length);
        if ranges[..index].iter().any(|other| {
            meets(range.container, other.container, other.length)
                || meets(range.host, other.host, other.length)
        }) {
            return Err(invalid(shown(), "overlaps an earlier range"));
        }
    }
    Ok(())
}

fn outward(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range = ranges
        .iter()
        .find(|range| id >= range.container && id - range.container < range.length)?;
    Some(range.host + (id - range.container))
}

fn inward(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range = ranges
        .iter()
        .find(|range| id >= range.host && id - range.host < range.length)?;
    Some(range.container + (id - range.host))
}

/// A process that was cloned into a new user namespace and waits.
pub(crate) struct Parked {
    child: Child,
    gate: OwnedFd,
}

/// Clones a process into new namespaces, the user namespace among them, with the ids mapped. `work` is what it does
/// as the namespace's root once [`Parked::release`] is called.
pub(crate) fn park(
    mapping: &IdMapping,
    namespaces: Namespaces,
    work: impl FnOnce() -> i32,
) -> rustix::io::Result<Parked> {
    let (waiting, gate) = pipe_with(PipeFlags::CLOEXEC)?;
    let namespaces = Namespaces {
        user: true,
        ..namespaces
    };
    let options = CloneOptions {
        namespaces,
        ..CloneOptions::default()
    };
    let child = clone3(options, || {
        // The gate's other end is open in this process as well: only this tells it of its parent's death.
        if set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
            return 1;
        }
        match rustix::io::retry_on_intr(|| rustix::io::read(&waiting, &mut [0u8; 1])) {
            Ok(1) if become_root().is_ok() => work(),
            _ => 1,
        }
    })?;
    let parked = Parked { child, gate };
    parked.map("uid_map", &mapping.uids)?;
    parked.map("gid_map", &mapping.gids)?;
    Ok(parked)
}

impl Parked {
    fn map(&self, file: &str, ranges: &[IdRange]) -> rustix::io::Result<()> {
        let mut text = String::new();
        for range in ranges {
            let _ = writeln!(text, "{} {} {}", range.container, range.host, range.length);
        }
        let path = format!("/proc/{}/{file}", self.child.pid);
        let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        // The kernel takes the whole map in one write.
        rustix::io::write(&file, text.as_bytes()).map(drop)
    }

    /// A descriptor of one of its namespaces: `user`, `net`, …
    pub(crate) fn namespace(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        let path = format!("/proc/{}/ns/{name}", self.child.pid);
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Lets it go on.
    pub(crate) fn release(&self) -> rustix::io::Result<()> {
        rustix::io::write(&self.gate, &[1]).map(drop)
    }
}

impl Drop for Parked {
    /// It is over, one way or the other, when this is dropped.
    fn drop(&mut self) {
        let _ = rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::KILL);
        let exited = WaitIdOptions::EXITED;
        let _ = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.child.pidfd.as_fd()), exited));
    }
}

/// Waits for the end of what was released; whether it did its work.
pub(crate) fn finished(parked: Parked) -> bool {
    let pidfd = parked.child.pidfd.as_fd();
    // Only looked at: the drop reaps it.
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd), ended));
    matches!(status, Ok(Some(status)) if status.exit_status() == Some(0))
}

/// Makes a user namespace that nobody is in.
pub(crate) fn create(mapping: &IdMapping) -> rustix::io::Result<OwnedFd> {
    park(mapping, Namespaces::default(), || 0)?.namespace("user")
}

/// Enters a user namespace as its root, with all capabilities there and none outside.
pub(crate) fn enter(namespace: BorrowedFd<'_>) -> rustix::io::Result<()> {
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::User))?;
    become_root()
}

/// Takes the ids of the namespace's root. Until then the process belongs to a user that the namespace does not know.
pub(crate) fn become_root() -> rustix::io::Result<()> {
    set_thread_groups(&[])?;
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    set_thread_res_gid(gid, gid, gid)?;
    match set_thread_res_uid(uid, uid, uid) {
        // Root is not mapped: whoever is launched takes another id before anything else.
        Err(Errno::INVAL) => Ok(()),
        other => other,
    }
}

/// Tries what a container in a user namespace needs of the file system that its layers are on: makes a namespace and
/// shows `directory` with its ids. Nothing is left of it.
///
/// # Errors
/// The kernel's: no user namespaces, or a file system that cannot be id-mapped.
pub fn probe_user_namespaces(directory: &std::path::Path) -> std::io::Result<()> {
    let range = IdRange {
        container: 0,
        host: 1 << 30,
        length: 65536,
    };
    let mapping = IdMapping {
        uids: vec![range],
        gids: vec![range],
    };
    let user = create(&mapping)?;
    let tree = rustix::mount::open_tree(
        rustix::fs::CWD,
        directory,
        rustix::mount::OpenTreeFlags::OPEN_TREE_CLONE | rustix::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    Ok(crate::sys::mount::map_ids(tree.as_fd(), user.as_fd())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(container: u32, host: u32, length: u32) -> IdRange {
        IdRange {
            container,
            host,
            length,
        }
    }

    #[test]
    fn ids_go_both_ways() {
        let ranges = vec![range(0, 100_000, 65536)];
        let mapping = IdMapping::new("linux.", ranges.clone(), ranges).unwrap();
        assert_eq!(mapping.host_uid(0), Some(100_000));
        assert_eq!(mapping.host_gid(65535), Some(165_535));
        assert_eq!(mapping.host_uid(65536), None);
        assert_eq!(mapping.container_uid(100_001), Some(1));
        assert_eq!(mapping.container_gid(99_999), None);
    }

    #[test]
    fn a_mapping_without_sense_names_its_list() {
        let good = || vec![range(0, 100_000, 65536)];
        for bad in [
            vec![],
            vec![range(0, 100_000, 0)],
            vec![range(0, u32::MAX - 10, 65536)],
            vec![range(u32::MAX, 0, 1)],
            vec![range(0, 100_000, 10), range(5, 200_000, 10)],
            vec![range(0, 100_000, 10), range(10, 100_009, 10)],
        ] {
            let error = IdMapping::new("linux.", good(), bad.clone()).unwrap_err();
            assert!(error.to_string().starts_with("linux.gidMappings"), "{error}");
            assert!(IdMapping::new("linux.", bad, good()).is_err());
        }
    }
}
