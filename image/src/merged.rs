//! Reading a file of an image as overlayfs would show it, without mounting anything.
//!
//! ```text
//!   top    etc/passwd ✗ (whiteout)      ┐  the first layer that says something of a name decides:
//!          etc/       (opaque)          ├─ a file is found, a whiteout hides what is below,
//!   bottom etc/passwd                   ┘  an opaque directory hides what is below it
//! ```
//!
//! Names come from an attacker: each component is opened beneath its layer without following links;
//! links are followed here, by text, never leaving the root; only regular files are read, and only up to
//! a bound.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat, open, readlinkat};
use rustix::io::Errno;

use crate::error::Error;
use crate::image::ImageId;
use crate::store::{Store, blocking};
use crate::unpack::EntryPath;
use crate::unpack::inherit::{self, LayerView};

/// As many links as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

impl Store {
    /// Reads a regular file of an image, of at most `limit` bytes; `None` when it has none of that name.
    ///
    /// # Errors
    /// No such image; [`Error::Io`] for what is no file of bearable size.
    pub async fn read_file(
        &self,
        image: &ImageId,
        path: &str,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, Error> {
        let (inner, image, path) = (self.inner.clone(), image.clone(), PathBuf::from(path));
        blocking("read a file of an image", move || {
            let chain =
                inner.with_catalog(|catalog| catalog.images.get(image.digest()).map(|i| i.chain.clone()));
            let chain = chain.ok_or_else(|| Error::NoSuchImage {
                name: image.to_string(),
            })?;
            let found = chain
                .iter()
                .rev()
                .filter_map(|chain| Some(inner.layers.find(chain)?.0));
            let mut layers = inner.layers.views(found)?;
            read_file(&mut layers, &path, limit).map_err(Error::io("read in the image", &path))
        })
        .await
    }
}

impl Store {
    /// Whether an image has something at a path, following links within it.
    ///
    /// # Errors
    /// No such image, or the file system's refusal.
    pub async fn has_path(&self, image: &ImageId, path: &str) -> Result<bool, Error> {
        let (inner, image, path) = (self.inner.clone(), image.clone(), PathBuf::from(path));
        blocking("look into an image", move || {
            let chain =
                inner.with_catalog(|catalog| catalog.images.get(image.digest()).map(|i| i.chain.clone()));
            let chain = chain.ok_or_else(|| Error::NoSuchImage {
                name: image.to_string(),
            })?;
            let stack = chain
                .iter()
                .rev()
                .filter_map(|chain| Some(inner.layers.find(chain)?.0));
            let mut layers = inner.layers.views(stack)?;
            let found = resolve(&mut layers, &path)
                .map_err(|errno| Error::io("look in the image", &path)(errno.into()))?;
            Ok(found.is_some())
        })
        .await
    }
}

/// Reads a regular file; `None` when there is none of that name.
///
/// `layers` are given top first.
///
/// # Errors
/// `ELOOP` for too many links, `EFBIG` for a file of more than `limit` bytes, `EINVAL` for what is no
/// regular file, and the system's refusals.
fn read_file(layers: &mut [LayerView], path: &Path, limit: usize) -> std::io::Result<Option<Vec<u8>>> {
    let Some((fd, stat)) = resolve(layers, path)? else {
        return Ok(None);
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL.into());
    }
    // An O_PATH descriptor is opened anew for reading; it is a regular file, so this cannot block.
    let file = open(
        proc_path(&fd),
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )?;
    let mut content = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX);
    File::from(file)
        .take(bound.saturating_add(1))
        .read_to_end(&mut content)?;
    if content.len() > limit {
        Err(Errno::FBIG.into())
    } else {
        Ok(Some(content))
    }
}

fn proc_path(fd: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn resolve(layers: &mut [LayerView], path: &Path) -> rustix::io::Result<Option<(OwnedFd, Stat)>> {
    let mut pending: VecDeque<OsString> = names(path);
    let mut done: Vec<OsString> = Vec::new();
    let mut links = 0;
    let mut last = None;
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            done.pop();
            continue;
        }
        done.push(name);
        // Each name was found to be no link before the next is looked up below it.
        let here = done.iter().fold(EntryPath::root(), |path, name| path.join(name));
        let Some((index, stat)) = inherit::find(layers, &here)? else {
            return Ok(None);
        };
        let fd = layers[index]
            .root()
            .look_up(&here, OFlags::PATH | OFlags::NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            last = Some((fd, stat));
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        let target = readlinkat(&fd, "", Vec::new())?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        done.pop();
        if target.is_absolute() {
            done.clear();
        }
        for name in names(&target).into_iter().rev() {
            pending.push_front(name);
        }
    }
    Ok(last)
}

