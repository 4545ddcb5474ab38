//! What a pull cannot do without: two digests, one decompression and one write of every layer, and one sync.
//!
//! The same stages as a pull has, all layers at once, each layer a thread that decompresses and one that writes, from memory
//! into one file per layer. No network, tar, names, or records: a floor for any layout on disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use ring::digest::{Context, SHA256};
use test_e2e::images::Image;

const PIECE: usize = 128 << 10;

/// The time for the layers of an image, with their files in `scratch` (and removed again).
///
/// # Errors
/// The disk's, or of a layer that is not gzip.
pub(crate) fn measure(image: &Image, scratch: &Path) -> io::Result<Duration> {
    let folder = tempfile::tempdir_in(scratch)?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let layers: Vec<_> = image
            .layers
            .iter()
            .enumerate()
            .map(|(number, layer)| {
                let path = folder.path().join(number.to_string());
                scope.spawn(move || unpack(&layer.bytes, &path))
            })
            .collect();
        layers
            .into_iter()
            .try_for_each(|layer| layer.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
    })?;
    rustix::fs::syncfs(File::open(folder.path())?)?;
    let elapsed = begun.elapsed();
    drop(folder);
    rustix::fs::sync();
    Ok(elapsed)
}

fn unpack(layer: &[u8], path: &Path) -> io::Result<()> {
    let file = fs::File::create(path)?;
    let (sink, pieces) = sync_channel(4);
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || write(&pieces, file));
        let mut reader = flate2::read::MultiGzDecoder::new(Digesting {
            rest: layer,
            context: Context::new(&SHA256),
        });
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            if reader.by_ref().take(PIECE as u64).read_to_end(&mut piece)? == 0 {
                break;
            }
            if sink.send(piece).is_err() {
                break;
            }
        }
        drop(sink);
        writer.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

fn write(pieces: &Receiver<Vec<u8>>, mut file: File) -> io::Result<()> {
    let mut context = Context::new(&SHA256);
    for piece in pieces {
        context.update(&piece);
        file.write_all(&piece)?;
    }
    std::hint::black_box(context.finish());
    Ok(())
}

/// The compressed bytes, digested as they pass.
struct Digesting<'a> {
    rest: &'a [u8],
    context: Context,
}

impl Read for Digesting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.rest.read(buffer)?;
        self.context.update(&buffer[..count]);
        Ok(count)
    }
}
