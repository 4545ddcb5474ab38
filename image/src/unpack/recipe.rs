//! How to put a layer's tar together again from its unpacked files.
//!
//! Compressed layers are dropped after unpacking, but an image must stay exportable, with the
//! very digests its configuration names. A directory does not determine a tar (order, padding,
//! user names, extension headers), so what is not file content is kept: a few bytes per file
//! after compression. Replaying a recipe also proves that the files of a layer are unharmed: the
//! digest of the result must be the layer's diff id.
//!
//! ```text
//!   zstd( { 0, varint length, bytes                             structure
//!         | 1, varint length, path, varint n, n × (offset, length) content of a file } * )
//! ```
//!
//! A file that a later entry of the same archive replaced cannot be replayed; the digest tells.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::path::EntryPath;
use super::root::Root;
use super::tar::{Segment, Structure};

const STRUCTURE: u8 = 0;
const CONTENT: u8 = 1;
/// Structure is collected up to here before it is written.
const CHUNK: usize = 64 << 10;
/// A recipe with more structure than this is given up: the archive is mostly headers.
const LARGEST: u64 = 2 << 30;

/// Writes a recipe while an archive is unpacked.
pub struct RecipeWriter {
    output: Option<zstd::Encoder<'static, BufWriter<File>>>,
    pending: Vec<u8>,
    written: u64,
    failure: Option<io::Error>,
}

impl std::fmt::Debug for RecipeWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecipeWriter")
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

impl RecipeWriter {
    /// Starts a recipe in a new file.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let output = zstd::Encoder::new(BufWriter::new(File::create_new(path)?), 1)?;
        Ok(Self {
            output: Some(output),
            pending: Vec::new(),
            written: 0,
            failure: None,
        })
    }

    /// The next payload of the archive went to this file.
    pub fn file(&mut self, path: &EntryPath, segments: &[Segment]) {
        if self.output.is_none() || segments.iter().all(|segment| segment.length == 0) {
            return;
        }
        self.flush_structure();
        let mut record = vec![CONTENT];
        varint(&mut record, path.as_bytes().len() as u64);
        record.extend_from_slice(path.as_bytes());
        varint(&mut record, segments.len() as u64);
        for segment in segments {
            varint(&mut record, segment.offset);
            varint(&mut record, segment.length);
        }
        self.write(&record);
    }

    /// Completes the file.
    ///
    /// # Errors
    /// What went wrong at any time since the start.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush_structure();
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        match self.output.take() {
            Some(output) => output.finish()?.flush(),
            None => Ok(()),
        }
    }

    fn flush_structure(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let mut record = vec![STRUCTURE];
        varint(&mut record, self.pending.len() as u64);
        self.write(&record);
        let pending = std::mem::take(&mut self.pending);
        self.write(&pending);
        self.pending = pending;
        self.pending.clear();
    }

    fn write(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        if self.written > LARGEST {
            self.output = None;
        }
        if let Some(output) = &mut self.output
            && let Err(error) = output.write_all(bytes)
        {
            self.failure.get_or_insert(error);
            self.output = None;
        }
    }
}

impl Structure for RecipeWriter {
    fn structure(&mut self, bytes: &[u8]) {
        if self.output.is_none() {
            return;
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= CHUNK {
            self.flush_structure();
        }
    }
}

/// The size of the tar that a recipe makes.
///
/// # Errors
/// A missing or damaged recipe.
pub fn size(recipe: &Path) -> io::Result<u64> {
    let mut reader = RecipeReader::open(recipe)?;
    let mut size = 0;
    while let Some(step) = reader.step()? {
        size += match step {
            Step::Structure(length) => {
                copy_exactly(&mut reader.input, length, &mut io::sink())?;
                length
            }
            Step::Content { segments, .. } => segments.iter().map(|segment| segment.length).sum(),
        };
    }
    Ok(size)
}

/// Writes the tar of the layer with this tree to `output`.
///
/// # Errors
/// A missing or damaged recipe or file. That the bytes are the right ones, only their digest
/// tells.
pub fn replay(recipe: &Path, root: &mut Root, output: &mut impl Write) -> io::Result<()> {
    let mut reader = RecipeReader::open(recipe)?;
    while let Some(step) = reader.step()? {
        match step {
            Step::Structure(length) => copy_exactly(&mut reader.input, length, output)?,
            Step::Content { path, segments } => {
                let mut file = &open_file(root, &path)?;
                for segment in segments {
                    file.seek(io::SeekFrom::Start(segment.offset))?;
                    copy_exactly(&mut file, segment.length, output)?;
                }
            }
        }
    }
    Ok(())
}

/// The parent may be a symlink, as it was when the file was written; the file may not.
fn open_file(root: &mut Root, path: &EntryPath) -> io::Result<File> {
    let (parent, name) = path.split().ok_or(io::ErrorKind::InvalidData)?;
    let parent = root.directory(&parent)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(parent.as_fd(), name, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

enum Step {
    /// So many bytes follow in the reader.
    Structure(u64),
    Content {
        path: EntryPath,
        segments: Vec<Segment>,
    },
}

struct RecipeReader {
    input: BufReader<zstd::Decoder<'static, BufReader<File>>>,
}

impl RecipeReader {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            input: BufReader::with_capacity(CHUNK, zstd::Decoder::new(File::open(path)?)?),
        })
    }

    fn step(&mut self) -> io::Result<Option<Step>> {
        let mut kind = [0];
        if self.input.read(&mut kind)? == 0 {
            return Ok(None);
        }
        let length = read_varint(&mut self.input)?;
        match kind[0] {
            STRUCTURE => Ok(Some(Step::Structure(length))),
            CONTENT => {
                let mut path = Vec::new();
                (&mut self.input).take(length).read_to_end(&mut path)?;
                let path = EntryPath::parse(&path).map_err(|_| io::ErrorKind::InvalidData)?;
                let mut segments = Vec::new();
                for _ in 0..read_varint(&mut self.input)? {
                    let (offset, length) = (read_varint(&mut self.input)?, read_varint(&mut self.input)?);
                    segments.push(Segment { offset, length });
                }
                Ok(Some(Step::Content { path, segments }))
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn copy_exactly(from: &mut impl Read, length: u64, to: &mut impl Write) -> io::Result<()> {
    let copied = io::copy(&mut from.take(length), to)?;
    if copied == length {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// LEB128.
fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn read_varint(input: &mut impl Read) -> io::Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}
