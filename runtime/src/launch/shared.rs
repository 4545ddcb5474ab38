//! Whether what is mounted at a path can propagate: mountinfo of proc_pid_mountinfo(5).

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::{Errno, Result};

use super::plan::Propagation;

/// Checks that the mount that `source` is on can do what is asked of its clone: to pass mounts on both ways it must
/// itself be shared, to receive them shared or a slave. `EINVAL` when not: a clone would silently be private.
pub(crate) fn check(source: BorrowedFd<'_>, wanted: Propagation) -> Result<()> {
    let enough: fn(&str) -> bool = match wanted {
        Propagation::Private | Propagation::Unbindable => return Ok(()),
        Propagation::Slave => |tag| tag.starts_with("shared:") || tag.starts_with("master:"),
        Propagation::Shared => |tag| tag.starts_with("shared:"),
    };
    let id = statx(source, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|_| Errno::IO)?;
    match mounts.lines().any(|line| is(line, id) && tags(line).any(enough)) {
        true => Ok(()),
        false => Err(Errno::INVAL),
    }
}

fn is(line: &str, id: u64) -> bool {
    line.split(' ').next().and_then(|text| text.parse().ok()) == Some(id)
}

/// The optional fields: between the mount options and the lone dash.
fn tags(line: &str) -> impl Iterator<Item = &str> {
    line.split(' ').skip(6).take_while(|field| *field != "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_stand_before_the_dash() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 propagate_from:2 - ext3 /dev/shared:7 rw";
        assert!(is(line, 36) && !is(line, 3));
        assert_eq!(tags(line).collect::<Vec<_>>(), ["master:1", "propagate_from:2"]);
        assert_eq!(tags("36 35 98:0 / / rw - ext3 /dev/root rw").count(), 0);
    }
}
