//! The uncompressed half: from the decoder's thread to the unpacker's, in buffers that go round.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use super::read_buffered;
use crate::digest::{Algorithm, Digest, Hasher};

const PIECES: usize = 4;
const PIECE: usize = 128 << 10;

enum Plain {
    Data(Vec<u8>),
    End,
}

/// Where the decoder puts what it made.
pub(super) struct PlainWriter {
    pieces: SyncSender<Plain>,
    /// Buffers that were read.
    empty: Receiver<Vec<u8>>,
}

/// The tar, digested as it passes.
pub(super) struct PlainReader {
    pieces: Receiver<Plain>,
    empty: Sender<Vec<u8>>,
    piece: Vec<u8>,
    taken: usize,
    hasher: Hasher,
    ended: bool,
}

/// Nobody reads any more.
pub(super) struct Deaf;

/// Both ends.
pub(super) fn plain(algorithm: Algorithm) -> (PlainWriter, PlainReader) {
    let (pieces, read) = sync_channel(PIECES);
    let (empty, emptied) = channel();
    let writer = PlainWriter {
        pieces,
        empty: emptied,
    };
    let reader = PlainReader {
        pieces: read,
        empty,
        piece: Vec::new(),
        taken: 0,
        hasher: Hasher::new(algorithm),
        ended: false,
    };
    (writer, reader)
}

impl PlainWriter {
    /// A buffer to fill: at most as many as are on their way ever exist.
    pub(super) fn buffer(&self) -> Vec<u8> {
        let mut buffer = self.empty.try_recv().unwrap_or_default();
        buffer.resize(PIECE, 0);
        buffer
    }

    pub(super) fn send(&self, mut buffer: Vec<u8>, filled: usize) -> Result<(), Deaf> {
        buffer.truncate(filled);
        self.pieces.send(Plain::Data(buffer)).map_err(|_| Deaf)
    }

    pub(super) fn end(self) -> Result<(), Deaf> {
        self.pieces.send(Plain::End).map_err(|_| Deaf)
    }
}

impl PlainReader {
    /// Of all that was read.
    pub(super) fn digest(self) -> Digest {
        self.hasher.finish()
    }
}

impl BufRead for PlainReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.piece.len() && !self.ended {
            self.taken = 0;
            let read = std::mem::take(&mut self.piece);
            if read.capacity() > 0 {
                // The decoder may have come to its end.
                let _ = self.empty.send(read);
            }
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
