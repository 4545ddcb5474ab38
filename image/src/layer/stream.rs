//! A layer's bytes on their way to the disk, in three stages that work at the same time.
//!
//! ```text
//!   async task            blocking thread                 blocking thread
//!   socket ──Bytes(8)──► digest · decompress ──128K(4)──► diff id · unpack ──► .new-N/{fs,erofs}
//!                              └─(optional) compressed blob kept
//! ```
//!
//! The channels are short, so memory stays bounded and a slow disk slows the socket. Which error
//! is told when several stages fail: the network's; then a wrong digest (whatever nonsense the
//! later stages made of wrong bytes); then the unpacker's.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{LayerFormat, Unpacked};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::Error;
use crate::registry::Piece;
use crate::unpack::decompress::decompress;
use crate::unpack::recipe::RecipeWriter;
use crate::unpack::{self, Limits};

/// Pieces between the network and the decoder.
pub(crate) const NETWORK_PIECES: usize = 8;
const PLAIN_PIECES: usize = 4;
const PLAIN_PIECE: usize = 128 << 10;
/// The ratio limit starts to count here: small archives of zeros are harmless.
const RATIO_FREE: u64 = 1 << 30;

/// Where the compressed bytes come from.
pub(crate) enum Compressed {
    /// A download in progress.
    Pieces(mpsc::Receiver<Piece>),
    /// A part of a file.
    Part {
        file: Arc<File>,
        offset: u64,
        length: u64,
    },
}

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
    target: Target<'_>,
    limits: &Limits,
) -> Result<Unpacked, Error> {
    let name = expected
        .compressed
        .clone()
        .unwrap_or_else(|| expected.diff_id.clone());
    let recipe = RecipeWriter::create(target.recipe).map_err(Error::io("create", target.recipe))?;
    let most = limits
        .bytes
        .min(RATIO_FREE.max(expected.size.saturating_mul(limits.ratio)));
    let stop = AtomicBool::new(false);
    let (plain, pieces) = sync_channel(PLAIN_PIECES);
    let (decoded, unpacked) = std::thread::scope(|scope| {
        let decoder = std::thread::Builder::new()
            .name("layer-decode".into())
            .spawn_scoped(scope, || {
                decode(source, expected, target.keep, plain, most, &stop)
            })
            .map_err(Error::io("start a thread for", target.files));
        let reader = PlainReader {
            pieces,
            piece: Vec::new(),
            taken: 0,
            hasher: Hasher::new(expected.diff_id.algorithm()),
            ended: false,
        };
        let unpacked = unpack_plain(reader, target.format, target.files, recipe, limits);
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
    format: LayerFormat,
    files: &Path,
    recipe: RecipeWriter,
    limits: &Limits,
) -> Result<(Unpacked, Digest), unpack::UnpackError> {
    let unpacked = match format {
        LayerFormat::Directory => Unpacked::Directory(unpack::unpack(&mut reader, files, recipe, limits)?),
        LayerFormat::Erofs => Unpacked::Image(unpack::unpack_image(&mut reader, files, recipe, limits)?),
    };
    Ok((unpacked, reader.hasher.finish()))
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

fn decode(
    source: Compressed,
    expected: &Expected,
    keep: Option<File>,
    plain: SyncSender<Plain>,
    most: u64,
    stop: &AtomicBool,
) -> Result<(), Undecoded> {
    let algorithm = expected
        .compressed
        .as_ref()
        .map_or(Algorithm::Sha256, Digest::algorithm);
    let mut compressed = CompressedReader {
        source,
        piece: Bytes::new(),
        hasher: Hasher::new(algorithm),
        keep,
        cut: false,
        stop,
    };
    let outcome = pump(&mut compressed, &plain, most);
    if compressed.cut || stop.load(Ordering::Relaxed) {
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
    if let Some(wanted) = expected.compressed.as_ref().filter(|wanted| **wanted != found) {
        return Err(Undecoded::Failed(Error::WrongDigest {
            wanted: wanted.clone(),
            found,
        }));
    }
    match outcome {
        Ok(true) => plain.send(Plain::End).map_err(|_| Undecoded::Stopped),
        Ok(false) => Err(Undecoded::Stopped),
        Err(error) => Err(Undecoded::Decompress(error.to_string())),
    }
}

/// Decompresses everything into the channel; `false` when nobody listens any more.
fn pump(compressed: &mut CompressedReader<'_>, plain: &SyncSender<Plain>, most: u64) -> io::Result<bool> {
    let mut decoder = decompress(compressed)?;
    let mut total = 0u64;
    loop {
        let mut piece = Vec::with_capacity(PLAIN_PIECE);
        // `read` would return after each little block of the decoder.
        decoder
            .by_ref()
            .take(PLAIN_PIECE as u64)
            .read_to_end(&mut piece)?;
        if piece.is_empty() {
            return Ok(true);
        }
        total += piece.len() as u64;
        if total > most {
            return Err(io::Error::other("it grows beyond the limit"));
        }
        if plain.send(Plain::Data(piece)).is_err() {
            return Ok(false);
        }
    }
}

/// The compressed bytes, digested (and kept) as they pass.
struct CompressedReader<'a> {
    source: Compressed,
    piece: Bytes,
    hasher: Hasher,
    keep: Option<File>,
    /// The download ended without its end.
    cut: bool,
    stop: &'a AtomicBool,
}

impl CompressedReader<'_> {
    fn drain(&mut self) -> io::Result<()> {
        loop {
            let count = self.fill_buf()?.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }

    fn next_piece(&mut self) -> io::Result<Bytes> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        match &mut self.source {
            Compressed::Pieces(pieces) => match pieces.blocking_recv() {
                Some(Piece::Data(piece)) => Ok(piece),
                Some(Piece::End) => {
                    // Asked again after the end, it must say "end" again.
                    self.source = Compressed::Part {
                        file: Arc::new(File::open("/dev/null")?),
                        offset: 0,
                        length: 0,
                    };
                    Ok(Bytes::new())
                }
                None => {
                    self.cut = true;
                    Err(io::ErrorKind::BrokenPipe.into())
                }
            },
            Compressed::Part { file, offset, length } => {
                let take = usize::try_from(*length).unwrap_or(usize::MAX).min(PLAIN_PIECE);
                let mut piece = vec![0; take];
                file.read_exact_at(&mut piece, *offset)?;
                *offset += take as u64;
                *length -= take as u64;
                Ok(piece.into())
            }
        }
    }
}

impl BufRead for CompressedReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece.is_empty() {
            self.piece = self.next_piece()?;
            self.hasher.update(&self.piece);
            if let Some(keep) = &mut self.keep {
                keep.write_all(&self.piece)?;
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, count: usize) {
        self.piece = self.piece.split_off(count);
    }
}

impl Read for CompressedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

enum Plain {
    Data(Vec<u8>),
    End,
}

/// The tar, digested as it passes.
struct PlainReader {
    pieces: Receiver<Plain>,
    piece: Vec<u8>,
    taken: usize,
    hasher: Hasher,
    ended: bool,
}

impl BufRead for PlainReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.piece.len() && !self.ended {
            self.taken = 0;
            self.piece.clear();
            match self.pieces.recv() {
                Ok(Plain::Data(piece)) => {
                    self.hasher.update(&piece);
                    self.piece = piece;
                }
                Ok(Plain::End) => self.ended = true,
                Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        Ok(&self.piece[self.taken..])
    }

    fn consume(&mut self, count: usize) {
        self.taken += count;
    }
}

impl Read for PlainReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

fn read_buffered(reader: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let available = reader.fill_buf()?;
    let count = available.len().min(buffer.len());
    buffer[..count].copy_from_slice(&available[..count]);
    reader.consume(count);
    Ok(count)
}
