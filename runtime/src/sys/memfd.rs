//! Anonymous files that cannot change any more (memfd_create(2), sealed).

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;

/// Seals after which neither bytes nor length nor seals can change.
const FROZEN: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// How often sealing is tried.
const SEALINGS: usize = 10;

/// A sealed memfd with `bytes`.
pub(crate) fn sealed(name: &CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = create(name, MemfdFlags::NOEXEC_SEAL)?;
    file.write_all(bytes)?;
    seal(&file)?;
    Ok(file.into())
}

/// A sealed, executable memfd with all that `source` has.
///
/// # Errors
/// `PermissionDenied` where `vm.memfd_noexec` is 2.
pub(crate) fn executable(name: &CStr, source: &mut File) -> io::Result<OwnedFd> {
    let mut file = create(name, MemfdFlags::EXEC)?;
    io::copy(source, &mut file)?;
    seal(&file)?;
    Ok(file.into())
}

/// An open, unsealed memfd: a file for tests that leaves nothing behind.
#[cfg(test)]
pub(crate) fn scratch(name: &CStr) -> io::Result<File> {
    create(name, MemfdFlags::NOEXEC_SEAL)
}

/// All bytes of a memfd that is sealed (so they cannot change under the reader) and at most `limit` long.
pub(crate) fn read(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let seals = fcntl_get_seals(file).map_err(|_| invalid())?;
    let length = file.metadata()?.len();
    if !seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE) || length > limit {
        return Err(invalid());
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| invalid())?];
    // By position: the offset is shared with every other holder of the descriptor.
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn create(name: &CStr, kind: MemfdFlags) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match memfd_create(name, flags | kind) {
        // Before 6.3 neither EXEC nor NOEXEC_SEAL exists, and every memfd can be executed.
        Err(Errno::INVAL) => memfd_create(name, flags)?,
        other => other?,
    };
    Ok(File::from(fd))
}

/// The kernel refuses as long as somebody else holds a page, be it for a moment: whoever moves memory about does, and may be
/// held up himself on a busy machine. It waits for 150 ms each time.
fn seal(file: impl AsFd) -> io::Result<()> {
    let mut answer = Err(Errno::BUSY);
    for _ in 0..SEALINGS {
        answer = fcntl_add_seals(&file, FROZEN);
        if answer != Err(Errno::BUSY) {
            break;
        }
    }
    Ok(answer?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn two_mebibytes_survive_and_cannot_be_changed() {
        let bytes: Vec<u8> = (0..2 << 20).map(|i: u32| (i % 251) as u8).collect();
        let file = File::from(sealed(c"test", &bytes).unwrap());
        assert_eq!(read(&file, 4 << 20).unwrap(), bytes);
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.set_len(1).is_err());
    }

    #[test]
    fn what_is_unsealed_or_too_long_is_refused() {
        let mut open = scratch(c"test").unwrap();
        open.write_all(b"abc").unwrap();
        assert_eq!(read(&open, 10).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let long = File::from(sealed(c"test", &[0; 11]).unwrap());
        assert_eq!(read(&long, 10).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn an_executable_memfd_carries_the_whole_file() {
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(b"#!/bin/true\n").unwrap();
        io::Seek::rewind(&mut source).unwrap();
        let mut copy = File::from(executable(c"test", &mut source).unwrap());
        let mut text = String::new();
        io::Seek::rewind(&mut copy).unwrap();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "#!/bin/true\n");
    }
}
