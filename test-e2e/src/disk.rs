//! A small disk of a test's own, which can be frozen so that whoever writes to it sleeps in the kernel.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host::Host;
use crate::layout::Preparation;

/// Size in bytes: the least that ext4 likes.
const SIZE: u64 = 16 << 20;

/// An ext4 file system on a loop device, mounted on a server's host.
pub struct Disk {
    /// Where it is mounted.
    pub directory: PathBuf,
    held: File,
    frozen: bool,
}

impl Disk {
    /// To be done before the server's start: makes and mounts the disk at `disk` in the server's directory.
    pub fn preparation() -> Preparation {
        Box::new(|directory: &Path| {
            let image = directory.join("disk.img");
            File::create(&image)
                .and_then(|file| file.set_len(SIZE))
                .expect("an image");
            let mount_point = directory.join("disk");
            std::fs::create_dir(&mount_point).expect("a mount point");
            run(Command::new("mkfs.ext4").arg("-q").arg(&image));
            run(Command::new("mount")
                .args(["-o", "loop"])
                .arg(&image)
                .arg(&mount_point));
        })
    }

    /// The disk that [`Self::preparation`] mounted.
    ///
    /// # Panics
    /// When there is none.
    pub async fn of(host: &Host, directory: &Path) -> Self {
        let directory = directory.join("disk");
        let mount_point = directory.clone();
        let held = host.enter(move || File::open(mount_point)).await;
        Self {
            directory,
            held: held.expect("the disk's root"),
            frozen: false,
        }
    }

    /// From here on writers sleep.
    ///
    /// # Panics
    /// When it cannot be frozen.
    pub fn freeze(&mut self) {
        run(&mut self.fsfreeze("-f"));
        self.frozen = true;
    }

    /// Wakes all writers.
    ///
    /// # Panics
    /// When it is not frozen.
    pub fn thaw(&mut self) {
        self.frozen = false;
        run(&mut self.fsfreeze("-u"));
    }

    /// The disk's mount is the host's own: it is reached by a descriptor.
    fn fsfreeze(&self, option: &str) -> Command {
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.held.as_raw_fd());
        let mut command = Command::new("fsfreeze");
        command.args([option, &path]);
        command
    }
}

impl Drop for Disk {
    /// A test that fails must not leave sleepers behind that nobody can wake.
    fn drop(&mut self) {
        if self.frozen {
            let _ = self.fsfreeze("-u").status();
        }
    }
}

fn run(command: &mut Command) {
    let status = command.status();
    assert!(status.is_ok_and(|status| status.success()), "{command:?}");
}
