//! Facts about a process from procfs.

use std::io::{self, Read};

/// Start of a process in clock ticks since boot: field 22 of `/proc/<pid>/stat`, proc(5).
pub(crate) fn start_time(pid: i32) -> io::Result<u64> {
    stat_field(pid, 22)
}

/// The parent of a process: field 4.
pub(crate) fn parent(pid: i32) -> io::Result<i32> {
    stat_field(pid, 4)
}

fn stat_field<T: std::str::FromStr>(pid: i32, number: usize) -> io::Result<T> {
    let mut buffer = [0; 512];
    let mut file = std::fs::File::open(format!("/proc/{pid}/stat"))?;
    let length = file.read(&mut buffer)?;
    parse(&buffer[..length], number).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The second field is the command's name in parentheses and may itself hold parentheses and spaces: count from the last one.
fn parse<T: std::str::FromStr>(stat: &[u8], number: usize) -> Option<T> {
    let name_end = stat.iter().rposition(|c| *c == b')')?;
    let field = stat[name_end + 1..].split(|c| *c == b' ').nth(number - 2)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_cannot_shift_the_fields() {
        let stat = b"7 (a) S 1) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21\n";
        assert_eq!(parse::<u64>(stat, 22), Some(4242));
        assert_eq!(parse::<i32>(stat, 4), Some(1));
        assert_eq!(parse::<u64>(b"7 (cut", 22), None);
    }

    #[test]
    fn this_process_started_after_the_boot() {
        assert!(start_time(std::process::id().cast_signed()).unwrap() > 0);
    }
}
