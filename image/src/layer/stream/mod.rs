//! A layer's bytes on their way to the disk, in three stages that work at the same time.
//!
//! ```text
//!   async task            blocking thread                 blocking thread
//!   socket ──Bytes(4)──► digest · decompress ──128K(4)──► diff id · unpack ──► .new-N/{fs,erofs}
//!                              └─(optional) compressed blob kept
//! ```
//!
//! The channels are short, so memory stays bounded and a slow disk slows the socket. Which error
//! is told when several stages fail: the network's; then a wrong digest (whatever nonsense the
//! later stages made of wrong bytes); then the unpacker's.

mod compressed;
mod plain;

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

pub(crate) use self::compressed::Compressed;
use self::compressed::CompressedReader;
use self::plain::{Deaf, PlainReader, PlainWriter, plain};
use super::{LayerFormat, Unpacked};
use crate::budget::Share;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::Error;
use crate::unpack::decompress::{decompress, is_too_large};
use crate::unpack::recipe::RecipeWriter;
use crate::unpack::{self, Limits};

/// Pieces between the network and the decoder.
pub(crate) const NETWORK_PIECES: usize = 4;

/// What a layer has to be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// Digest of the compressed bytes; of an import it may be unknown.
    pub(crate) compressed: Option<Digest>,
    /// Digest of the tar.
    pub(crate) diff_id: Digest,
    /// Size of the compressed bytes.
    pub(crate) size: u64,
}

/// Where the result goes.
pub(crate) struct Target<'a> {
    /// In which form.
    pub(crate) format: LayerFormat,
    /// The tree or the image.
    pub(crate) files: &'a Path,
    /// How to make the tar again.
    pub(crate) recipe: &'a Path,
    /// Whether and where the compressed bytes are kept.
    pub(crate) keep: Option<File>,
}

/// Runs the second and third stage to the end; blocks.
pub(crate) fn unpack(
    source: Compressed,
    expected: &Expected,
    mut target: Target<'_>,
    limits: &Limits,
    share: &Share,
) -> Result<Unpacked, Error> {
    let name = expected
        .compressed
        .clone()
        .unwrap_or_else(|| expected.diff_id.clone());
    let recipe = RecipeWriter::create(target.recipe).map_err(Error::io("create", target.recipe))?;
    let most = limits
        .bytes
        .min(limits.ratio_free.max(expected.size.saturating_mul(limits.ratio)));
    let stop = AtomicBool::new(false);
    let keep = target.keep.take();
    let (writer, reader) = plain(expected.diff_id.algorithm());
    let (decoded, unpacked) = std::thread::scope(|scope| {
        let decoder = std::thread::Builder::new()
            .name("layer-decode".into())
            .spawn_scoped(scope, || {
                let decoding = Decoding {
                    expected,
                    most,
                    stop: &stop,
                    share,
                };
                decoding.run(source, keep, writer)
            })
            .map_err(Error::io("start a thread for", target.files));
        let unpacked = unpack_plain(reader, &target, recipe, limits, share);
        // Wrong content is worth knowing about; a full disk is not worth the download.
        if !matches!(unpacked, Ok(_) | Err(unpack::UnpackError::Tar(_))) {
            stop.store(true, Ordering::Relaxed);
        }
        let decoded = decoder.map(|decoder| {
            decoder.join().map_err(|_| Error::Interrupted {
                operation: "decode a layer",
            })
        });
        (decoded, unpacked)
    });
    let decoded = decoded??;
    match (decoded, unpacked) {
        (Err(Undecoded::Failed(error)), _) => Err(error),
        (Err(Undecoded::Decompress(problem)), Ok(_) | Err(unpack::UnpackError::Tar(_))) => {
            Err(Error::Decompress {
                digest: name,
                problem,
            })
        }
        (_, Err(source)) => Err(Error::Unpack { digest: name, source }),
        (Err(_), Ok(_)) => Err(Error::Interrupted {
            operation: "download a layer",
        }),
        (Ok(()), Ok((unpacked, found))) if found == expected.diff_id => Ok(unpacked),
        (Ok(()), Ok((_, found))) => Err(Error::WrongDiffId {
            digest: name,
            wanted: expected.diff_id.clone(),
            found,
        }),
    }
}

