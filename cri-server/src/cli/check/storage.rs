//! The data directory: room, inodes, and whether overlay works on it.

use std::path::{Path, PathBuf};

use image::{LayerFormat, LayerFormatChoice};
use rustix::fs::statvfs;

use super::{Finding, probe};
use crate::cli::output::size;

const AREA: &str = "storage";
/// Below this share, kubelet begins to evict pods (its default for imagefs.available is 15 %).
const SCARCE_PERCENT: u64 = 15;
/// Room for a few ordinary images.
const SCARCE_BYTES: u64 = 1 << 30;

pub(super) fn findings(data_dir: &Path) -> Vec<Finding> {
    let place = existing(data_dir);
    vec![space(data_dir, &place), inodes(&place), overlay(&place)]
}

/// The directory itself, or the closest one above it that exists.
fn existing(directory: &Path) -> PathBuf {
    directory
        .ancestors()
        .find(|ancestor| ancestor.is_dir())
        .unwrap_or(Path::new("/"))
        .to_owned()
}

fn space(data_dir: &Path, place: &Path) -> Finding {
    let shown = data_dir.display();
    match statvfs(place) {
        Ok(stat) => {
            let (free, all) = (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
            judge_space(
                format!("{} of {} free for {shown}", size(free), size(all)),
                free,
                all,
            )
        }
        Err(errno) => {
            let detail = format!("{}: {errno}", place.display());
            Finding::lacks(
                AREA,
                "space",
                detail,
                "images cannot be stored",
                "repair the file system",
            )
            .essential()
        }
    }
}

fn judge_space(detail: String, free: u64, all: u64) -> Finding {
    if free >= SCARCE_BYTES && free.saturating_mul(100) >= all.saturating_mul(SCARCE_PERCENT) {
        return Finding::has(AREA, "space", detail);
    }
    let effect = "pulls fail soon, and kubelet evicts pods for want of disk";
    Finding::lacks(
        AREA,
        "space",
        detail,
        effect,
        "free some, or put data_dir on a larger file system",
    )
}

fn inodes(place: &Path) -> Finding {
    let Ok(stat) = statvfs(place) else {
        return Finding::has(AREA, "inodes", "unknown");
    };
    match (stat.f_favail, stat.f_files) {
        // btrfs and others make them as they go.
        (_, 0) => Finding::has(AREA, "inodes", "without limit"),
        (free, all) if free * 100 >= all * 5 => Finding::has(AREA, "inodes", format!("{free} of {all} free")),
        (free, all) => Finding::lacks(
            AREA,
            "inodes",
            format!("{free} of {all} free"),
            "pulls fail although there is space left",
            "remove small files, or put data_dir on a file system with more inodes",
        ),
    }
}

fn overlay(place: &Path) -> Finding {
    const WHAT: &str = "overlay on the data directory";
    match probe::overlay(place) {
        Ok(()) => Finding::has(AREA, WHAT, "works"),
        Err((step, errno)) => Finding::lacks(
            AREA,
            WHAT,
            format!("{step}: {errno}"),
            "images are copied for every container: slow starts, and disk space used many times over",
            "put data_dir on ext4, xfs or btrfs; in a container, on a volume",
        ),
    }
}

/// In which form layers will be kept; `stackable`: the kernel can stack images.
pub(super) fn layers(choice: LayerFormatChoice, stackable: bool) -> Finding {
    const WHAT: &str = "layer format";
    let effect = "no container can be started from such layers";
    match (choice, stackable) {
        (LayerFormatChoice::Fixed(LayerFormat::Erofs), false) => Finding::lacks(
            AREA,
            WHAT,
            "erofs, as configured, which this kernel cannot stack",
            effect,
            "image.layer_format = \"auto\"",
        )
        .essential(),
        (LayerFormatChoice::Fixed(format), _) => Finding::has(AREA, WHAT, format!("{format}, as configured")),
        (LayerFormatChoice::Probe, true) => Finding::has(AREA, WHAT, "erofs: this kernel can stack images"),
        (LayerFormatChoice::Probe, false) => {
            Finding::has(AREA, WHAT, "directory: this kernel cannot stack EROFS images")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Verdict;

    #[test]
    fn the_layer_format_is_told_with_its_reason() {
        let erofs = LayerFormatChoice::Fixed(LayerFormat::Erofs);
        assert_eq!(
            layers(LayerFormatChoice::Probe, true).detail,
            "erofs: this kernel can stack images"
        );
        assert!(
            layers(LayerFormatChoice::Probe, false)
                .detail
                .starts_with("directory: ")
        );
        assert_eq!(layers(erofs, true).detail, "erofs, as configured");
        assert!(matches!(
            layers(erofs, false).verdict,
            Verdict::LacksEssential { .. }
        ));
    }

    #[test]
    fn space_is_scarce_by_size_or_by_share() {
        const GIB: u64 = 1 << 30;
        for (free, all, enough) in [
            (20 * GIB, 100 * GIB, true),
            (10 * GIB, 100 * GIB, false),
            (GIB / 2, GIB, false),
            (0, 0, false),
        ] {
            let finding = judge_space(String::new(), free, all);
            assert_eq!(finding.verdict == Verdict::Has, enough, "{free} of {all}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_judged_by_its_parent_and_not_made() {
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = directory.path().join("var/lib/crisp");
        assert_eq!(existing(&data_dir), directory.path());
        assert_eq!(findings(&data_dir).len(), 3);
        assert_eq!(
            std::fs::read_dir(directory.path()).expect("readable").count(),
            0,
            "the probe left something"
        );
    }
}
