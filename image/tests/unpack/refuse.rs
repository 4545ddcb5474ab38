//! Archives that are malformed, ambiguous or too large.

use std::fs;

use image::unpack::UnpackError;
use tar::EntryType;

use crate::Bench;
use crate::support::images::Tar;

#[test]
fn malformed_archives_are_refused() {
    let refused = |tar: &[u8]| assert!(matches!(Bench::new().layer(tar), Err(UnpackError::Tar(_))));
    let good = Tar::default().file("a", vec![1; 2000]).finish();
    refused(&good[..700]);
    refused(&good[..512]);
    let mut wrong = good;
    wrong[0] = b'b';
    refused(&wrong);
    refused(&Tar::default().pax(&[("size", b"x")]).file("a", "b").finish());
    refused(
        &Tar::default()
            .raw(b"a", b"", EntryType::new(b'x'), b"99 path=b\n")
            .file("a", "")
            .finish(),
    );
    refused(
        &Tar::default()
            .raw(b"a", b"", EntryType::new(b'g'), b"10 path=b\n")
            .file("a", "")
            .finish(),
    );
    refused(&Tar::default().raw(b"a", b"", EntryType::new(b'Z'), b"").finish());
    refused(
        &Tar::default()
            .raw(b"@", b"", EntryType::GNULongName, b"one\0")
            .raw(b"@", b"", EntryType::GNULongName, b"two\0")
            .file("a", "")
            .finish(),
    );
    refused(
        &Tar::default()
            .raw(b"@", b"", EntryType::GNULongName, b"dangling\0")
            .finish(),
    );
}

#[test]
fn the_pax_size_wins() {
    // A reader that believes the header (0 bytes) would take the payload for an entry.
    let inner = Tar::default().file("smuggled", "x").finish();
    let mut header = Tar::header(EntryType::Regular, 0o644);
    header.set_path("outer").unwrap();
    header.set_size(0);
    header.set_cksum();
    let mut tar = Tar::default()
        .pax(&[("size", inner.len().to_string().as_bytes())])
        .finish();
    tar.truncate(1024);
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(&inner);
    tar.extend_from_slice(&[0; 1024]);
    let mut bench = Bench::new();
    let layer = bench.layer(&tar).unwrap();
    assert_eq!(fs::read(layer.join("outer")).unwrap(), inner);
    assert!(!layer.join("smuggled").exists());
}

#[test]
fn limits_hold() {
    let mut bench = Bench::new();
    bench.limits.entries = 3;
    let four = Tar::default()
        .file("1", "")
        .file("2", "")
        .file("3", "")
        .file("4", "")
        .finish();
    assert!(matches!(
        bench.layer(&four),
        Err(UnpackError::Limit { what: "entries", .. })
    ));
    let mut bench = Bench::new();
    bench.limits.bytes = 1000;
    let large = Tar::default()
        .file("1", vec![0; 600])
        .file("2", vec![0; 600])
        .finish();
    assert!(matches!(
        bench.layer(&large),
        Err(UnpackError::Limit { what: "bytes", .. })
    ));
    let mut bench = Bench::new();
    bench.limits.headroom = u64::MAX;
    let error = bench.layer(&Tar::default().file("1", "x").finish()).unwrap_err();
    assert!(error.is_no_space());
    let mut bench = Bench::new();
    bench.limits.names = 3000;
    let directories = (0..10).fold(Tar::default(), |tar, number| {
        tar.dir(&format!("{}{number}/", "long/".repeat(40)), 0o755)
    });
    assert!(matches!(
        bench.layer(&directories.finish()),
        Err(UnpackError::Limit {
            what: "bytes of names",
            ..
        })
    ));
}
