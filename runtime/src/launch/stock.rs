//! What containers are made of, made while nobody waits for it.
//!
//! A `/dev`, an instance of devpts, a directory for the cgroups of v1 and the cover of masked directories are the same for
//! nearly every container. A supervisor that has nothing to do yet makes one of each as detached mounts, by the plan of a
//! container that was there before:
//!
//! ```text
//!   LaunchPlan ── StockPlan::of ──► StockPlan ── Stock::make ──► Stock      a quiet moment
//!   another LaunchPlan, piece by piece ── is it just that? ──► taken        a launch
//!                                                └── no ────► made then, as ever
//! ```
//! A piece serves one container and only where the plan asks for just that piece, so whatever is in stock changes nothing
//! but the time that a launch takes. What is of a namespace of the container or its pod (procfs, sysfs, mqueue) is never in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use minicbor::{Decode, Encode};
use rustix::fs::{CWD, Mode};
use rustix::mount::{MoveMountFlags, move_mount};

use super::failure::{InStep, StepResult};
use super::mounts::{clone_of, fresh};
use super::plan::{
    Attributes, CgroupLayout, DeviceNode, FileSystem, HierarchyMount, LaunchPlan, MountPlan, MountSource,
};
use super::sealed::{seal, unseal};
use super::{SetupFailure, Step, cgroup_mounts, devices, masks};

/// What is worth making.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct StockPlan {
    #[n(0)]
    pieces: Vec<Piece>,
}

/// A mount that depends on nothing but what is said here.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
enum Piece {
    /// A filled `/dev`.
    #[n(0)]
    #[cbor(map)]
    Dev {
        #[n(0)]
        options: Vec<(String, String)>,
        #[n(1)]
        attributes: Attributes,
        #[n(2)]
        nodes: Vec<DeviceNode>,
    },
    /// Terminals.
    #[n(1)]
    #[cbor(map)]
    Devpts {
        #[n(0)]
        options: Vec<(String, String)>,
        #[n(1)]
        attributes: Attributes,
    },
    /// The directory of v1 hierarchies, which are still to be attached.
    #[n(2)]
    #[cbor(map)]
    Hierarchies {
        #[n(0)]
        attributes: Attributes,
        #[n(1)]
        directories: Vec<Directory>,
    },
    /// What covers masked directories.
    #[n(3)]
    #[cbor(map)]
    Cover {},
}

/// The directory of one hierarchy.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
struct Directory {
    #[n(0)]
    name: String,
    /// The links to it.
    #[n(1)]
    aliases: Vec<String>,
}

impl Directory {
    fn names(&self) -> (&str, &[String]) {
        (&self.name, &self.aliases)
    }
}

impl StockPlan {
    /// What could have been made before the launch of this container; `None` for one that is not launched alone, since only
    /// those take from stock.
    pub fn of(plan: &LaunchPlan) -> Option<StockPlan> {
        let pieces = plan
            .mounts
            .iter()
            .filter_map(|mount| Piece::of(mount, &plan.devices));
        plan.is_alone().then(|| StockPlan {
            pieces: pieces.chain([Piece::Cover {}]).collect(),
        })
    }

    /// Whether a container could take each piece of it, and no other.
    pub fn suits(&self, plan: &LaunchPlan) -> bool {
        let mut pieces = self.pieces.iter();
        let mut wanted = plan.mounts.iter().filter(|mount| Piece::is_one(mount));
        plan.is_alone()
            && wanted.all(|mount| {
                let piece = pieces.next();
                piece.is_some_and(|piece| piece.is_for(mount, &plan.devices))
            })
            && matches!(pieces.next(), Some(Piece::Cover {}))
    }

    /// Writes the plan into a sealed memfd, to be passed to a supervisor.
    ///
    /// # Errors
    /// What `memfd_create`, `write` and `fcntl(F_ADD_SEALS)` answer.
    pub fn seal(&self) -> std::io::Result<OwnedFd> {
        seal(self)
    }

    /// Reads a plan from its sealed memfd.
    ///
    /// # Errors
    /// [`Step::DecodePlan`] when it cannot be read or is no plan.
    pub fn from_memfd(memfd: BorrowedFd<'_>) -> Result<StockPlan, SetupFailure> {
        unseal(memfd).step(Step::DecodePlan)
    }
}

impl Piece {
    fn of(mount: &MountPlan, nodes: &[DeviceNode]) -> Option<Piece> {
        let attributes = mount.attributes;
        match &mount.source {
            _ if !Piece::is_one(mount) => None,
            MountSource::Fresh {
                kind: FileSystem::Dev,
                options,
            } => Some(Piece::Dev {
                options: options.clone(),
                attributes,
                nodes: nodes.to_vec(),
            }),
            MountSource::Fresh {
                kind: FileSystem::Devpts,
                options,
            } => Some(Piece::Devpts {
                options: options.clone(),
                attributes,
            }),
            MountSource::Cgroup {
                layout: CgroupLayout::PerHierarchy { hierarchies },
            } => {
                let named = |one: &HierarchyMount| Directory {
                    name: one.directory.clone(),
                    aliases: one.aliases.clone(),
                };
                Some(Piece::Hierarchies {
                    attributes,
                    directories: hierarchies.iter().map(named).collect(),
                })
            }
            _ => None,
        }
    }