/// The names of a path; `..` stays, to be applied where it stands, and never leads above the root.
fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, XattrFlags, mknodat, setxattr};

    use super::*;
    use crate::unpack::whiteout::Whiteouts;

    struct Layers {
        _directory: tempfile::TempDir,
        paths: Vec<PathBuf>,
    }

    fn layers(count: usize) -> Layers {
        let directory = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..count).map(|i| directory.path().join(i.to_string())).collect();
        for path in &paths {
            fs::create_dir_all(path.join("etc")).unwrap();
        }
        Layers {
            _directory: directory,
            paths,
        }
    }

    fn read(layers: &Layers, path: &str) -> std::io::Result<Option<Vec<u8>>> {
        let view = |path: &PathBuf| LayerView::open(path, &path.with_extension("whiteouts")).unwrap();
        let mut views: Vec<LayerView> = layers.paths.iter().map(view).collect();
        read_file(&mut views, Path::new(path), 16)
    }

    #[test]
    fn the_topmost_layer_decides() {
        let layers = layers(3);
        fs::write(layers.paths[2].join("etc/passwd"), "bottom").unwrap();
        assert_eq!(read(&layers, "/etc/passwd").unwrap().unwrap(), b"bottom");
        fs::write(layers.paths[1].join("etc/passwd"), "middle").unwrap();
        assert_eq!(read(&layers, "/etc/passwd").unwrap().unwrap(), b"middle");
        let whiteout = layers.paths[0].join("etc/passwd");
        mknodat(CWD, &whiteout, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        assert_eq!(read(&layers, "/etc/passwd").unwrap(), None);
        fs::remove_file(&whiteout).unwrap();
        setxattr(
            layers.paths[0].join("etc"),
            "trusted.overlay.opaque",
            b"y",
            XattrFlags::empty(),
        )
        .unwrap();
        assert_eq!(read(&layers, "/etc/passwd").unwrap(), None);
        let mut beside = Whiteouts::default();
        beside.gone.insert(EntryPath::parse(b"etc/passwd").unwrap());
        beside
            .write(&layers.paths[1].with_extension("whiteouts"))
            .unwrap();
        fs::remove_file(layers.paths[1].join("etc/passwd")).unwrap();
        let lower = Layers {
            paths: layers.paths[1..].to_vec(),
            _directory: layers._directory,
        };
        assert_eq!(read(&lower, "/etc/passwd").unwrap(), None);
    }

    #[test]
    fn a_whiteout_of_a_directory_hides_its_files() {
        let layers = layers(2);
        fs::write(layers.paths[1].join("etc/group"), "x").unwrap();
        fs::remove_dir(layers.paths[0].join("etc")).unwrap();
        mknodat(
            CWD,
            layers.paths[0].join("etc"),
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .unwrap();
        assert_eq!(read(&layers, "/etc/group").unwrap(), None);
    }

    #[test]
    fn links_stay_inside_across_layers() {
        let layers = layers(2);
        fs::create_dir(layers.paths[1].join("real")).unwrap();
        fs::write(layers.paths[1].join("real/users"), "inside").unwrap();
        symlink("../../../../real/users", layers.paths[0].join("etc/passwd")).unwrap();
        assert_eq!(read(&layers, "/etc/passwd").unwrap().unwrap(), b"inside");
        symlink("/etc/loop", layers.paths[0].join("etc/loop")).unwrap();
        assert!(read(&layers, "/etc/loop").is_err());
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let layers = layers(1);
        fs::write(layers.paths[0].join("etc/big"), [b'x'; 17]).unwrap();
        assert!(read(&layers, "/etc/big").is_err());
        mknodat(
            CWD,
            layers.paths[0].join("etc/fifo"),
            FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        assert!(read(&layers, "/etc/fifo").is_err(), "must not hang either");
        fs::File::create(layers.paths[0].join("etc/sparse"))
            .unwrap()
            .set_len(4 << 30)
            .unwrap();
        assert!(read(&layers, "/etc/sparse").is_err());
        assert_eq!(read(&layers, "/etc/none").unwrap(), None);
    }
}
