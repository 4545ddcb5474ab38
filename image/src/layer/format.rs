//! The forms a layer is kept in, and which of them work here.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_string,
    fsmount, fsopen,
};

use super::mounts::mount_image;
use crate::erofs::{Attributes, DirectoryRecord, Writer};
use crate::error::Error;
use crate::trash::remove_path;

/// How a layer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerFormat {
    /// A directory with its files.
    Directory,
    /// One read-only EROFS image with all of them, mounted from the file.
    Erofs,
}

/// How layers are to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerFormatChoice {
    /// As EROFS images where they can be mounted, else as directories.
    Probe,
    /// In this format, or the store does not open.
    Fixed(LayerFormat),
}

impl LayerFormat {
    /// All there are.
    pub(crate) const ALL: [Self; 2] = [Self::Directory, Self::Erofs];

    /// Of the layout on disk; part of a layer's name.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Directory => 1,
            Self::Erofs => 2,
        }
    }
}

impl fmt::Display for LayerFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "directory",
            Self::Erofs => "erofs",
        })
    }
}

/// The format of new layers, and why it is that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFormatInUse {
    /// Of layers to be made.
    pub format: LayerFormat,
    /// Why.
    pub reason: LayerFormatReason,
}

/// Why layers have the format they have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerFormatReason {
    /// The configuration says so.
    #[error("as configured")]
    Configured,
    /// Images were tried, and work.
    #[error("images can be stacked here")]
    Stackable,
    /// Images were tried, and do not.
    #[error("images cannot be stacked here: {0}")]
    NotStackable(Errno),
    /// Images could not be mounted once for all containers.
    #[error("images cannot be mounted once for all: {0}")]
    NotShared(String),
    /// Containers have copies of their images.
    #[error("containers have copies of them")]
    Copied,
}

impl fmt::Display for LayerFormatInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.format, self.reason)
    }
}

/// The format asked for, or the best that works with uppers in `uppers`.
///
/// # Errors
/// [`Error::ImagesNotStackable`] when images are asked for and do not work here.
pub(crate) fn choose(
    choice: LayerFormatChoice,
    layers: &Path,
    uppers: &Path,
) -> Result<LayerFormatInUse, Error> {
    let (format, reason) = match choice {
        LayerFormatChoice::Fixed(LayerFormat::Directory) => {
            (LayerFormat::Directory, LayerFormatReason::Configured)
        }
        LayerFormatChoice::Fixed(LayerFormat::Erofs) => match images_work(layers, uppers)? {
            Ok(()) => (LayerFormat::Erofs, LayerFormatReason::Configured),
            Err(source) => return Err(Error::ImagesNotStackable { source }),
        },
        LayerFormatChoice::Probe => match images_work(layers, uppers)? {
            Ok(()) => (LayerFormat::Erofs, LayerFormatReason::Stackable),
            Err(errno) => (LayerFormat::Directory, LayerFormatReason::NotStackable(errno)),
        },
    };
    Ok(LayerFormatInUse { format, reason })
}

/// Makes an image, mounts it, and stacks an overlay on the mount by its descriptor (Linux 6.15). Nothing of it is attached anywhere.
fn images_work(layers: &Path, uppers: &Path) -> Result<Result<(), Errno>, Error> {
    let (image, upper) = (layers.join(".probe-image"), uppers.join(".probe-image"));
    for path in [&image, &upper] {
        remove_path(path).map_err(Error::io("remove", path))?;
    }
    for name in ["fs", "work"] {
        let path = upper.join(name);
        std::fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
    }
    let file = File::create_new(&image).map_err(Error::io("create", &image))?;
    let works = stack(file, &image, &upper);
    for path in [&image, &upper] {
        remove_path(path).map_err(Error::io("remove", path))?;
    }
    Ok(works)
}

fn stack(file: File, image: &Path, upper: &Path) -> Result<(), Errno> {
    let root = DirectoryRecord {
        attributes: Attributes {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Vec::new(),
        },
        parent: 0,
        entries: Vec::new(),
    };
    Writer::new(file).finish(&[root], &[])?;
    let lower = mount_image(image)?;
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_fd(context.as_fd(), "lowerdir+", lower.as_fd())?;
    fsconfig_set_string(context.as_fd(), "upperdir", upper.join("fs"))?;
    fsconfig_set_string(context.as_fd(), "workdir", upper.join("work"))?;
    fsconfig_create(context.as_fd())?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let overlay = fsmount(context.as_fd(), flags, MountAttrFlags::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    rustix::fs::openat(&overlay, "new", flags, Mode::RUSR).map(drop)
}
