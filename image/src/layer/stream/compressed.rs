//! The compressed half: from the network (or a file) to the decoder.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::read_buffered;
use crate::digest::Hasher;
use crate::registry::Piece;

/// Of a file, so much is read at once.
const PIECE: usize = 128 << 10;

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
    /// All of them came: asked again, it says so again.
    Ended,
}

/// The compressed bytes, digested (and kept) as they pass.
pub(super) struct CompressedReader<'a> {
    pub(super) source: Compressed,
    pub(super) piece: Bytes,
    pub(super) hasher: Hasher,
    pub(super) keep: Option<File>,
    /// The download ended without its end.
    pub(super) cut: bool,
    pub(super) stop: &'a AtomicBool,
}

impl CompressedReader<'_> {
    pub(super) fn drain(&mut self) -> io::Result<()> {
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
            Compressed::Ended => Ok(Bytes::new()),
            Compressed::Pieces(pieces) => match pieces.blocking_recv() {
                Some(Piece::Data(piece)) => Ok(piece),
                Some(Piece::End) => {
                    self.source = Compressed::Ended;
                    Ok(Bytes::new())
                }
                None => {
                    self.cut = true;
                    Err(io::ErrorKind::BrokenPipe.into())
                }
            },
            Compressed::Part { file, offset, length } => {
                let take = usize::try_from(*length).unwrap_or(usize::MAX).min(PIECE);
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
