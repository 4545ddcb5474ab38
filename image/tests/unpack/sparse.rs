//! Sparse files: maps that lie, never end, or claim more than anybody has.

use std::fs;
use std::os::unix::fs::MetadataExt;

use image::unpack::{TarError, UnpackError};
use tar::EntryType;

use crate::Bench;
use crate::support::images::Tar;

/// More pieces than a file may have.
const TOO_MANY: usize = (1 << 16) + 1;

/// A file in GNU's PAX format 0.1, which has its map in a header.
fn mapped(map: &str, size: &str, data: &[u8]) -> Vec<u8> {
    Tar::default()
        .pax(&[
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.size", size.as_bytes()),
        ])
        .raw(b"sparse", b"", EntryType::Regular, data)
        .finish()
}

/// A file in GNU's PAX format 1.0, whose map begins the data.
fn map_in_data(map: &str, size: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = map.as_bytes().to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend_from_slice(data);
    Tar::default()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", size.as_bytes()),
        ])
        .raw(b"sparse", b"", EntryType::Regular, &bytes)
        .finish()
}

/// A file in GNU tar's own old format, with so many further blocks of 21 pieces of nothing.
fn old(blocks: usize) -> Vec<u8> {
    let mut header = Tar::header(EntryType::GNUSparse, 0o644);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..6].copy_from_slice(b"sparse");
    gnu.realsize[..11].copy_from_slice(b"00000000000");
    gnu.isextended = [u8::from(blocks > 0)];
    header.set_cksum();
    let mut tar = header.as_bytes().to_vec();
    for number in 0..blocks {
        let mut block: Vec<u8> = b"00000000000\0".repeat(42);
        block.push(u8::from(number + 1 < blocks));
        block.resize(512, 0);
        tar.extend(block);
    }
    tar.extend([0; 1024]);
    tar
}

#[test]
fn maps_that_lie_or_never_end_are_refused() {
    let refused = |what: &str, tar: &[u8]| {
        let outcome = Bench::new().layer(tar);
        assert!(
            matches!(outcome, Err(UnpackError::Tar(TarError::SparseMap))),
            "{what}: {outcome:?}"
        );
    };
    refused("overlap", &mapped("0,10,5,10", "100", &[1; 20]));
    refused("backwards", &mapped("50,10,0,10", "100", &[1; 20]));
    refused("beyond the end", &mapped("95,10", "100", &[1; 10]));
    refused(
        "beyond all numbers",
        &mapped("9223372036854775807,9223372036854775807", "100", &[1; 10]),
    );
    refused("less than the data", &mapped("0,10", "100", &[1; 20]));
    refused("more than the data", &mapped("0,20", "100", &[1; 10]));
    refused("half a piece", &mapped("0,10,50", "100", &[1; 10]));
    refused("beyond the data", &map_in_data("2\n0\n10\n", "100", &[1; 10]));
    refused("a line without end", &map_in_data(&"1".repeat(600), "100", &[]));
    refused(
        "a count of pieces that is an allocation",
        &map_in_data(&format!("{TOO_MANY}\n"), "100", &[]),
    );
    refused("an old map without end", &old(TOO_MANY / 21 + 1));
    Bench::new().layer(&old(100)).unwrap();
}

#[test]
fn a_hole_counts_for_what_the_file_claims_and_takes_no_disk() {
    let mut bench = Bench::new();
    bench.limits.bytes = 1 << 30;
    // One byte of data, and the largest number there is for its size.
    let claims = mapped("0,1", "9223372036854775807", b"x");
    assert!(matches!(
        bench.layer(&claims),
        Err(UnpackError::Limit {
            what: "bytes in a file",
            ..
        })
    ));
    let size = 64 << 20;
    let layer = bench
        .layer(&mapped("33554432,4", &size.to_string(), b"here"))
        .unwrap();
    let file = fs::metadata(layer.join("sparse")).unwrap();
    assert_eq!(file.len(), size);
    assert!(file.blocks() * 512 < 1 << 20, "{} blocks", file.blocks());
    let content = fs::read(layer.join("sparse")).unwrap();
    assert_eq!(&content[33_554_432..33_554_436], b"here");
}