fn unpack_plain(
    mut reader: PlainReader,
    target: &Target<'_>,
    recipe: RecipeWriter,
    limits: &Limits,
    share: &Share,
) -> Result<(Unpacked, Digest), unpack::UnpackError> {
    let more = || share.allows_more();
    let unpacked = match target.format {
        LayerFormat::Directory => {
            unpack::unpack_sharing(&mut reader, target.files, recipe, limits, &more).map(Unpacked::Directory)
        }
        LayerFormat::Erofs => unpack::unpack_image_sharing(&mut reader, target.files, recipe, limits, &more)
            .map(Unpacked::Image),
    };
    Ok((unpacked?, reader.digest()))
}

/// Why the second stage did not finish.
enum Undecoded {
    /// With an error of its own.
    Failed(Error),
    /// The bytes are the right ones, but cannot be decompressed.
    Decompress(String),
    /// The first stage ended early, or the third did: they have the reason.
    Stopped,
}

/// The second stage.
struct Decoding<'a> {
    expected: &'a Expected,
    /// Uncompressed bytes.
    most: u64,
    stop: &'a AtomicBool,
    share: &'a Share,
}

impl Decoding<'_> {
    fn run(&self, source: Compressed, keep: Option<File>, plain: PlainWriter) -> Result<(), Undecoded> {
        let wanted = self.expected.compressed.as_ref();
        let mut compressed = CompressedReader {
            source,
            piece: Bytes::new(),
            hasher: Hasher::new(wanted.map_or(Algorithm::Sha256, Digest::algorithm)),
            keep,
            cut: false,
            stop: self.stop,
        };
        let outcome = self.pump(&mut compressed, &plain);
        if compressed.cut || self.stop.load(Ordering::Relaxed) || self.share.is_outgrown() {
            return Err(Undecoded::Stopped);
        }
        // What follows the compressed stream, and what could not be decoded, still counts for the
        // digest: only that tells a damaged download from a damaged image.
        if let Err(error) = compressed.drain() {
            return Err(if compressed.cut {
                Undecoded::Stopped
            } else {
                Undecoded::Decompress(error.to_string())
            });
        }
        let found = compressed.hasher.finish();
        if let Some(wanted) = wanted.filter(|wanted| **wanted != found) {
            return Err(Undecoded::Failed(Error::WrongDigest {
                wanted: wanted.clone(),
                found,
            }));
        }
        match outcome {
            Ok(Ok(())) => plain.end().map_err(|Deaf| Undecoded::Stopped),
            Ok(Err(Deaf)) => Err(Undecoded::Stopped),
            Err(error) => Err(Undecoded::Decompress(error.to_string())),
        }
    }

    /// Decompresses everything.
    fn pump(
        &self,
        compressed: &mut CompressedReader<'_>,
        plain: &PlainWriter,
    ) -> io::Result<Result<(), Deaf>> {
        let outgrown = |error: &io::Error| {
            if is_too_large(error) {
                self.share.outgrow();
            }
        };
        let mut decoder =
            decompress(compressed, |first| self.share.window_log(first)).inspect_err(outgrown)?;
        let mut total = 0u64;
        loop {
            let mut buffer = plain.buffer();
            let filled = fill(&mut decoder, &mut buffer).inspect_err(outgrown)?;
            if filled == 0 {
                return Ok(Ok(()));
            }
            total += filled as u64;
            if total > self.most {
                return Err(io::Error::other("it grows beyond the limit"));
            }
            if let Err(deaf) = plain.send(buffer, filled) {
                return Ok(Err(deaf));
            }
        }
    }
}

/// Reads until the buffer is full or the stream at its end: a decoder gives little blocks.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// [`Read`] by way of [`BufRead`].
fn read_buffered(reader: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let available = reader.fill_buf()?;
    let count = available.len().min(buffer.len());
    buffer[..count].copy_from_slice(&available[..count]);
    reader.consume(count);
    Ok(count)
}
