//! Starting a program without a copy of this process's memory (posix_spawn(3): `CLONE_VM | CLONE_VFORK`).
//!
//! A daemon of 100 MB takes 3 ms to fork. `std::process::Command` would spawn the same way, but looks for it among
//! the weak symbols of a shared libc; in a static program it finds none and forks.

use std::ffi::{CString, OsStr, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

/// Runs the program at `path` with `arguments` and no environment, `stdio` as its descriptors 0 to 2, in a session of
/// its own, every signal default and unblocked. Returns its pid; it is a child to be reaped.
///
/// # Errors
/// What posix_spawn(3) answers, which includes the answer of execve(2); `InvalidInput` for an argument with a NUL in it.
pub(crate) fn spawn(path: &OsStr, arguments: &[&OsStr], stdio: [BorrowedFd<'_>; 3]) -> io::Result<i32> {
    // A source among 0 to 2 could be overwritten before its turn.
    let high = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    let [stdin, stdout, stderr] = stdio;
    let stdio = [high(stdin)?, high(stdout)?, high(stderr)?];
    let actions = FileActions::new(&stdio)?;
    let attributes = Attributes::new()?;
    let text = |text: &&OsStr| CString::new(text.as_bytes());
    let path = text(&path)?;
    let arguments = arguments.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let argv: Vec<_> = arguments
        .iter()
        .map(|text| text.as_ptr())
        .chain([ptr::null()])
        .collect();
    let environment = [ptr::null::<c_char>()];
    let mut pid = 0;
    // SAFETY: the path and the arguments are C strings that outlive the call, both arrays end with a null pointer and are
    // only read (the mutable pointers are C's lack of a word for it), actions and attributes are initialised.
    check(unsafe {
        libc::posix_spawn(
            &raw mut pid,
            path.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            argv.as_ptr().cast(),
            environment.as_ptr().cast(),
        )
    })?;
    Ok(pid)
}

/// Puts descriptors in the places 0 to 2 of the child.
struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new(stdio: &[OwnedFd; 3]) -> io::Result<FileActions> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: init writes a valid object there, or says that it did not.
        check(unsafe { libc::posix_spawn_file_actions_init(raw.as_mut_ptr()) })?;
        // SAFETY: initialised by the call above.
        let mut actions = FileActions(unsafe { raw.assume_init() });
        for (place, fd) in (0..).zip(stdio) {
            // SAFETY: the object is initialised; the descriptors stay open until the spawn, where they are used.
            check(unsafe {
                libc::posix_spawn_file_actions_adddup2(&raw mut actions.0, fd.as_raw_fd(), place)
            })?;
        }
        Ok(actions)
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`, and destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// Session and signals of the child.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Attributes> {
        // Each has its value in <spawn.h>; the libc crate gives one of them another type.
        let flags = libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK;
        let flags = flags as libc::c_short | libc::POSIX_SPAWN_SETSID;
        let mut raw = MaybeUninit::uninit();
        // SAFETY: init writes a valid object there, or says that it did not.
        check(unsafe { libc::posix_spawnattr_init(raw.as_mut_ptr()) })?;
        // SAFETY: initialised by the call above.
        let mut attributes = Attributes(unsafe { raw.assume_init() });
        let attr = &raw mut attributes.0;
        let (mut none, mut all) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: the sets are written before they are read, and the attributes are initialised.
        unsafe {
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigfillset(all.as_mut_ptr());
            check(libc::posix_spawnattr_setsigmask(attr, none.as_ptr()))?;
            check(libc::posix_spawnattr_setsigdefault(attr, all.as_ptr()))?;
            check(libc::posix_spawnattr_setflags(attr, flags))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`, and destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

/// These functions return the error number.
fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, WaitOptions, waitpid};
    use std::io::Read;
    use std::os::fd::AsFd;

    #[test]
    fn a_program_gets_its_descriptors_and_nothing_else() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let script = "env; kill -PIPE $$; echo survived";
        let arguments = ["sh", "-c", script].map(OsStr::new);
        let stdio = [null.as_fd(), writer.as_fd(), null.as_fd()];
        let pid = spawn("/bin/sh".as_ref(), &arguments, stdio).unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        // The shell sets PWD and its like by itself, and dies of a SIGPIPE that we ignore.
        assert!(!text.contains("PATH=") && !text.contains("survived"), "{text}");
        let (_, status) = waitpid(Pid::from_raw(pid), WaitOptions::empty())
            .unwrap()
            .unwrap();
        assert_eq!(status.terminating_signal(), Some(libc::SIGPIPE));
    }

    #[test]
    fn a_program_that_is_none_is_an_error() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let stdio = [null.as_fd(), null.as_fd(), null.as_fd()];
        let error = spawn("/dev/null".as_ref(), &["x".as_ref()], stdio).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
