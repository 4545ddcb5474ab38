//! `execve(2)`.

use std::ffi::{CStr, c_char};
use std::ptr;

use rustix::io::Errno;

use super::check;

/// Replaces the process image. Returns only when that failed.
pub(crate) fn execve(path: &CStr, args: &[&CStr], env: &[&CStr]) -> Errno {
    let pointers = |strings: &[&CStr]| -> Vec<*const c_char> {
        strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and point to C strings that outlive the call.
    let result =
        check(unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), args.as_ptr(), env.as_ptr()) });
    result.map_or_else(
        |errno| errno,
        |_| unreachable!("execve returned without an error"),
    )
}
