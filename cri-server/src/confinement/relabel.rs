//! New SELinux labels for volumes whose mounts ask for them, and for a pod's own files.
//!
//! A volume's content is its containers', so nothing in it is trusted: every entry is opened by descriptor, without
//! following links and without leaving the file system that was mounted, and labelled through that descriptor.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, XattrFlags, fstat, open, openat, openat2, stat};
use rustix::io::{Errno, Result as SystemResult};

use crate::{Error, Result};

/// Directories of the node that get no label of a container, whoever asks (CVE-2021-43816): the node would not work on.
const NEVER: [&str; 20] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc",
    "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var",
];
/// File systems that show the kernel's objects (statfs(2)): procfs, sysfs, cgroup, cgroup2, securityfs, debugfs, tracefs,
/// devpts. Their labels are the policy's.
const KERNEL_FILE_SYSTEMS: [u64; 8] = [
    0x9fa0,
    0x6265_6572,
    0x27_e0eb,
    0x6367_7270,
    0x7363_6673,
    0x6462_6720,
    0x7472_6163,
    0x1cd1,
];
const LABEL: &CStr = c"security.selinux";
/// No deeper: each level holds a descriptor.
const DEPTH_MAX: usize = 512;

/// Labels a volume with all that is in it. What has the label already costs only a look.
///
/// # Errors
/// [`Error::Invalid`] for a directory that the node itself lives on, [`Error::Io`] with the volume's path.
pub fn volume(path: &Path, label: &str) -> Result<()> {
    let failed = |errno: Errno| Error::io("relabel", path)(errno.into());
    let top = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    if is_the_nodes(top.as_fd()).map_err(failed)? {
        return Err(Error::invalid(
            "mounts.selinux_relabel",
            format!(
                "{} is a directory of the node and cannot be relabelled; mount one below it",
                path.display()
            ),
        ));
    }
    tree(top, label).map_err(failed)
}

fn is_the_nodes(top: BorrowedFd<'_>) -> SystemResult<bool> {
    let found = fstat(top)?;
    let same = |path: &&str| {
        stat(*path).is_ok_and(|other| (other.st_dev, other.st_ino) == (found.st_dev, found.st_ino))
    };
    let kind = rustix::fs::fstatfs(top)?.f_type as u64;
    Ok(KERNEL_FILE_SYSTEMS.contains(&kind) || NEVER.iter().any(same))
}

/// Depth first, with a descriptor for each directory on the way.
fn tree(top: OwnedFd, label: &str) -> SystemResult<()> {
    set(top.as_fd(), label)?;
    let Some(first) = entries_of(top.as_fd())? else {
        return Ok(());
    };
    let mut open_directories = vec![first];
    while let Some(directory) = open_directories.last_mut() {
        let Some(entry) = directory.read() else {
            open_directories.pop();
            continue;
        };
        let entry = entry?;
        if [c".", c".."].contains(&entry.file_name()) {
            continue;
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let child = match openat2(directory.fd()?, entry.file_name(), flags, Mode::empty(), resolve) {
            Ok(child) => child,
            // Another file system is mounted there, or it is gone.
            Err(Errno::XDEV | Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        set(child.as_fd(), label)?;
        if let Some(below) = entries_of(child.as_fd())? {
            if open_directories.len() >= DEPTH_MAX {
                return Err(Errno::NAMETOOLONG);
            }
            open_directories.push(below);
        }
    }
    Ok(())
}

/// The entries of what is a directory.
fn entries_of(file: BorrowedFd<'_>) -> SystemResult<Option<Dir>> {
    match openat(
        file,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(directory) => Dir::new(directory).map(Some),
        Err(Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Labels what a descriptor stands for, be it a link.
fn set(file: BorrowedFd<'_>, label: &str) -> SystemResult<()> {
    // Descriptors of O_PATH have no extended attributes; this name leads to the very same object.
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut present = [0; 256];
    let has = rustix::fs::getxattr(&name, LABEL, &mut present);
    if has.is_ok_and(|length| present[..length].trim_ascii_end() == label.as_bytes()) {
        return Ok(());
    }
    match rustix::fs::setxattr(&name, LABEL, label.as_bytes(), XattrFlags::empty()) {
        // A file system without labels of its own has the one that it is mounted with.
        Err(Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    const CONTAINERS: &str = "system_u:object_r:container_file_t:s0:c1,c2";

    fn label_of(path: &Path) -> String {
        let mut label = [0; 256];
        let length = rustix::fs::lgetxattr(path, LABEL, &mut label).unwrap_or(0);
        String::from_utf8_lossy(&label[..length]).into_owned()
    }

    fn able() -> bool {
        let is_root = rustix::process::geteuid().is_root();
        if !is_root {
            println!("SKIPPED: writing attributes of security modules takes CAP_SYS_ADMIN");
        }
        is_root
    }

    #[test]
    fn all_of_a_volume_is_labelled_and_nothing_that_it_links_to() {
        if !able() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let (volume_path, outside) = (temp.path().join("volume"), temp.path().join("outside"));
        fs::create_dir_all(volume_path.join("a/b")).unwrap();
        fs::write(volume_path.join("a/b/file"), "").unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "").unwrap();
        symlink(&outside, volume_path.join("a/link")).unwrap();
        symlink("../../outside/file", volume_path.join("link")).unwrap();
        volume(&volume_path, CONTAINERS).unwrap();
        for path in ["", "a", "a/b", "a/b/file", "a/link", "link"] {
            assert_eq!(label_of(&volume_path.join(path)), CONTAINERS, "{path:?}");
        }
        for path in [&outside, &outside.join("file"), temp.path()] {
            assert_ne!(label_of(path), CONTAINERS, "{}", path.display());
        }
        volume(&volume_path, CONTAINERS).expect("again, with nothing to do");
    }

    #[test]
    fn a_source_may_be_a_link_and_is_resolved_once() {
        if !able() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("real")).unwrap();
        symlink("real", temp.path().join("link")).unwrap();
        volume(&temp.path().join("link"), CONTAINERS).unwrap();
        assert_eq!(label_of(&temp.path().join("real")), CONTAINERS);
    }

    #[test]
    fn directories_of_the_node_are_refused_by_every_name() {
        // Made and removed out here: in the thread's view nothing can be.
        let temp = tempfile::tempdir().unwrap();
        let link = temp.path().join("link");
        symlink("/etc", &link).unwrap();
        std::thread::spawn(move || refuse_directories_of_the_node(&link))
            .join()
            .unwrap();
    }

    fn refuse_directories_of_the_node(link: &Path) {
        // Should they not be refused, this node's are not to be labelled: in this thread's view nothing on its root can be.
        if rustix::process::geteuid().is_root() {
            let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
            let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(none, "/", none, private, none).unwrap();
            mount(none, "/", none, read_only, none).unwrap();
        }
        for path in [
            "/",
            "/etc",
            "/usr/../etc",
            "/var/",
            "/home",
            "/proc",
            "/proc/self",
            "/sys/kernel",
        ]
        .map(Path::new)
        {
            assert!(
                matches!(volume(path, CONTAINERS), Err(Error::Invalid { .. })),
                "{}",
                path.display()
            );
        }
        assert!(matches!(volume(link, CONTAINERS), Err(Error::Invalid { .. })));
        assert_ne!(label_of(Path::new("/etc")), CONTAINERS);
    }

    #[test]
    fn a_tree_without_end_is_an_error() {
        if !able() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let mut deep = temp.path().to_owned();
        for _ in 0..600 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        assert!(volume(temp.path(), CONTAINERS).is_err());
    }
}
