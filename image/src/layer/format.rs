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
    /// In this format, come what may.
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

/// The format asked for, or the best that works with uppers in `uppers`.
pub(crate) fn choose(choice: LayerFormatChoice, layers: &Path, uppers: &Path) -> Result<LayerFormat, Error> {
    match choice {
        LayerFormatChoice::Fixed(format) => Ok(format),
        LayerFormatChoice::Probe => match images_work(layers, uppers)? {
            Ok(()) => Ok(LayerFormat::Erofs),
            Err(errno) => {
                tracing::info!(%errno, "EROFS images cannot be stacked here; layers are kept as directories");
                Ok(LayerFormat::Directory)
            }
        },
    }
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
