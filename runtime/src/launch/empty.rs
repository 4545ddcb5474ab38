//! An empty mount namespace, of which the containers' are copies.
//!
//! A copy of the host's costs for each mount of the host, when it is made and when all of it is unmounted again; on a node
//! with many pods that is more than all the rest of a launch. In here there is a read-only tmpfs with a directory to cover.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, move_mount, unmount,
};
use rustix::thread::UnshareFlags;

use super::mounts::fresh;
use super::plan::{Attributes, FileSystem};
use super::rootfs::make_all_private;
use crate::sys::clone::unshare;
use crate::sys::mount::{AttrChange, set_attributes};

/// Where [`super::mounts`] and [`super::masks`] put for a moment what a clone is to be made of.
const TO_COVER: &str = "dev";

/// Makes one. Blocks for as long as the host has mounts to copy once.
///
/// # Errors
/// What the kernel answers: among others where the calling process is in a user namespace, since a new procfs is given there
/// only to who has another one before his eyes; where its root is no mount; or where a thread cannot be started.
pub fn make() -> io::Result<OwnedFd> {
    let thread = std::thread::Builder::new()
        .name("empty-mounts".into())
        .spawn(|| build().map_err(io::Error::from))?;
    thread.join().unwrap_or_else(|_| {
        Err(io::Error::other(
            "the thread that makes an empty mount namespace died",
        ))
    })
}

/// The thread ends here, and with it its view: what is given back keeps the namespace.
fn build() -> rustix::io::Result<OwnedFd> {
    unshare(UnshareFlags::NEWNS)?;
    make_all_private()?;
    // Opened through the /proc that is about to go.
    let own = rustix::fs::open(
        "/proc/thread-self/ns/mnt",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let options = [("mode".to_owned(), "555".to_owned())];
    let root = fresh(
        FileSystem::Tmpfs,
        &options,
        Attributes {
            set: attributes.bits(),
            ..Attributes::default()
        },
    )?;
    rustix::fs::mkdirat(&root, TO_COVER, Mode::from(0o555))?;
    let last = AttrChange {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY,
        propagation: Some(MountPropagationFlags::PRIVATE),
        ..AttrChange::default()
    };
    set_attributes(root.as_fd(), last)?;
    move_mount(
        &root,
        "",
        rustix::fs::CWD,
        "/",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    rustix::process::fchdir(root.as_fd())?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    // What each container will ask for.
    drop(fresh(FileSystem::Proc, &[], Attributes::default())?);
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

    #[test]
    fn there_is_nothing_in_it_and_nothing_changes_outside() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: mount namespaces need root");
            return;
        }
        // In a view of its own: what others mount meanwhile is not to be seen. What they remove may be.
        let outside = || std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let maker = std::thread::spawn(move || {
            unshare(UnshareFlags::NEWNS).unwrap();
            make_all_private().unwrap();
            let before = outside();
            let empty = make().unwrap();
            let after = outside();
            let appeared = after
                .lines()
                .filter(|mount| !before.lines().any(|known| known == *mount));
            assert_eq!(appeared.collect::<String>(), "");
            empty
        });
        let empty = maker.join().unwrap();
        let inside = std::thread::spawn(move || {
            let mounts = std::fs::File::open("/proc/thread-self/mountinfo").unwrap();
            unshare(UnshareFlags::FS).unwrap();
            move_into_link_name_space(empty.as_fd(), Some(LinkNameSpaceType::Mount)).unwrap();
            drop(mounts);
            let names: Vec<_> = std::fs::read_dir("/")
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            (names, std::fs::write("/file", "").unwrap_err().kind())
        });
        let (names, refused) = inside.join().unwrap();
        assert_eq!(names, [TO_COVER]);
        assert_eq!(refused, io::ErrorKind::ReadOnlyFilesystem);
    }
}
