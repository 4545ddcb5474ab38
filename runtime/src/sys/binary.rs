//! An executable that nobody can change, whoever gets hold of a descriptor or of `/proc/<pid>/exe`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::memfd;
use super::mount::{AttrChange, set_attributes};

/// Loads the binary at `path`: a sealed memfd, or else a read-only clone of its mount.
pub(crate) fn load(path: &Path) -> io::Result<OwnedFd> {
    let mut source = File::open(path)?;
    match memfd::executable(c"crisp-pod", &mut source) {
        // vm.memfd_noexec=2 refuses executable memfds altogether.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => read_only_clone(path),
        other => other,
    }
}

/// A detached clone of the mount below `path`, with nothing but that file in it, read-only.
fn read_only_clone(path: &Path) -> io::Result<OwnedFd> {
    let tree = open_tree(
        CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    let attributes = AttrChange {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV,
        clear: MountAttrFlags::MOUNT_ATTR_NOEXEC,
        ..AttrChange::default()
    };
    set_attributes(tree.as_fd(), attributes)?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::fd::AsRawFd;
    use std::path::PathBuf;
    use std::process::Command;

    /// A program in a directory of its own. What is open for writing cannot be executed, and what this process has open
    /// another thread's child may have for a moment: so another process writes it.
    fn program() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let copy = directory.path().join("true");
        let copied = Command::new("cp").arg("/bin/true").arg(&copy).status();
        assert!(copied.unwrap().success());
        (directory, copy)
    }

    fn assert_runs_and_cannot_be_written(binary: &OwnedFd) {
        let path = format!("/proc/self/fd/{}", binary.as_raw_fd());
        assert!(Command::new(&path).status().unwrap().success());
        // As root, so that only seals or a read-only mount stand in the way.
        let written = OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|file| std::os::unix::fs::FileExt::write_at(&file, b"x", 0));
        assert!(written.is_err());
    }

    #[test]
    fn the_memfd_runs_and_cannot_be_written() {
        let (_directory, source) = program();
        let binary = load(&source).unwrap();
        assert_runs_and_cannot_be_written(&binary);
    }

    #[test]
    fn the_clone_runs_and_cannot_be_written() {
        let (_directory, source) = program();
        assert_runs_and_cannot_be_written(&read_only_clone(&source).unwrap());
    }
}