    /// Whether there is a piece for such a mount.
    fn is_one(mount: &MountPlan) -> bool {
        match &mount.source {
            // Labels of SELinux are mostly those of one container alone.
            MountSource::Fresh { kind, options } => {
                matches!(kind, FileSystem::Dev | FileSystem::Devpts)
                    && !options.iter().any(|(name, _)| name == MountPlan::LABEL)
            }
            MountSource::Cgroup { layout } => matches!(layout, CgroupLayout::PerHierarchy { .. }),
            MountSource::Bind { .. } | MountSource::Image { .. } => false,
        }
    }

    /// Whether it is just what this mount would be made to.
    fn is_for(&self, mount: &MountPlan, nodes: &[DeviceNode]) -> bool {
        match (self, &mount.source) {
            (
                Piece::Dev {
                    options,
                    attributes,
                    nodes: made,
                },
                MountSource::Fresh {
                    kind: FileSystem::Dev,
                    options: wanted,
                },
            ) => options == wanted && *attributes == mount.attributes && made == nodes,
            (
                Piece::Devpts { options, attributes },
                MountSource::Fresh {
                    kind: FileSystem::Devpts,
                    options: wanted,
                },
            ) => options == wanted && *attributes == mount.attributes,
            (
                Piece::Hierarchies {
                    attributes,
                    directories,
                },
                MountSource::Cgroup {
                    layout: CgroupLayout::PerHierarchy { hierarchies },
                },
            ) => {
                let ours = directories.iter().map(Directory::names);
                *attributes == mount.attributes && ours.eq(hierarchies.iter().map(HierarchyMount::names))
            }
            _ => false,
        }
    }

    fn make(&self) -> StepResult<OwnedFd> {
        match self {
            Piece::Dev {
                options,
                attributes,
                nodes,
            } => {
                let dev = fresh(FileSystem::Dev, options, *attributes).step_at(Step::Mount, "/dev")?;
                devices::populate(dev.as_fd(), nodes, None)?;
                Ok(dev)
            }
            Piece::Devpts { options, attributes } => {
                fresh(FileSystem::Devpts, options, *attributes).step_at(Step::Mount, "/dev/pts")
            }
            Piece::Hierarchies {
                attributes,
                directories,
            } => {
                let names = directories.iter().map(Directory::names);
                cgroup_mounts::directory(*attributes, names).step_at(Step::Mount, "/sys/fs/cgroup")
            }
            Piece::Cover {} => masks::empty_directory().step(Step::Mask),
        }
    }
}

/// Detached mounts for one container; what is not attached ends with its descriptor.
#[derive(Debug)]
pub struct Stock(Vec<(Piece, OwnedFd)>);

impl Stock {
    /// Makes everything that the plan names. Changes the umask of the process meanwhile.
    ///
    /// # Errors
    /// The step that failed; nothing stays.
    pub fn make(plan: &StockPlan) -> Result<Stock, SetupFailure> {
        // As in a launch, modes are what the plan says.
        let umask = rustix::process::umask(Mode::empty());
        let made: StepResult<Vec<_>> = plan
            .pieces
            .iter()
            .map(|piece| Ok((piece.clone(), piece.make()?)))
            .collect();
        rustix::process::umask(umask);
        made.map(Stock)
    }

    /// The descriptors that a launch takes along.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|(_, made)| made.as_fd())
    }

    /// All of it, for one launch.
    pub(crate) fn shelf(&self) -> Shelf<'_> {
        Shelf(self.0.iter().map(|(piece, made)| (piece, made.as_fd())).collect())
    }
}

/// What a launch has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Shelf<'a>(Vec<(&'a Piece, BorrowedFd<'a>)>);

impl Shelf<'_> {
    /// What this mount would be made to, if it is there.
    pub(crate) fn take(&mut self, mount: &MountPlan, nodes: &[DeviceNode]) -> Option<OwnedFd> {
        self.take_if(|piece| piece.is_for(mount, nodes))
    }

    /// What covers masked directories, if it is there.
    pub(crate) fn take_cover(&mut self) -> Option<OwnedFd> {
        self.take_if(|piece| matches!(piece, Piece::Cover {}))
    }

    /// A clone, since the kernel lists mounts by their numbers, and what was made before the root would be listed before it.
    /// A clone can only be made of what is attached: the piece is put over a place of the old root, and stays there, out
    /// of everybody's reach. To end it would take longer than all of this.
    fn take_if(&mut self, is_it: impl Fn(&Piece) -> bool) -> Option<OwnedFd> {
        let found = self.0.iter().position(|(piece, _)| is_it(piece))?;
        let (_, made) = self.0.swap_remove(found);
        move_mount(made, "", CWD, "/dev", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).ok()?;
        clone_of(made, false).ok()
    }
}
