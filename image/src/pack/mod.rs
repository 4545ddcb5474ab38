//! What a container changed, as the tar of a layer.
//!
//! | in the writable directory | in the archive |
//! |---|---|
//! | a character device 0:0 | `.wh.name` |
//! | `trusted.overlay.opaque=y` on a directory | `.wh..wh..opq` in it |
//! | a second name of an inode | a hard link to the first |
//! | a socket | nothing: it means nothing without its process |
//!
//! Everything is opened beneath its parent, and no link is followed: the container may still run.
//! What changes meanwhile is taken as it is found.

mod entry;

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use self::entry::{Attributes, Kind, Xattr};
use crate::unpack::read_xattrs;

/// Of this node, and of no meaning in an image.
const LOCAL_XATTRS: [&[u8]; 2] = [b"security.selinux", b"system."];
const OPAQUE: &str = "trusted.overlay.opaque";
/// What moves or thins files in a way that an archive cannot say; overlays here are mounted without.
const FOREIGN: [&str; 2] = ["trusted.overlay.redirect", "trusted.overlay.metacopy"];

/// Writes the archive of the directory `upper`. The `hidden` paths (mount points, relative to the root)
/// are left out where they are empty: the container only mounted something there.
pub(crate) fn pack(upper: &Path, hidden: &BTreeSet<PathBuf>, output: &mut impl Write) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = fs::open(upper, flags, Mode::empty())?;
    let mut packer = Packer {
        output,
        hidden,
        names: HashMap::new(),
    };
    packer.directory(root.as_fd(), b"")?;
    entry::end(packer.output)
}

struct Packer<'a, W> {
    output: &'a mut W,
    hidden: &'a BTreeSet<PathBuf>,
    /// The first name of each inode that has several.
    names: HashMap<u64, Vec<u8>>,
}

impl<W: Write> Packer<'_, W> {
    /// The directory itself (`""` is the root), and what is in it in the order of names.
    fn directory(&mut self, directory: BorrowedFd<'_>, path: &[u8]) -> io::Result<()> {
        let stat = fs::fstat(directory)?;
        let xattrs = portable_xattrs(directory, path)?;
        let opaque = value_of(directory, OPAQUE)?.is_some_and(|value| value == b"y");
        let shown = if path.is_empty() {
            b"./".to_vec()
        } else {
            [path, b"/"].concat()
        };
        entry::header(self.output, &shown, &attributes(&stat, xattrs), &Kind::Directory)?;
        if opaque {
            self.marker(path, b".wh..wh..opq", &stat)?;
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(directory)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            match self.entry(directory, path, &name) {
                // The container deleted it since the directory was read.
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, parent: BorrowedFd<'_>, above: &[u8], name: &[u8]) -> io::Result<()> {
        let at = OsStr::from_bytes(name);
        let stat = fs::statat(parent, at, AtFlags::SYMLINK_NOFOLLOW)?;
        let path = join(above, name);
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = fs::openat(parent, at, flags, Mode::empty())?;
            if self.is_hidden(&path) && Dir::read_from(&directory)?.count() <= 2 {
                return Ok(());
            }
            return self.directory(directory.as_fd(), &path);
        }
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            return self.marker(above, &[b".wh.", name].concat(), &stat);
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.names.get(&stat.st_ino) {
                let link = Kind::HardLink(first);
                return entry::header(self.output, &path, &attributes(&stat, Vec::new()), &link);
            }
            self.names.insert(stat.st_ino, path.clone());
        }
        let device = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
        match kind {
            FileType::RegularFile => self.file(parent, at, &path),
            FileType::Symlink => {
                let target = fs::readlinkat(parent, at, Vec::new())?.into_bytes();
                self.plain(&path, &stat, &Kind::Symlink(&target))
            }
            FileType::CharacterDevice => {
                let (major, minor) = device;
                self.plain(&path, &stat, &Kind::CharacterDevice { major, minor })
            }
            FileType::BlockDevice => {
                let (major, minor) = device;
                self.plain(&path, &stat, &Kind::BlockDevice { major, minor })
            }
            FileType::Fifo => self.plain(&path, &stat, &Kind::Fifo),
            _ => Ok(()),
        }
    }

    fn plain(&mut self, path: &[u8], stat: &Stat, kind: &Kind<'_>) -> io::Result<()> {
        entry::header(self.output, path, &attributes(stat, Vec::new()), kind)
    }

    fn marker(&mut self, above: &[u8], name: &[u8], like: &Stat) -> io::Result<()> {
        let mut attributes = attributes(like, Vec::new());
        attributes.mode = 0o600;
        entry::header(self.output, &join(above, name), &attributes, &Kind::File(0))
    }

    fn file(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &[u8]) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(fs::openat(parent, name, flags, Mode::empty())?);
        let stat = fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            // Exchanged a moment ago; the next commit will see it.
            return Ok(());
        }
        let size = stat.st_size.cast_unsigned();
        if size == 0 && self.is_hidden(path) {
            return Ok(());
        }
        let xattrs = portable_xattrs(file.as_fd(), path)?;
        entry::header(self.output, path, &attributes(&stat, xattrs), &Kind::File(size))?;
        // As many bytes as the header says, whatever a writer does meanwhile.
        let copied = io::copy(&mut (&file).take(size), self.output)?;
        io::copy(&mut io::repeat(0).take(size - copied), self.output)?;
        entry::pad(self.output, size)
    }

    fn is_hidden(&self, path: &[u8]) -> bool {
        self.hidden.contains(Path::new(OsStr::from_bytes(path)))
    }
}

fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    if above.is_empty() {
        name.to_vec()
    } else {
        [above, b"/", name].concat()
    }
}

fn attributes(stat: &Stat, xattrs: Vec<Xattr>) -> Attributes {
    Attributes {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        xattrs,
    }
}

/// What an archive can carry, of a file that is really where it is.
fn portable_xattrs(fd: BorrowedFd<'_>, path: &[u8]) -> io::Result<Vec<Xattr>> {
    for name in FOREIGN {
        if value_of(fd, name)?.is_some() {
            let path = String::from_utf8_lossy(path);
            return Err(io::Error::other(format!(
                "{path:?} was moved by overlayfs, not copied"
            )));
        }
    }
    let mut xattrs = read_xattrs(fd)?;
    xattrs.retain(|(name, _)| !LOCAL_XATTRS.iter().any(|local| name.starts_with(local)));
    Ok(xattrs)
}

fn value_of(fd: BorrowedFd<'_>, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 4096];
    match fs::fgetxattr(fd, name, &mut value[..]) {
        Ok(size) => {
            value.truncate(size);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::{CWD, XattrFlags, mknodat, setxattr};

    use super::*;

    fn archive(upper: &Path, hidden: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        pack(upper, &hidden.iter().map(PathBuf::from).collect(), &mut bytes).unwrap();
        bytes
    }

    /// What GNU tar makes of it, name by name.
    fn listed(bytes: &[u8]) -> Vec<String> {
        let mut reader = tar::Archive::new(bytes);
        let entries = reader.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let link = entry
                .link_name_bytes()
                .map(|link| String::from_utf8_lossy(&link).into_owned());
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let link = link.filter(|link| !link.is_empty());
            match link {
                Some(link) => format!("{path} -> {link}"),
                None => path,
            }
        });
        entries.collect()
    }

    #[test]
    fn whiteouts_links_and_mount_points() {
        let folder = tempfile::tempdir().unwrap();
        let upper = folder.path();
        std::fs::create_dir_all(upper.join("etc")).unwrap();
        std::fs::create_dir(upper.join("opaque")).unwrap();
        std::fs::create_dir(upper.join("mnt")).unwrap();
        std::fs::write(upper.join("etc/hosts"), "").unwrap();
        std::fs::write(upper.join("etc/new"), "new").unwrap();
        std::fs::hard_link(upper.join("etc/new"), upper.join("etc/same")).unwrap();
        symlink("/etc/new", upper.join("etc/zlink")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();
        mknodat(
            CWD,
            upper.join("etc/gone"),
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .unwrap();
        let empty = XattrFlags::empty();
        setxattr(upper.join("opaque"), "trusted.overlay.opaque", b"y", empty).unwrap();
        setxattr(upper.join("etc"), "trusted.overlay.origin", b"x", empty).unwrap();
        let bytes = archive(upper, &["etc/hosts", "mnt", "etc"]);
        assert_eq!(
            listed(&bytes),
            [
                "./",
                "etc/",
                "etc/.wh.gone",
                "etc/new",
                "etc/same -> etc/new",
                "etc/zlink -> /etc/new",
                "opaque/",
                "opaque/.wh..wh..opq"
            ]
        );
        assert!(!bytes.windows(7).any(|part| part == b"overlay"));
        // What holds something is no mere mount point.
        std::fs::write(upper.join("etc/hosts"), "1").unwrap();
        assert!(listed(&archive(upper, &["etc/hosts"])).contains(&"etc/hosts".to_owned()));
    }

    #[test]
    fn what_a_header_cannot_hold_goes_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
        let file = folder.path().join(&long);
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "content").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4711)).unwrap();
        symlink("t".repeat(150), folder.path().join("link")).unwrap();
        rustix::fs::chownat(
            CWD,
            &file,
            Some(rustix::fs::Uid::from_raw(3_000_000)),
            Some(rustix::fs::Gid::from_raw(7)),
            AtFlags::empty(),
        )
        .unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4711)).unwrap();
        setxattr(&file, "user.note", b"a=b\0c", XattrFlags::empty()).unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH - std::time::Duration::from_millis(1500);
        File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(time)
            .unwrap();
        let bytes = archive(folder.path(), &[]);
        assert_eq!(bytes.len() % BLOCK_SIZE, 0);
        let mut reader = tar::Archive::new(&bytes[..]);
        let mut found = false;
        for entry in reader.entries().unwrap() {
            let mut entry = entry.unwrap();
            if *entry.path_bytes() != *long.as_bytes() {
                continue;
            }
            found = true;
            assert_eq!(entry.header().mode().unwrap(), 0o4711);
            let records: Vec<(String, Vec<u8>)> = entry
                .pax_extensions()
                .unwrap()
                .unwrap()
                .map(|record| record.unwrap())
                .map(|record| (record.key().unwrap().to_owned(), record.value_bytes().to_vec()))
                .collect();
            let value = |key: &str| {
                records
                    .iter()
                    .find(|(name, _)| name == key)
                    .map(|(_, value)| &value[..])
            };
            assert_eq!(value("uid"), Some(&b"3000000"[..]));
            assert_eq!(value("mtime"), Some(&b"-1.500000000"[..]));
            assert_eq!(value("SCHILY.xattr.user.note"), Some(&b"a=b\0c"[..]));
            assert!(records.iter().any(|(key, _)| key == "path"));
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            assert_eq!(content, "content");
        }
        assert!(found, "{:?}", listed(&bytes));
    }

    const BLOCK_SIZE: usize = 512;
}
