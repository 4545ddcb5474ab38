//! Random trees, packed by GNU tar in each of its formats.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{self, tree};
use crate::{Bench, assert_same};

/// Archives without PAX headers know no more.
fn whole_seconds(mut tree: BTreeMap<String, String>) -> BTreeMap<String, String> {
    for line in tree.values_mut() {
        let words = line.split(' ').enumerate();
        let words = words.map(|(n, word)| {
            if n == 3 {
                word.split('.').next().unwrap_or(word)
            } else {
                word
            }
        });
        *line = words.collect::<Vec<_>>().join(" ");
    }
    tree
}

/// A tree with a bit of everything, different for each seed.
fn grow(root: &Path, seed: u64) {
    let mut random = support::random(seed);
    fs::create_dir(root).unwrap();
    let mut directories = vec![root.to_path_buf()];
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..150 {
        let parent = directories[random(directories.len() as u64) as usize].clone();
        let name = match random(4) {
            0 => format!("{number}-{}", "long".repeat(random(50) as usize)),
            1 => format!("{number} ünï\tcode"),
            _ => format!("f{number}"),
        };
        let path = parent.join(name);
        match random(9) {
            0 | 1 => {
                fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            2 => std::os::unix::fs::symlink("../".repeat(random(4) as usize) + "etc/x", &path).unwrap(),
            3 if !files.is_empty() => {
                fs::hard_link(&files[random(files.len() as u64) as usize], &path).unwrap();
            }
            4 => {
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    &path,
                    rustix::fs::FileType::Fifo,
                    rustix::fs::Mode::RUSR,
                    0,
                )
                .unwrap();
            }
            5 => {
                let sparse = fs::File::create(&path).unwrap();
                for _ in 0..random(8) {
                    use std::os::unix::fs::FileExt;
                    sparse.write_all_at(b"island", random(16) * 32_768).unwrap();
                }
                sparse.set_len(500_000 + random(5000)).unwrap();
                files.push(path.clone());
            }
            _ => {
                fs::write(&path, vec![b'c'; random(20_000) as usize]).unwrap();
                files.push(path.clone());
            }
        }
        if !fs::symlink_metadata(&path).unwrap().is_symlink() {
            std::os::unix::fs::chown(&path, Some(random(3) as u32 * 1000), Some(random(3) as u32 * 100))
                .unwrap();
            let mode = [0o644, 0o755, 0o4755, 0o2711, 0o1777, 0o600][random(6) as usize];
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let time = rustix::fs::Timespec {
            tv_sec: random(2_000_000_000) as i64 - 100_000_000,
            tv_nsec: 0,
        };
        let times = rustix::fs::Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(
            rustix::fs::CWD,
            &path,
            &times,
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
    }
}

#[test]
fn unpacks_what_gnu_tar_packs() {
    for (seed, options) in [
        (1, &["--format=gnu", "--sparse"][..]),
        (2, &["--format=pax", "--sparse"]),
        (3, &["--format=pax", "--sparse", "--sparse-version=0.1"]),
        (4, &["--format=gnu"]),
        (5, &["--format=pax", "--numeric-owner"]),
        (6, &["--format=pax", "--sparse", "--sparse-version=0.0"]),
    ] {
        let mut bench = Bench::new();
        let source = bench.folder.path().join("source");
        grow(&source, seed);
        let packed = Command::new("tar")
            .args(options)
            .arg("-C")
            .arg(&source)
            .args(["-cf", "-", "."])
            .output()
            .unwrap();
        assert!(
            packed.status.success(),
            "{}",
            String::from_utf8_lossy(&packed.stderr)
        );
        let layer = bench.layer(&packed.stdout).unwrap();
        assert_same(&whole_seconds(tree(&source)), &whole_seconds(tree(&layer)));
    }
}
