//! The terminal of a process, allocated inside the container.
//!
//! Master and slave come from the container's own devpts by fd: no name in `/dev/pts`, which a container may
//! swap, is ever looked up (CVE-2025-52565).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::Step;
use super::failure::{InStep, StepResult};
use super::mounts::{attach, clone_of};
use super::plan::Terminal;
use super::rooted::{Kind, Root};
use super::values::ContainerPath;

/// `f_type` of devpts (statfs(2)).
const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;

/// Both ends of a terminal.
#[derive(Debug)]
pub(crate) struct Console {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
}

impl Console {
    /// Allocates a terminal on the devpts instance whose root `devpts` is.
    pub(crate) fn allocate(devpts: BorrowedFd<'_>, terminal: Terminal, owner: u32) -> StepResult<Console> {
        Self::try_allocate(devpts, terminal, owner).step_at(Step::Console, "/dev/pts/ptmx")
    }

    fn try_allocate(devpts: BorrowedFd<'_>, terminal: Terminal, owner: u32) -> rustix::io::Result<Console> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let master = rustix::fs::openat(devpts, "ptmx", flags, Mode::empty())?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(
            &master,
            OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
        )?;
        rustix::fs::fchown(&slave, Some(Uid::from_raw(owner)), None)?;
        if terminal != Terminal::default() {
            let size = Winsize {
                ws_row: terminal.rows,
                ws_col: terminal.columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            tcsetwinsize(&master, size)?;
        }
        Ok(Console { master, slave })
    }

    /// Makes the terminal appear as `/dev/console`.
    pub(crate) fn bind(&self, root: Root<'_>) -> StepResult<()> {
        let path = ContainerPath::parse(b"/dev/console").expect("a constant path is valid");
        root.ensure(&path, Kind::File)
            .and_then(|target| attach(clone_of(self.slave.as_fd(), false)?.as_fd(), target.as_fd()))
            .step_at(Step::Console, path)
    }
}

/// Finds the devpts of a running container, and makes sure that it is one.
pub(crate) fn find_devpts(root: Root<'_>) -> StepResult<OwnedFd> {
    let path = ContainerPath::parse(b"/dev/pts").expect("a constant path is valid");
    root.open_plain(&path, OFlags::PATH | OFlags::DIRECTORY)
        .and_then(|devpts| match rustix::fs::fstatfs(&devpts)?.f_type as u64 {
            DEVPTS_SUPER_MAGIC => Ok(devpts),
            _ => Err(Errno::NODEV),
        })
        .step_at(Step::Console, path)
}
