//! What only a system call on the running kernel can answer. Every probe takes back what it made: the mounts are
//! detached and go with their descriptors.

use std::fs;
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::Finding;

/// Calls that the kernel's version promises, but that a filter around us may forbid.
pub(super) fn findings() -> Vec<Finding> {
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).map(drop);
    let beneath = openat2(
        CWD,
        ".",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH,
    )
    .map(drop);
    let mount = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map(drop);
    [("pidfd_open", pidfd), ("openat2", beneath), ("fsopen", mount)]
        .map(|(call, tried)| call_works(call, tried))
        .into()
}

fn call_works(call: &'static str, tried: Result<(), Errno>) -> Finding {
    match tried {
        Ok(()) => Finding::has("kernel", call, "works"),
        Err(errno) => Finding::lacks(
            "kernel",
            call,
            errno.to_string(),
            "containers cannot be started",
            "run crisp as root, and outside of containers whose seccomp profile forbids the call",
        )
        .essential(),
    }
}

/// Whether nftables can be spoken to: the embedded network masquerades through it.
pub(super) fn netfilter() -> Finding {
    let opened = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    );
    match opened {
        Ok(_) => Finding::has("network", "nftables", "reachable"),
        Err(errno) => Finding::lacks(
            "network",
            "nftables",
            errno.to_string(),
            "pods of the embedded network reach nothing beyond this node",
            "modprobe nf_tables, or use a CNI network",
        ),
    }
}

/// Mounts an overlay with its upper directory in `directory`, as for a container's root, and lets it go.
pub(super) fn overlay(directory: &Path) -> Result<(), (&'static str, Errno)> {
    let scratch = Scratch::create(directory)
        .map_err(|error| ("mkdir", Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    let file_system =
        fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| ("fsopen overlay", errno))?;
    for (key, value) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
        fsconfig_set_string(&file_system, key, scratch.0.join(value))
            .map_err(|errno| ("set layers", errno))?;
    }
    fsconfig_set_flag(&file_system, "volatile").map_err(|errno| ("set volatile", errno))?;
    fsconfig_create(&file_system).map_err(|errno| ("create overlay", errno))?;
    let mounted = fsmount(
        &file_system,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    );
    mounted.map(drop).map_err(|errno| ("fsmount", errno))
}

/// Three empty directories, removed again.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn create(below: &Path) -> std::io::Result<Self> {
        let scratch = Self(below.join(format!(".crisp-check-{}", std::process::id())));
        fs::create_dir(&scratch.0)?;
        for name in ["lower", "upper", "work"] {
            fs::create_dir(scratch.0.join(name))?;
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
