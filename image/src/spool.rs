//! Content on its way, kept in a file that has no name: whatever happens, its space comes back.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use crate::blob::Blobs;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::Error;

const BUFFER: usize = 256 << 10;

/// Counts and digests what is written to it.
pub(crate) struct Spool {
    hasher: Hasher,
    size: u64,
    output: BufWriter<File>,
}

impl Spool {
    pub(crate) fn new(blobs: &Blobs) -> Result<Self, Error> {
        // Its name goes with the writer.
        let (_, file) = blobs.writer()?;
        Ok(Self {
            hasher: Hasher::new(Algorithm::Sha256),
            size: 0,
            output: BufWriter::with_capacity(BUFFER, file),
        })
    }

    /// The file, the size of its content and its digest.
    pub(crate) fn finish(self) -> io::Result<(File, u64, Digest)> {
        let file = self.output.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((file, self.size, self.hasher.finish()))
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.output.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
