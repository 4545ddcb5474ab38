//! The mounts of layers that are EROFS images: each image is mounted once per boot.
//!
//! Two mounts of one file are two file systems for the kernel, with a page cache each: twenty pods of one image would
//! hold its programs twenty times. So there is one mount, and everything else is a clone of it:
//!
//! ```text
//!   l/<key>/erofs ──fsopen──► mount ──► /<key> in a mount namespace of their own   (pinned: <run>/layers/ns)
//!                                          ├──clone──► here, to look into a layer
//!                                          └──clone──► stage-1 of a container, as a layer of its overlay
//! ```
//!
//! The namespace holds nothing else, nobody lives in it, and the host does not see its mounts. Being pinned it
//! outlives the daemon; the next one goes on with the mounts it finds there.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::LayerKey;
use super::pin::Pin;
use crate::error::Error;

/// The mounted layers of a store.
#[derive(Debug)]
pub(crate) struct Mounts {
    at: PathBuf,
    /// Locked for every change: two who want the same layer must not mount it twice.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// There as long as there are mounts.
    pin: Option<Pin>,
    /// Clones of mounts that are in there, by name: entering the namespace takes a thread each time.
    clones: HashMap<String, OwnedFd>,
}

impl Mounts {
    /// Finds the mounts of a former life; `at` is the directory to pin them in.
    ///
    /// # Errors
    /// There were none, and a namespace cannot be pinned there.
    pub(crate) fn open(at: &Path) -> Result<Self, Error> {
        let pin = match Pin::find(at)? {
            Some(found) => Some(found),
            // Only to see that it works.
            None => {
                Pin::make(at)?.remove()?;
                None
            }
        };
        let state = State {
            pin,
            ..State::default()
        };
        Ok(Self {
            at: at.into(),
            state: Mutex::new(state),
        })
    }

    /// The file where the namespace is pinned, when there is one.
    pub(crate) fn namespace(&self) -> PathBuf {
        Pin::file_in(&self.at)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A clone of a layer's mount, which is made if there is none. Blocks.
    pub(crate) fn get(&self, key: &LayerKey, image: &Path) -> Result<OwnedFd, Error> {
        let io = |errno: Errno| Error::io("mount", image)(errno.into());
        let mut state = self.state();
        let State { pin, clones } = &mut *state;
        if let Some(lost) = pin
            && !lost.is_pinned().map_err(io)?
        {
            // Containers would look for it in vain.
            (*pin, *clones) = (None, HashMap::new());
        }
        let pin = match pin {
            Some(pin) => pin,
            none => none.insert(Pin::make(&self.at)?),
        };
        let name = key.as_str();
        if !clones.contains_key(name) {
            let mounted = match pin.clone_of(name).map_err(io)? {
                Some(found) => found,
                None => pin.attach(name, mount_image(image).map_err(io)?).map_err(io)?,
            };
            clones.insert(name.to_owned(), mounted);
        }
        clones[name].try_clone().map_err(Error::io("mount", image))
    }

    /// Lets go of layers that are about to be discarded. Containers that still have one keep it.
    pub(crate) fn forget(&self, gone: impl Fn(&str) -> bool) {
        let mut state = self.state();
        let State { pin, clones } = &mut *state;
        clones.retain(|name, _| !gone(name));
        let Some(found) = pin else { return };
        let names = found.names().unwrap_or_default();
        let mut left = names.len();
        for name in names.into_iter().filter(|name| gone(name)) {
            match found.detach(&name) {
                Ok(()) => left -= 1,
                Err(errno) => {
                    tracing::warn!(layer = name, %errno, "cannot unmount a layer; its disk is freed at the next boot");
                }
            }
        }
        if left == 0 {
            match found.remove() {
                Ok(()) => *pin = None,
                Err(error) => tracing::warn!(%error, "cannot give up the namespace of layers"),
            }
        }
    }
}

/// Mounts an image, attached nowhere.
pub(super) fn mount_image(image: &Path) -> Result<OwnedFd, Errno> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", image)?;
    fsconfig_set_flag(context.as_fd(), "ro")?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
