//! The request that starts a container, and what travels with it.

use std::os::fd::OwnedFd;

use minicbor::{Decode, Encode};

use super::frame::{Frame, ProtocolError};
use super::id::ContainerId;

/// What a container needs besides its plan.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct StartContainer {
    /// The container.
    #[n(0)]
    pub container: ContainerId,
    /// The plan has a terminal: stdio is a pty, its output is logged as stdout.
    #[n(1)]
    pub tty: bool,
    /// Keep a stdin pipe open for the container; without it stdin is `/dev/null`. A terminal always has one.
    #[n(2)]
    pub stdin: bool,
    /// Stdin ends with the first client that attached to it.
    #[n(3)]
    pub stdin_once: bool,
    /// File with an `oom_kill <n>` line: v1 `memory.oom_control` or v2 `memory.events`. Opened at the start, since a
    /// systemd scope is gone when its last process is.
    #[n(4)]
    pub oom_file: Option<String>,
    /// A directory of the container's cgroup, in any hierarchy that has all its processes: how `SignalScope::All` finds
    /// them, and what is killed when a launch dies half-way.
    #[n(5)]
    pub cgroup: Option<String>,
    /// A log descriptor follows the plan.
    #[n(6)]
    has_log: bool,
    /// A cgroup descriptor follows.
    #[n(7)]
    has_cgroup: bool,
    /// The container whose pid namespace this one joins, when the plan says so.
    #[n(8)]
    pub pid_target: Option<ContainerId>,
    /// The plan [is launched alone](crate::launch::LaunchPlan::is_alone). Needs [`Features::ALONE`](super::Features::ALONE).
    #[n(150)]
    #[cbor(default, skip_if = "is_false")]
    pub alone: bool,
    /// A root file system follows.
    #[n(151)]
    #[cbor(default, skip_if = "is_false")]
    has_root: bool,
    /// An empty mount namespace follows.
    #[n(152)]
    #[cbor(default, skip_if = "is_false")]
    has_empty: bool,
}

/// What older supervisors do not know is only said when there is something to say.
#[allow(clippy::trivially_copy_pass_by_ref)]
pub(super) fn is_false(value: &bool) -> bool {
    !value
}

/// The descriptors that a container starts with.
#[derive(Debug)]
pub struct Given {
    /// Sealed memfd with a `launch::LaunchPlan`.
    pub plan: OwnedFd,
    /// Log file, opened for appending; without it output is discarded.
    pub log: Option<OwnedFd>,
    /// Directory of the container's cgroup in the unified hierarchy, for `CLONE_INTO_CGROUP`.
    pub cgroup: Option<OwnedFd>,
    /// The root file system, made ahead; only for a container that is launched alone.
    pub root: Option<OwnedFd>,
    /// An empty mount namespace; only for a container that is launched alone.
    pub empty: Option<OwnedFd>,
}

impl Given {
    /// The plan alone: output is discarded, and the cgroup joined by whatever the plan says.
    pub fn new(plan: OwnedFd) -> Given {
        Given {
            plan,
            log: None,
            cgroup: None,
            root: None,
            empty: None,
        }
    }
}

impl StartContainer {
    /// A container without terminal, stdin, OOM counter or cgroup.
    pub fn new(container: ContainerId) -> StartContainer {
        StartContainer {
            container,
            tty: false,
            stdin: false,
            stdin_once: false,
            oom_file: None,
            cgroup: None,
            has_log: false,
            has_cgroup: false,
            pid_target: None,
            alone: false,
            has_root: false,
            has_empty: false,
        }
    }

    /// The body that announces what is given, and the descriptors in their order.
    pub(super) fn carrying(mut self, given: Given) -> (StartContainer, Vec<OwnedFd>) {
        let Given {
            plan,
            log,
            cgroup,
            root,
            empty,
        } = given;
        self.has_log = log.is_some();
        self.has_cgroup = cgroup.is_some();
        self.has_root = root.is_some();
        self.has_empty = empty.is_some();
        let fds = [Some(plan), log, cgroup, root, empty];
        (self, fds.into_iter().flatten().collect())
    }

    /// What came with it.
    ///
    /// # Errors
    /// [`ProtocolError::Descriptors`] when those are not as many as it announces.
    pub(super) fn carried(&self, frame: &mut Frame) -> Result<Given, ProtocolError> {
        let announced = [self.has_log, self.has_cgroup, self.has_root, self.has_empty];
        let mut fds = frame.take_fds(1 + announced.into_iter().filter(|has| *has).count())?;
        let plan = fds.required()?;
        let [log, cgroup, root, empty] = announced.map(|has| fds.announced(has));
        Ok(Given {
            plan,
            log,
            cgroup,
            root,
            empty,
        })
    }
}
