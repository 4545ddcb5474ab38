//! Small disks of the test's own: ext4 in a file, mounted for the length of a test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An ext4 file system (with its journal) in a file.
pub(crate) struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// A new one of this size; `inodes` is how many files it can hold.
    pub(crate) fn new(mebibytes: u64, inodes: u64) -> Self {
        let disk = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let file = std::fs::File::create(disk.backing()).unwrap();
        file.set_len(mebibytes << 20).unwrap();
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m0", "-N", &inodes.to_string()])
            .arg(disk.backing()));
        disk.mount();
        disk
    }

    /// What would be on the platters if the power went off now: a copy of all that has reached the device, mounted.
    pub(crate) fn after_power_loss(&self) -> Self {
        let disk = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::copy(self.backing(), disk.backing()).unwrap();
        disk.mount();
        disk
    }

    /// Makes the kernel believe that it has found damage (ext4(5), `errors=remount-ro`).
    pub(crate) fn fail(&self) {
        run(Command::new("mount")
            .args(["-o", "remount,errors=remount-ro"])
            .arg(self.path()));
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let point = format!(" {} ", self.path().display());
        let line = mounts.lines().find(|line| line.contains(&point)).unwrap();
        let device = line
            .split_whitespace()
            .next()
            .unwrap()
            .trim_start_matches("/dev/");
        std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "by a test").unwrap();
    }

    fn mount(&self) {
        std::fs::create_dir(self.path()).unwrap();
        run(Command::new("mount")
            .args(["-o", "loop"])
            .args([self.backing(), self.path()]));
    }

    fn backing(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// A directory beside the disk, for what does not outlive the power.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.beside("mounts/ns"));
        unmount(&self.beside("mounts"));
        unmount(&self.path());
    }
}

fn unmount(path: &Path) {
    let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
}
