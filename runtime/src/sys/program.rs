//! The pages of this process's own program.

use std::ffi::c_void;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::mm::{Advice, madvise};

/// Lets go of the program's machine code: pages that are used come back from the page cache one window at a time, those
/// that only a start or a rare call needs do not.
///
/// # Errors
/// `/proc/self/maps` cannot be read.
pub(crate) fn release_text() -> io::Result<()> {
    let program = std::fs::metadata("/proc/self/exe")?;
    for (start, length) in text_of(&std::fs::read_to_string("/proc/self/maps")?, program.ino()) {
        // SAFETY: the range is a private mapping of a file, executable and not writable, so that its pages are those of
        // the page cache; without them (madvise(2), MADV_DONTNEED) the next access maps them again, with the same content.
        let _ = unsafe { madvise(start, length, Advice::LinuxDontNeed) };
    }
    Ok(())
}

/// The mappings of a file's code. Not those that are only read: relocations may have been written to them.
fn text_of(maps: &str, inode: u64) -> impl Iterator<Item = (*mut c_void, usize)> {
    maps.lines().filter_map(move |line| {
        // proc_pid_maps(5): range, permissions, offset, device, inode, path
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let is_code = fields.next()? == "r-xp" && fields.nth(2)?.parse() == Ok(inode);
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        is_code.then(|| {
            (
                std::ptr::with_exposed_provenance_mut(start),
                end.saturating_sub(start),
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_is_let_go() {
        let maps = "\
7f0000000000-7f0000001000 r--p 00000000 fe:00 42 /usr/bin/crisp
7f0000001000-7f0000004000 r-xp 00001000 fe:00 42 /usr/bin/crisp
7f0000004000-7f0000005000 r--p 00004000 fe:00 42 /usr/bin/crisp
7f0000005000-7f0000006000 rw-p 00005000 fe:00 42 /usr/bin/crisp
7f0000006000-7f0000007000 r-xp 00000000 fe:00 43 /usr/lib/other.so
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0 [vdso]
";
        let found: Vec<_> = text_of(maps, 42)
            .map(|(start, length)| (start as usize, length))
            .collect();
        assert_eq!(found, [(0x7f00_0000_1000, 0x3000)]);
    }

    #[test]
    fn the_program_goes_on_without_its_pages() {
        release_text().expect("readable maps");
        assert_eq!((1..=100).sum::<u32>(), 5050);
    }
}
