//! The attacker of mount targets: exchanges a directory and a symbolic link as fast as it can.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Swaps the two names until `stop_file` exists, then prints how often.
pub(crate) fn swap(one: &str, other: &str, stop_file: &str) -> io::Result<()> {
    println!("swapping");
    let mut swaps = 0u64;
    while !Path::new(stop_file).exists() {
        for _ in 0..100 {
            renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?;
            swaps += 1;
        }
    }
    println!("swaps {swaps}");
    Ok(())
}
