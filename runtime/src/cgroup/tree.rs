//! Directories of cgroups: making and removing them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::hierarchy::Hierarchy;
use super::limits::Setting;
use super::{CgroupError, try_write, write_file};

/// How long a removal waits for processes on their way out.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(2);
/// The controllers of v2 that a container's limits use.
const V2_CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];
/// Deeper trees than this below a container's cgroup are not removed by us.
const DEPTH_MAX: u32 = 64;

/// Directories that were made, in that order.
#[derive(Debug, Default)]
pub(super) struct Made(Vec<PathBuf>);

impl Made {
    /// Removes them again. What cannot be removed has processes in it, so somebody else uses it by now.
    pub(super) fn undo(self) {
        for path in self.0.iter().rev() {
            let _ = rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR);
        }
    }
}

/// Makes the cgroup at `path` in a hierarchy, with all its parents. On v2 it has the usual controllers and those that
/// `settings` write to (`misc.max`, say).
pub(super) fn create(
    hierarchy: &Hierarchy,
    path: &Path,
    settings: &[Setting],
    made: &mut Made,
) -> Result<(), CgroupError> {
    let leaf = hierarchy.mount.join(path);
    let (created, needs_parents) = match make(&leaf, made) {
        Ok(created) => (created, !created && !leaf.is_dir()),
        Err(Errno::NOENT) => (false, true),
        Err(errno) => {
            return Err(CgroupError::Create {
                path: leaf,
                source: errno.into(),
            });
        }
    };
    if needs_parents {
        let mut current = hierarchy.mount.clone();
        for component in path {
            current.push(component);
            let created = make(&current, made).map_err(|errno| CgroupError::Create {
                path: current.clone(),
                source: errno.into(),
            })?;
            if hierarchy.has("cpuset") {
                inherit_cpuset(&current, created)?;
            }
        }
    } else if hierarchy.has("cpuset") {
        inherit_cpuset(&leaf, created)?;
    }
    if hierarchy.is_v2() {
        enable_controllers(hierarchy, path, settings);
    }
    Ok(())
}

/// Returns whether the directory is new.
fn make(path: &Path, made: &mut Made) -> Result<bool, Errno> {
    match rustix::fs::mkdir(path, Mode::from(0o755)) {
        Ok(()) => {
            made.0.push(path.to_path_buf());
            Ok(true)
        }
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// A new v1 cpuset has no CPU and no memory node, and takes no process until it has; an old one may be somebody's choice.
fn inherit_cpuset(path: &Path, is_new: bool) -> Result<(), CgroupError> {
    let parent = path.parent().unwrap_or(path);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if is_new || read(&path.join(file))?.is_empty() {
            write_file(&path.join(file), &read(&parent.join(file))?)?;
        }
    }
    Ok(())
}

/// In v2 a controller works in a cgroup if all its ancestors pass it on. One that cannot be passed on is missed by
/// the limit that needs it, which then fails with the name of its file.
pub(super) fn enable_controllers(hierarchy: &Hierarchy, path: &Path, settings: &[Setting]) {
    let available = read(&hierarchy.mount.join("cgroup.controllers")).unwrap_or_default();
    let written = settings
        .iter()
        .filter_map(|setting| setting.file().split('.').next());
    let further = written.filter(|name| !V2_CONTROLLERS.contains(name));
    let wanted: Vec<&str> = V2_CONTROLLERS
        .into_iter()
        .chain(further)
        .filter(|name| available.split(' ').any(|other| other == *name))
        .collect();
    let mut current = hierarchy.mount.clone();
    let parents = path.components().count();
    for component in path.components().take(parents) {
        let enabled = read(&current.join("cgroup.subtree_control")).unwrap_or_default();
        for name in wanted
            .iter()
            .filter(|name| !enabled.split(' ').any(|other| other == **name))
        {
            let _ = try_write(&current.join("cgroup.subtree_control"), &format!("+{name}"));
        }
        current.push(component);
    }
}

pub(super) fn read(path: &Path) -> Result<String, CgroupError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(source) => Err(CgroupError::Read {
            path: path.into(),
            source,
        }),
    }
}

/// Removes a cgroup and those that the container made below it.
pub(super) fn remove(path: &Path) -> Result<(), CgroupError> {
    patiently(path, || try_remove(path, DEPTH_MAX))
}

/// Waits until no process is in a cgroup of the v2 hierarchy, nor below it.
pub(super) fn await_vacancy(path: &Path) -> Result<(), CgroupError> {
    patiently(path, || {
        match std::fs::read_to_string(path.join("cgroup.events")) {
            Ok(events) if events.lines().any(|line| line == "populated 0") => Ok(()),
            Ok(_) => Err(Errno::BUSY),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    })
}

/// Repeats what fails because processes are on their way out, for at most [`REMOVAL_PATIENCE`]. A cgroup that is gone
/// has none.
fn patiently(path: &Path, mut attempt: impl FnMut() -> Result<(), Errno>) -> Result<(), CgroupError> {
    let deadline = Instant::now() + REMOVAL_PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        let errno = match attempt() {
            // The second is of a file in a directory that is removed while it is read.
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
            Err(errno) => errno,
        };
        if errno != Errno::BUSY || Instant::now() >= deadline {
            return Err(CgroupError::Remove {
                path: path.into(),
                source: errno.into(),
            });
        }
        // v1 has no event for the exit of the last process, and a dying one is counted until it is gone.
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

fn try_remove(path: &Path, depth: u32) -> Result<(), Errno> {
    match rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Err(Errno::BUSY) if depth > 0 => {}
        other => return other,
    }
    for child in children(path)? {
        match try_remove(&child, depth - 1) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)
}

/// The cgroups right below one.
pub(super) fn children(path: &Path) -> Result<Vec<PathBuf>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if entry.file_type() == rustix::fs::FileType::Directory && name != b"." && name != b".." {
            use std::os::unix::ffi::OsStrExt;
            found.push(path.join(std::ffi::OsStr::from_bytes(name)));
        }
    }
    Ok(found)
}
