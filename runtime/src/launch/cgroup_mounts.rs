//! The container's view of its cgroups.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{
    MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree,
};

use super::Step;
use super::failure::{InStep, StepResult, failure};
use super::mounts::{attach, fresh, refuse_covered};
use super::plan::{Attributes, CgroupLayout, FileSystem, HierarchyMount, MountPlan};
use super::rooted::{Kind, Root};
use super::values::HostPath;
use crate::sys::mount::{AttrChange, set_attributes};

/// Clones the directories that are shown, in the host's mount namespace.
pub(crate) fn prepare(layout: &CgroupLayout, attributes: Attributes) -> StepResult<Vec<OwnedFd>> {
    let clone = |source: &HostPath| clone_of(source, attributes).step_at(Step::Mount, source);
    match layout {
        CgroupLayout::Unified { source } => Ok(vec![clone(source)?]),
        CgroupLayout::PerHierarchy { hierarchies } => hierarchies
            .iter()
            .map(|hierarchy| clone(&hierarchy.source))
            .collect(),
    }
}

fn clone_of(source: &HostPath, attributes: Attributes) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source.as_c_str(), flags)?;
    let change = AttrChange {
        set: attribute_flags(attributes),
        clear: MountAttrFlags::from_bits_retain(attributes.clear | attributes.clear_recursive),
        propagation: Some(MountPropagationFlags::PRIVATE),
        recursive: false,
    };
    set_attributes(tree.as_fd(), change)?;
    Ok(tree)
}

fn attribute_flags(attributes: Attributes) -> MountAttrFlags {
    MountAttrFlags::from_bits_retain(attributes.set | attributes.set_recursive)
}

/// Attaches the clones at the mount's target; those of v1 hierarchies in `made`, a [`directory`] for them, if there is one.
pub(crate) fn attach_all(
    root: Root<'_>,
    mount: &MountPlan,
    layout: &CgroupLayout,
    clones: &[OwnedFd],
    made: Option<OwnedFd>,
) -> StepResult<()> {
    let target = root
        .ensure(&mount.target, Kind::Directory)
        .step_at(Step::Mount, &mount.target)?;
    refuse_covered(root, mount, target.as_fd())?;
    match (layout, clones) {
        (CgroupLayout::Unified { .. }, [clone]) => attach(clone.as_fd(), target.as_fd()),
        (CgroupLayout::PerHierarchy { hierarchies }, _) if hierarchies.len() == clones.len() => {
            let named = hierarchies.iter().map(HierarchyMount::names);
            let tmpfs = made.map_or_else(|| directory(mount.attributes, named), Ok);
            tmpfs.and_then(|tmpfs| {
                fill(
                    &tmpfs,
                    target.as_fd(),
                    mount.attributes,
                    hierarchies.iter().zip(clones),
                )
            })
        }
        _ => return Err(failure(Step::Internal, None, Errno::INVAL)),
    }
    .step_at(Step::Mount, &mount.target)
}

/// A tmpfs, detached and still writable, with a directory for each hierarchy and the links to it.
pub(crate) fn directory<'a>(
    attributes: Attributes,
    hierarchies: impl Iterator<Item = (&'a str, &'a [String])>,
) -> rustix::io::Result<OwnedFd> {
    let writable = attribute_flags(attributes).difference(MountAttrFlags::MOUNT_ATTR_RDONLY);
    let options = [("mode".to_owned(), "755".to_owned())];
    let tmpfs = fresh(
        FileSystem::Tmpfs,
        &options,
        Attributes {
            set: writable.bits(),
            ..Attributes::default()
        },
    )?;
    for (name, aliases) in hierarchies {
        rustix::fs::mkdirat(&tmpfs, name, Mode::from(0o755))?;
        for alias in aliases {
            rustix::fs::symlinkat(name, &tmpfs, alias.as_str())?;
        }
    }
    Ok(tmpfs)
}

/// Attaches it, and the hierarchies in it, before it becomes read-only.
fn fill<'a>(
    tmpfs: &OwnedFd,
    target: BorrowedFd<'_>,
    attributes: Attributes,
    hierarchies: impl Iterator<Item = (&'a HierarchyMount, &'a OwnedFd)>,
) -> rustix::io::Result<()> {
    attach(tmpfs.as_fd(), target)?;
    for (hierarchy, clone) in hierarchies {
        let name = hierarchy.directory.as_str();
        move_mount(clone, "", tmpfs, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    if attribute_flags(attributes).contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
        let readonly = AttrChange {
            set: MountAttrFlags::MOUNT_ATTR_RDONLY,
            ..AttrChange::default()
        };
        set_attributes(tmpfs.as_fd(), readonly)?;
    }
    Ok(())
}
