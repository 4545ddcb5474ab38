//! Reads the entries of a tar stream: ustar, GNU (long names, base-256 numbers, sparse files)
//! and PAX.
//!
//! Written for hostile input, so of several readings of a malformed stream none is chosen: it
//! is refused. The reader also reports which bytes of the stream are structure (headers,
//! padding, the end), so that a [recipe](super::recipe) can put the stream together
//! again from the unpacked files.

use std::io::{self, BufRead};

use super::header::{BLOCK, Header};
use super::pax::{self, Overrides};
use super::sparse::check_map;

/// The largest extended header or long name.
const LARGEST_EXTENSION: u64 = 1 << 20;

/// Why a stream is no (acceptable) tar.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream could not be read.
    #[error("reading the archive: {0}")]
    Read(#[from] io::Error),
    /// It ends inside an entry.
    #[error("the archive ends in the middle of an entry")]
    Truncated,
    /// A header's checksum is wrong.
    #[error("a tar header has a wrong checksum")]
    Checksum,
    /// A number is malformed or out of range.
    #[error("a tar header has a malformed {field}")]
    Number {
        /// Which field.
        field: &'static str,
    },
    /// A PAX record is malformed.
    #[error("a PAX extended header is malformed")]
    Pax,
    /// A global header would change entries.
    #[error("a global PAX header overrides entries")]
    GlobalOverride,
    /// An extended header or long name is too large.
    #[error("an extended tar header of {0} bytes")]
    LargeExtension(u64),
    /// Two headers extend the same entry in the same way, or none follows.
    #[error("contradicting tar extension headers")]
    Contradiction,
    /// An entry type that is not handled.
    #[error("a tar entry of type {:?}", char::from(*.0))]
    UnknownKind(u8),
    /// A sparse map is out of order, too long, or does not fit its file.
    #[error("a malformed sparse map")]
    SparseMap,
    /// A regular file named like a directory: readers disagree about what it is.
    #[error("a regular file whose name ends in a slash")]
    FileNamedAsDirectory,
}

/// One entry, with all extensions applied.
#[derive(Debug)]
pub struct Entry {
    /// As written: not cleaned, not trusted.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, up to `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// Extended attributes, names with their namespace.
    pub xattrs: Vec<Xattr>,
}

