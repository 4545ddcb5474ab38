//! An ext4 with a journal on a loop device, mounted in a mount namespace of the bench.
//!
//! Some machines' own disks have no journal, or discard on every deletion: creating files right after a
//! deletion is then many times slower, and says nothing about a runtime.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount as mount_at, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// The file is sparse: this is what it may grow to.
const SIZE: u64 = 24 << 30;

/// The mounted scratch; unmounted when dropped.
pub(crate) struct Scratch {
    mounted: PathBuf,
    _image: TempDir,
}

impl Scratch {
    /// Where it is mounted.
    pub(crate) fn directory(&self) -> &Path {
        &self.mounted
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What a contender left mounted below goes with it: the namespace is ours alone.
        let _ = umount2(&self.mounted, MntFlags::MNT_DETACH);
    }
}

/// Makes the file system and mounts it, in a new mount namespace of the calling thread.
///
/// # Errors
/// Which step failed.
pub(crate) fn mount() -> io::Result<Scratch> {
    let step = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| step("a mount namespace", errno.into()))?;
    let none = None::<&str>;
    mount_at(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|errno| step("making mounts private", errno.into()))?;
    let base = std::env::var_os("CRISP_BENCH_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let image = tempfile::Builder::new()
        .prefix("crisp-race-")
        .tempdir_in(base)
        .map_err(|error| step("a directory below /var/tmp (or $CRISP_BENCH_DIR)", error))?;
    let file = image.path().join("ext4");
    File::create(&file)
        .and_then(|made| made.set_len(SIZE))
        .map_err(|error| step("the image file", error))?;
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&file))?;
    let mounted = image.path().join("scratch");
    fs::create_dir(&mounted)?;
    run(Command::new("mount")
        .args(["-o", "loop,noatime"])
        .arg(&file)
        .arg(&mounted))?;
    Ok(Scratch {
        mounted,
        _image: image,
    })
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "{}: {}",
        command.get_program().display(),
        said.trim()
    )))
}
