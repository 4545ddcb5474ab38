//! The attacker of the SYS_PTRACE test: looks at every process that appears in its pid namespace,
//! again and again, for anything of the host.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::json;

/// Scans at least once and until `stop_file` exists, then prints `{rounds, pids, findings}`.
///
/// `host_path` is a file that exists on the host and not in the container; `reversed_secret` is,
/// reversed so that our own arguments do not hold it, a string of another container's environment.
pub(crate) fn scan(host_path: &str, reversed_secret: &str, stop_file: &str) -> io::Result<()> {
    let secret: String = reversed_secret.chars().rev().collect();
    let (mut findings, mut pids, mut rounds) = (BTreeSet::new(), BTreeSet::new(), 0u64);
    println!("scanning");
    loop {
        // Asked before the round: one whole round follows the request to stop.
        let last = Path::new(stop_file).exists();
        rounds += 1;
        for pid in others() {
            pids.insert(pid);
            look_at(pid, host_path, secret.as_bytes(), &mut findings);
        }
        if last {
            break;
        }
    }
    println!(
        "{}",
        json!({ "rounds": rounds, "pids": pids.len(), "findings": findings })
    );
    Ok(())
}

fn others() -> Vec<u32> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .collect()
}

fn look_at(pid: u32, host_path: &str, secret: &[u8], findings: &mut BTreeSet<String>) {
    let process = PathBuf::from(format!("/proc/{pid}"));
    // Climbing from a directory outside our own root ends at the root of the host.
    for (door, way) in [("root", String::new()), ("cwd", "../".repeat(64))] {
        let through = process
            .join(door)
            .join(way)
            .join(host_path.trim_start_matches('/'));
        if fs::symlink_metadata(&through).is_ok() {
            findings.insert(format!("{door} shows the host"));
        }
    }
    for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        let target = target.display().to_string();
        let harmless = ["pipe:", "socket:", "anon_inode:", "/dev/", "/proc"]
            .iter()
            .any(|kind| target.starts_with(kind));
        // A directory of the host's, or a launch plan in a memfd, opens again through /proc.
        if !harmless && (target.starts_with("/memfd:") || target == "/" || fs::read_dir(entry.path()).is_ok())
        {
            findings.insert(format!("fd {target}"));
        }
    }
    if File::options().write(true).open(process.join("exe")).is_ok() {
        // Busybox in the container's own root may be written by the container's root; our binary not.
        let target = fs::read_link(process.join("exe")).unwrap_or_default();
        if target.to_string_lossy().contains("memfd") || target.to_string_lossy().contains("crisp") {
            findings.insert(format!("exe {} opens for writing", target.display()));
        }
    }
    if memory_holds(&process, secret) {
        findings.insert("memory holds another container's secret".to_owned());
    }
}

/// Looks through the private writable memory, at most 1 MiB of each mapping.
fn memory_holds(process: &Path, secret: &[u8]) -> bool {
    let Ok(maps) = fs::read_to_string(process.join("maps")) else {
        return false;
    };
    let Ok(memory) = File::open(process.join("mem")) else {
        return false;
    };
    let mut buffer = vec![0; 1 << 20];
    maps.lines().filter(|line| line.contains(" rw-p ")).any(|line| {
        let range = line.split(' ').next().unwrap_or_default().split_once('-');
        let parse = |text: &str| u64::from_str_radix(text, 16).ok();
        let Some((Some(start), Some(end))) = range.map(|(start, end)| (parse(start), parse(end))) else {
            return false;
        };
        let wanted = usize::try_from(end - start).unwrap_or(0).min(buffer.len());
        let read = memory.read_at(&mut buffer[..wanted], start).unwrap_or(0);
        buffer[..read]
            .windows(secret.len())
            .any(|window| window == secret)
    })
}
