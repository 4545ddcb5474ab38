//! Finding out by trying: what the file system below the store can do.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, mount,
};

use super::{SnapshotChoice, SnapshotMode};
use crate::error::Error;
use crate::trash::remove_path;
use crate::unpack::whiteout::Style;

const PROBE: &str = ".probe";
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// Of any kernel that containers run on.
const LARGEST_PAGE: u64 = 64 * 1024;

/// Whether whiteouts can be kept as overlayfs reads them.
pub(super) fn whiteout_style(layers: &Path) -> Result<Style, Error> {
    let probe = fresh(layers)?;
    let attempt = || -> Result<(), Errno> {
        let folder = open(&probe)?;
        fs::mknodat(&folder, "whiteout", FileType::CharacterDevice, Mode::empty(), 0)?;
        fs::fsetxattr(&folder, "trusted.overlay.opaque", b"y", XattrFlags::empty())
    };
    let style = match attempt() {
        Ok(()) => Style::Devices,
        Err(errno) => {
            tracing::info!(%errno, "the data directory cannot hold overlay whiteouts; they are kept beside the layers");
            Style::SideFile
        }
    };
    remove_path(&probe).map_err(Error::io("remove", &probe))?;
    Ok(style)
}

/// The mode asked for, or the best that works.
pub(super) fn mode(folder: &Path, layers: &Path, choice: SnapshotChoice) -> Result<SnapshotMode, Error> {
    if let SnapshotChoice::Fixed(mode) = choice {
        if let SnapshotMode::OverlayOnTmpfs { bytes } = mode {
            mount_tmpfs(folder, bytes)?;
        }
        return Ok(mode);
    }
    if let Some(bytes) = tmpfs_size(folder) {
        // A former life mounted it, and its containers write there.
        return Ok(SnapshotMode::OverlayOnTmpfs { bytes });
    }
    let Err(errno) = overlay_works(folder, layers) else {
        return Ok(SnapshotMode::Overlay);
    };
    tracing::info!(%errno, "the data directory cannot carry an overlay's upper; trying a tmpfs");
    let bytes = quarter_of_memory();
    if mount_tmpfs(folder, bytes).is_ok() {
        match overlay_works(folder, layers) {
            Ok(()) => return Ok(SnapshotMode::OverlayOnTmpfs { bytes }),
            Err(errno) => {
                tracing::info!(%errno, "overlays cannot be mounted; containers get copies of their image");
            }
        }
        rustix::mount::unmount(folder, rustix::mount::UnmountFlags::DETACH)
            .map_err(|errno| Error::io("unmount", folder)(errno.into()))?;
    }
    Ok(SnapshotMode::Copy)
}

/// Mounts an overlay, attached nowhere, and writes through it.
fn overlay_works(folder: &Path, layers: &Path) -> Result<(), Errno> {
    let io = |_: Error| Errno::IO;
    let (upper, lower) = (fresh(folder).map_err(io)?, fresh(layers).map_err(io)?);
    let attempt = || -> Result<(), Errno> {
        let (top, bottom) = (open(&upper)?, open(&lower)?);
        for name in ["fs", "work"] {
            fs::mkdirat(&top, name, Mode::RWXU)?;
        }
        fs::mkdirat(&bottom, "gone", Mode::RWXU)?;
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let set = |key: &str, path: &Path| fsconfig_set_string(context.as_fd(), key, path);
        set("lowerdir", &lower)?;
        set("upperdir", &upper.join("fs"))?;
        set("workdir", &upper.join("work"))?;
        fsconfig_create(context.as_fd())?;
        let mounted = fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?;
        // Deleting something of below needs a whiteout in the upper.
        fs::unlinkat(&mounted, "gone", fs::AtFlags::REMOVEDIR)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        fs::openat(&mounted, "new", flags, Mode::RUSR).map(drop)
    };
    let outcome = attempt();
    for path in [&upper, &lower] {
        remove_path(path).map_err(|_| Errno::IO)?;
    }
    outcome
}

fn fresh(folder: &Path) -> Result<std::path::PathBuf, Error> {
    let probe = folder.join(PROBE);
    remove_path(&probe).map_err(Error::io("remove", &probe))?;
    std::fs::create_dir(&probe).map_err(Error::io("create", &probe))?;
    Ok(probe)
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// The size of the tmpfs that is mounted there, if one is.
fn tmpfs_size(folder: &Path) -> Option<u64> {
    let parent = fs::stat(folder.parent()?).ok()?;
    let own = fs::stat(folder).ok()?;
    let disk = fs::statfs(folder).ok()?;
    let mounted = disk.f_type.cast_unsigned() == TMPFS_MAGIC && own.st_dev != parent.st_dev;
    mounted.then(|| disk.f_blocks * disk.f_bsize.cast_unsigned())
}

fn mount_tmpfs(folder: &Path, bytes: u64) -> Result<(), Error> {
    if tmpfs_size(folder).is_some() {
        return Ok(());
    }
    let options = std::ffi::CString::new(format!("size={bytes},mode=0700")).unwrap_or_default();
    mount("crisp-rw", folder, "tmpfs", MountFlags::NODEV, options.as_c_str())
        .map_err(|errno| Error::io("mount a tmpfs on", folder)(errno.into()))
}

/// In whole pages, of whichever size they are here: that is what the kernel answers later.
fn quarter_of_memory() -> u64 {
    let info = rustix::system::sysinfo();
    let quarter = info.totalram * u64::from(info.mem_unit) / 4;
    quarter - quarter % LARGEST_PAGE
}

/// Takes the tmpfs away again, if there is one and nothing is in it.
pub(super) fn unmount_empty_tmpfs(folder: &Path) -> Result<(), Error> {
    let io = |error| Error::io("look into", folder)(error);
    if tmpfs_size(folder).is_none() || std::fs::read_dir(folder).map_err(io)?.next().is_some() {
        return Ok(());
    }
    // Without MNT_DETACH: if somebody is in it after all, it stays.
    match rustix::mount::unmount(folder, rustix::mount::UnmountFlags::empty()) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(errno) => Err(Error::io("unmount", folder)(errno.into())),
    }
}
