//! In which hierarchies a cgroup is.

use super::hierarchy::Hierarchy;
use super::{Cgroup, CgroupError, Layout, tree};

/// The controllers of v1 with counters that agents read (cAdvisor takes it amiss if one of these has no directory).
const COUNTERS: [&str; 5] = ["cpuacct", "memory", "blkio", "pids", "hugetlb"];

/// In which hierarchies a cgroup has directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// In all: a container's.
    Whole,
    /// Where use is counted: one that agents look at, and nobody is in.
    Counters,
    /// Where memory is charged: enough for a process of our own, and cheap.
    Service,
}

impl Cgroup {
    /// The same only in the hierarchies that count what is used, for one that agents look up and nobody is in: on v1 each
    /// directory more costs its making, its removal and some six kilobytes. Made, it has a parent in all: whoever makes
    /// others beside it makes, and undoes, nothing but those.
    #[must_use]
    pub fn of_counters(mut self) -> Cgroup {
        self.extent = Extent::Counters;
        self
    }

    /// The parent where the cgroup itself has no directory.
    pub(super) fn create_parents(&self, made: &mut tree::Made) -> Result<(), CgroupError> {
        let (Extent::Counters, Some(parent)) = (self.extent, self.path.parent()) else {
            return Ok(());
        };
        let all = self.hierarchies.all().iter();
        let mut missing =
            all.filter(|hierarchy| !self.is_member(hierarchy) && !hierarchy.mount.join(parent).is_dir());
        missing.try_for_each(|hierarchy| tree::create(hierarchy, parent, &[], made))
    }

    /// The hierarchies that it has a directory in.
    pub(super) fn members(&self) -> impl Iterator<Item = &Hierarchy> {
        let all = self.hierarchies.all().iter();
        all.filter(|hierarchy| self.is_member(hierarchy))
    }

    fn is_member(&self, hierarchy: &Hierarchy) -> bool {
        let controllers: &[&str] = match self.extent {
            Extent::Whole => return true,
            Extent::Counters => &COUNTERS,
            Extent::Service => &["memory"],
        };
        controllers.iter().any(|controller| hierarchy.has(controller))
            || (hierarchy.is_v2() && self.hierarchies.layout() == Layout::V2)
    }

    /// A hierarchy that all processes of the cgroup are in.
    pub(super) fn representative(&self) -> &Hierarchy {
        self.members()
            .find(|hierarchy| !hierarchy.is_v2())
            .or_else(|| self.members().next())
            .unwrap_or_else(|| {
                self.hierarchies
                    .all()
                    .first()
                    .expect("hierarchies are never empty")
            })
    }
}
