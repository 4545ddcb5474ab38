//! The network namespace of a pod.
//!
//! Of all that a pod has it takes longest to make, and it depends on nothing but that the pod has one. So whoever is going to
//! connect it makes it, on a thread that is there for nothing else, while the pod's supervisor is being started:
//!
//! ```text
//!   daemon   thread: unshare ─ loopback ─► descriptor ─┬─► links, addresses, routes
//!            spawn ─► crisp-pod starts ────────────────┴─► joins it, then ipc, uts, sysctls
//! ```

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

use super::failure::{InStep, StepResult};
use super::{SetupFailure, Step};
use crate::sys;
use crate::sys::clone::unshare;

/// Makes a network namespace with its loopback raised, and gives it to `done`, on a thread that ends with that. It lasts as
/// long as a descriptor or a process uses it.
///
/// # Errors
/// When no thread can be started; what the kernel refuses, `done` is told: [`Step::Namespaces`] or [`Step::Loopback`].
pub fn make_network_namespace(
    done: impl FnOnce(Result<OwnedFd, SetupFailure>) + Send + 'static,
) -> io::Result<()> {
    std::thread::Builder::new()
        .name("netns".into())
        .stack_size(128 * 1024)
        .spawn(move || done(enter_new()))
        .map(drop)
}

/// Makes one around the calling thread.
pub(super) fn enter_new() -> StepResult<OwnedFd> {
    unshare(UnshareFlags::NEWNET).step_at(Step::Namespaces, "net")?;
    sys::net::raise_loopback().step(Step::Loopback)?;
    let own = "/proc/thread-self/ns/net";
    rustix::fs::open(own, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).step_at(Step::Namespaces, own)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn it_is_made_beside_the_callers_own() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: network namespaces need root");
            return;
        }
        let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let ours = || identity(rustix::fs::stat("/proc/thread-self/ns/net").unwrap());
        let before = ours();
        let (sender, made) = mpsc::channel();
        make_network_namespace(move |made| sender.send(made).unwrap()).unwrap();
        let made = made.recv().unwrap().unwrap();
        assert_eq!(ours(), before);
        assert_ne!(identity(rustix::fs::fstat(&made).unwrap()), before);
    }
}
