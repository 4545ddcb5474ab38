//! The seed corpus of the fuzz targets, replayed: no panic, no hang, no more than is allowed.

mod replay;

use std::path::{Path, PathBuf};

fn corpus(protocol: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(protocol);
    let mut seeds: Vec<_> = std::fs::read_dir(&directory)
        .expect("the corpus is part of the sources")
        .map(|seed| seed.expect("a directory's entry").path())
        .collect();
    seeds.sort();
    assert!(
        seeds.len() >= 10,
        "{} has {} seeds",
        directory.display(),
        seeds.len()
    );
    seeds
        .into_iter()
        .map(|path| {
            let bytes = std::fs::read(&path).expect("a seed is readable");
            (path, bytes)
        })
        .collect()
}

/// A seed, and what a few careless changes make of it.
fn with_mutations(seed: &[u8], mut check: impl FnMut(&[u8])) {
    check(seed);
    for cut in [1, 5, 9, 13] {
        check(&seed[..seed.len().saturating_sub(cut)]);
    }
    for step in 0..seed.len().min(64) {
        let mut changed = seed.to_vec();
        changed[step] ^= 1 << (step % 8);
        check(&changed);
    }
}

#[test]
fn spdy() {
    for (path, seed) in corpus("spdy") {
        println!("{}", path.display());
        with_mutations(&seed, replay::spdy_frames);
        replay::spdy_connection(&seed);
    }
}

#[test]
fn websocket() {
    for (path, seed) in corpus("websocket") {
        println!("{}", path.display());
        with_mutations(&seed, replay::websocket_frames);
        replay::websocket_connection(&seed);
    }
}
