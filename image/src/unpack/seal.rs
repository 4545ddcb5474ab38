//! The last steps of a layer, in the order of its chain: what depends on the layers below.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::inherit::{self, LayerView};
use super::metadata::{self, Attributes};
use super::root::stat_at;
use super::whiteout::{OPAQUE_XATTR, Style};
use super::{DiskUsage, EntryPath, UnpackError, Unsealed, copy_node, refused};

impl Unsealed {
    /// Whether the layers below matter for what is left to do.
    #[must_use]
    pub fn needs_layers_below(&self) -> bool {
        !self.implicit.is_empty() || !self.links.is_empty() || !self.whiteouts.is_empty()
    }

    /// Puts whiteouts into place, fills in what the archive left out from the layers `below`
    /// (top first), and sets the times of directories.
    ///
    /// # Errors
    /// A hard link to nothing, or the kernel's refusal.
    pub fn seal(
        mut self,
        style: Style,
        side_file: &Path,
        below: &mut [LayerView],
    ) -> Result<DiskUsage, UnpackError> {
        self.place_whiteouts(style, side_file, below)?;
        self.inherit_links(below)?;
        self.inherit_directories(below)?;
        for (path, mtime) in &self.times {
            // Not following: a directory may have been replaced by a later entry.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            match self.root.look_up(path, flags) {
                Ok(fd) => {
                    metadata::set_time(fd.as_fd(), *mtime).map_err(refused(path, "set the time"))?;
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(refused(path, "set the time")(errno)),
            }
        }
        Ok(self.usage)
    }

    fn place_whiteouts(
        &mut self,
        style: Style,
        side_file: &Path,
        below: &mut [LayerView],
    ) -> Result<(), UnpackError> {
        let root = &mut self.root;
        let kind = |path: &EntryPath| {
            let found = root.stat(path)?;
            Ok(found.map(|found| FileType::from_raw_mode(found.st_mode)))
        };
        let whiteouts = std::mem::take(&mut self.whiteouts).effective(kind, below)?;
        // Only directories of this layer can be opaque.
        for path in &whiteouts.opaque {
            self.make_parents(path)?;
        }
        match style {
            Style::SideFile if whiteouts.is_empty() => Ok(()),
            Style::SideFile => whiteouts.write(side_file).map_err(UnpackError::Recipe),
            Style::Devices => {
                for path in &whiteouts.gone {
                    self.whiteout_device(path)?;
                }
                for path in &whiteouts.opaque {
                    let fd = self
                        .root
                        .directory(path)
                        .map_err(refused(path, "open the opaque directory"))?;
                    fs::fsetxattr(&fd, OPAQUE_XATTR, b"y", XattrFlags::empty())
                        .map_err(refused(path, "mark as opaque"))?;
                }
                Ok(())
            }
        }
    }

    fn whiteout_device(&mut self, path: &EntryPath) -> Result<(), UnpackError> {
        let Some((parent, name)) = path.split() else {
            return Ok(());
        };
        self.make_parents(&parent)?;
        let parent = self
            .root
            .directory(&parent)
            .map_err(refused(path, "open the parent directory"))?;
        match stat_at(parent.as_fd(), name).map_err(refused(path, "look up"))? {
            Some(_) => Ok(()),
            None => {
                self.usage.inodes += 1;
                fs::mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(refused(path, "make the whiteout"))
            }
        }
    }

    fn make_parents(&mut self, path: &EntryPath) -> Result<(), UnpackError> {
        let mut here = EntryPath::root();
        let mut fd = self
            .root
            .directory(&here)
            .map_err(refused(path, "open the root"))?;
        for name in path.components() {
            let below = here.join(name);
            fd = match self.root.directory(&below) {
                Err(Errno::NOENT) => {
                    fs::mkdirat(&fd, name, Mode::from_raw_mode(0o755))
                        .map_err(refused(&below, "make the parent directory"))?;
                    self.usage.inodes += 1;
                    self.usage.bytes += 4096;
                    self.implicit.insert(below.clone());
                    self.root.directory(&below)
                }
                other => other,
            }
            .map_err(refused(&below, "open the parent directory"))?;
            here = below;
        }
        Ok(())
    }

    fn inherit_links(&mut self, below: &mut [LayerView]) -> Result<(), UnpackError> {
        for (path, target) in std::mem::take(&mut self.links) {
            let step = |step| refused(&path, step);
            // An earlier link of the same archive may have brought it here.
            let found = match self.root.stat(&target).map_err(step("look up the target"))? {
                Some(stat) => Some((None, stat)),
                None => inherit::find(below, &target)
                    .map_err(step("look up the target"))?
                    .map(|(index, stat)| (Some(index), stat)),
            };
            let (Some((index, stat)), Some((parent, name))) = (found, path.split()) else {
                return Err(UnpackError::LinkTarget { path, target });
            };
            let Some((target_parent, target_name)) = target.split() else {
                return Err(UnpackError::LinkTarget { path, target });
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                return Err(UnpackError::LinkTarget { path, target });
            }
            let to = self
                .root
                .directory(&parent)
                .map_err(step("open the parent directory"))?;
            let from = match index {
                None => self.root.directory(&target_parent),
                Some(index) => below[index].root().directory(&target_parent),
            };
            let from = from.map_err(step("open the target's directory"))?;
            match index {
                None => {
                    fs::linkat(&from, target_name, &to, name, fs::AtFlags::empty()).map_err(step("link"))?;
                }
                Some(_) => {
                    copy_node(from.as_fd(), target_name, &stat, to.as_fd(), name)
                        .map_err(step("copy the target"))?;
                    self.usage.inodes += 1;
                    self.usage.bytes += stat.st_size.cast_unsigned().next_multiple_of(4096);
                }
            }
        }
        Ok(())
    }

    fn inherit_directories(&mut self, below: &mut [LayerView]) -> Result<(), UnpackError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        for path in std::mem::take(&mut self.implicit) {
            let step = |step| refused(&path, step);
            let own = match self.root.look_up(&path, flags) {
                Ok(fd) => fd,
                // Replaced by a later entry.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(step("open the directory")(errno)),
            };
            let found = inherit::find(below, &path).map_err(step("look below"))?;
            let inherited = match found {
                Some((index, stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    let fd = below[index]
                        .root()
                        .look_up(&path, flags)
                        .map(Arc::new)
                        .map_err(step("look below"))?;
                    Some((fd, stat))
                }
                _ => None,
            };
            match inherited {
                Some((fd, stat)) => {
                    metadata::copy_metadata(fd.as_fd(), own.as_fd()).map_err(step("take over attributes"))?;
                    let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
                    self.times.push((path.clone(), (stat.st_mtime, nanos)));
                }
                // Nobody described it anywhere: the same on every machine.
                None => {
                    metadata::apply(own.as_fd(), &Attributes::plain_directory())
                        .map_err(step("set attributes"))?;
                    self.times.push((path.clone(), (0, 0)));
                }
            }
        }
        Ok(())
    }
}
