//! The ways out of a root file system that privileges give: what is found at their ends.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};

/// Takes a directory below for the root, and climbs from the one before for as long as there is anywhere to go: prints what
/// is there. Takes CAP_SYS_CHROOT.
pub(crate) fn climb() -> io::Result<()> {
    fs::create_dir("/prison")?;
    std::os::unix::fs::chroot("/prison")?;
    for _ in 0..64 {
        std::env::set_current_dir("..")?;
    }
    print_names(Path::new("."))
}

/// Takes its own root away, and enters the mount namespace anew: prints what is there. Takes CAP_SYS_ADMIN as well.
pub(crate) fn uproot() -> io::Result<()> {
    let namespace = File::open("/proc/self/ns/mnt")?;
    umount2("/", MntFlags::MNT_DETACH)?;
    setns(namespace, CloneFlags::CLONE_NEWNS)?;
    print_names(Path::new("/"))
}

fn print_names(directory: &Path) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    names.sort();
    writeln!(io::stdout(), "{}", names.join(" "))
}