/// Name (with its namespace) and value of an extended attribute.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// The kinds of entry; only files have a payload.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Its apparent size in bytes.
        size: u64,
        /// Where its data goes; one segment unless it is sparse.
        segments: Vec<Segment>,
    },
    /// A directory.
    Directory,
    /// A symbolic link to this.
    Symlink(Vec<u8>),
    /// Another name of this path of the archive.
    HardLink(Vec<u8>),
    /// A character device.
    Character(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// A run of data inside a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// Is told the bytes that are not file content, in stream order.
pub trait Structure {
    /// The next bytes of structure.
    fn structure(&mut self, bytes: &[u8]);
}

/// For readers who do not care.
impl Structure for () {
    fn structure(&mut self, _: &[u8]) {}
}

/// Reads entry by entry; the payload of the current one through [`TarReader::payload`].
#[derive(Debug)]
pub struct TarReader<R, S> {
    source: R,
    /// Told about everything but payloads that were taken.
    pub structure: S,
    /// Payload of the current entry not yet taken.
    pub(super) payload: u64,
    padding: u64,
    position: u64,
}

#[derive(Default)]
struct Extensions {
    pax: Option<Overrides>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: BufRead, S: Structure> TarReader<R, S> {
    /// Starts reading.
    pub fn new(source: R, structure: S) -> Self {
        Self {
            source,
            structure,
            payload: 0,
            padding: 0,
            position: 0,
        }
    }

    /// Bytes of the stream read so far; after [`TarReader::next_entry`], where its payload starts.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next entry, or `None` at the end of the archive. What was not taken of the last
    /// payload is skipped.
    ///
    /// # Errors
    /// [`TarError`]; the reader is of no use then.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest()?;
            let Some(block) = self.header_block()? else {
                let dangling =
                    extensions.pax.is_some() || extensions.name.is_some() || extensions.link.is_some();
                return if dangling {
                    Err(TarError::Contradiction)
                } else {
                    Ok(None)
                };
            };
            let header = Header::parse(&block)?;
            match header.kind() {
                b'x' => once(&mut extensions.pax, Overrides::parse(&self.extension(&header)?)?)?,
                b'g' => Overrides::check_global(&self.extension(&header)?)?,
                b'L' => once(&mut extensions.name, long_name(self.extension(&header)?)?)?,
                b'K' => once(&mut extensions.link, long_name(self.extension(&header)?)?)?,
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// The next piece of the current payload, empty at its end. The caller must say with
    /// [`TarReader::consume`] how much of it was taken.
    ///
    /// # Errors
    /// The stream cannot be read or ends too early.
    pub fn payload(&mut self) -> Result<&[u8], TarError> {
        if self.payload == 0 {
            return Ok(&[]);
        }
        let available = self.source.fill_buf()?;
        if available.is_empty() {
            return Err(TarError::Truncated);
        }
        let take = available
            .len()
            .min(usize::try_from(self.payload).unwrap_or(usize::MAX));
        Ok(&available[..take])
    }

    /// Takes `count` bytes off the payload.
    pub fn consume(&mut self, count: usize) {
        self.source.consume(count);
        self.payload -= count as u64;
        self.position += count as u64;
    }

    /// Reads what follows the end of the archive, to the end of the stream.
    ///
    /// # Errors
    /// The stream cannot be read.
    pub fn drain(&mut self) -> Result<(), TarError> {
        loop {
            let available = self.source.fill_buf()?;
            if available.is_empty() {
                return Ok(());
            }
            self.structure.structure(available);
            let count = available.len();
            self.source.consume(count);
            self.position += count as u64;
        }
    }

    /// The next header; `None` at two zero blocks, or where the stream ends between entries.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        if self.source.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let block = self.block()?;
        if block.iter().any(|b| *b != 0) {
            return Ok(Some(block));
        }
        if self.source.fill_buf()?.is_empty() || self.block()?.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        Err(TarError::Checksum)
    }

    pub(super) fn block(&mut self) -> Result<[u8; BLOCK], TarError> {
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        Ok(block)
    }

    /// Reads structure.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        self.source
            .read_exact(buffer)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => TarError::Truncated,
                _ => TarError::Read(error),
            })?;
        self.position += buffer.len() as u64;
        self.structure.structure(buffer);
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let mut left = std::mem::take(&mut self.payload) + std::mem::take(&mut self.padding);
        while left > 0 {
            let available = self.source.fill_buf()?;
            if available.is_empty() {
                return Err(TarError::Truncated);
            }
            let take = available.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.structure.structure(&available[..take]);
            self.source.consume(take);
            self.position += take as u64;
            left -= take as u64;
        }
        Ok(())
    }

    fn extension(&mut self, header: &Header<'_>) -> Result<Vec<u8>, TarError> {
        let size = header.size()?;
        if size > LARGEST_EXTENSION {
            return Err(TarError::LargeExtension(size));
        }
        let mut bytes = vec![0; size as usize];
        self.fill(&mut bytes)?;
        self.padding = padding_of(size);
        Ok(bytes)
    }

    fn entry(&mut self, header: &Header<'_>, extensions: Extensions) -> Result<Entry, TarError> {
        let pax = extensions.pax.unwrap_or_default();
        if pax.path.is_some() && extensions.name.is_some() || pax.link.is_some() && extensions.link.is_some()
        {
            return Err(TarError::Contradiction);
        }
        let sparse_name = pax.sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let path = sparse_name
            .or(pax.path.clone())
            .or(extensions.name)
            .unwrap_or_else(|| header.name());
        let link = || {
            pax.link
                .clone()
                .or(extensions.link)
                .unwrap_or_else(|| header.link())
        };
        let kind = match header.kind() {
            b'\0' if path.ends_with(b"/") => Kind::Directory,
            b'0' | b'7' if path.ends_with(b"/") => return Err(TarError::FileNamedAsDirectory),
            // A PAX size always wins: a reader that took the other would see other entries.
            b'\0' | b'0' | b'7' => {
                self.file(pax.size.map_or_else(|| header.size(), Ok)?, pax.sparse.as_ref())?
            }
            b'S' => self.gnu_sparse(header, pax.size)?,
            b'1' => Kind::HardLink(link()),
            b'2' => Kind::Symlink(link()),
            b'3' => header
                .device()
                .map(|(major, minor)| Kind::Character(major, minor))?,
            b'4' => header.device().map(|(major, minor)| Kind::Block(major, minor))?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(TarError::UnknownKind(other)),
        };
        Ok(Entry {
            path,
            kind,
            mode: header.mode()?,
            uid: pax.uid.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: match pax.mtime {
                Some(time) => time,
                None => (header.mtime()?, 0),
            },
            xattrs: pax.xattrs,
        })
    }

    fn file(&mut self, stored: u64, sparse: Option<&pax::Sparse>) -> Result<Kind, TarError> {
        self.expect_payload(stored);
        let Some(sparse) = sparse else {
            return Ok(Kind::File {
                size: stored,
                segments: vec![Segment {
                    offset: 0,
                    length: stored,
                }],
            });
        };
        let numbers = if sparse.map_in_data {
            self.sparse_map_in_data()?
        } else {
            sparse.numbers.clone()
        };
        let size = sparse.real_size.ok_or(TarError::SparseMap)?;
        if numbers.len() % 2 != 0 {
            return Err(TarError::SparseMap);
        }
        let pairs = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        Ok(Kind::File {
            size,
            segments: check_map(pairs, size, self.payload)?,
        })
    }

    pub(super) fn expect_payload(&mut self, size: u64) {
        self.payload = size;
        self.padding = padding_of(size);
    }
}

fn padding_of(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), TarError> {
    if slot.replace(value).is_some() {
        Err(TarError::Contradiction)
    } else {
        Ok(())
    }
}

fn long_name(mut bytes: Vec<u8>) -> Result<Vec<u8>, TarError> {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    if bytes.is_empty() || bytes.contains(&0) {
        Err(TarError::Contradiction)
    } else {
        Ok(bytes)
    }
}
