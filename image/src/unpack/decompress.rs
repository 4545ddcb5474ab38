//! gzip, zstd or nothing, told by the first bytes: media types in registries are often wrong.
//!
//! A zstd decoder needs a window of memory as large as its stream says. Streams with windows over 8 MiB, which only
//! `--ultra` or `--long` make, are decoded one at a time in the whole process.

use std::io::{self, BufRead, Read};
use std::sync::{Condvar, Mutex, PoisonError};

/// zstd frames may ask for a window of up to this many bytes (2^27).
const LARGEST_WINDOW_LOG: u32 = 27;
/// What a decoder may take while others decode, too (RFC 8878, 3.1.1.1.2: what every decoder should support).
const SHARED_WINDOW: u64 = 8 << 20;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952; any number of members.
    Gzip,
    /// RFC 8878; any number of frames.
    Zstd,
    /// Not at all.
    None,
}

impl Compression {
    /// Tells from the first bytes of a stream.
    #[must_use]
    pub fn detect(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, as seekable variants of zstd begin with.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// A decompressing reader over `input`.
///
/// # Errors
/// The first bytes cannot be read, or zstd cannot be set up.
pub fn decompress<'a>(mut input: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match Compression::detect(input.fill_buf()?) {
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => {
            let large = window(input.fill_buf()?).is_none_or(|window| window > SHARED_WINDOW);
            let turn = large.then(Turn::wait);
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            decoder.window_log_max(LARGEST_WINDOW_LOG)?;
            Box::new(InTurn { decoder, _turn: turn })
        }
        Compression::None => Box::new(input),
    })
}

/// The window that the first frame asks for; `None` where it cannot be told from its first bytes, as of a skippable
/// frame.
fn window(head: &[u8]) -> Option<u64> {
    let (descriptor, rest) = head.get(4..)?.split_first()?;
    if head[0] != 0x28 {
        return None;
    }
    if descriptor & 0x20 == 0 {
        let byte = u64::from(*rest.first()?);
        let base = 1u64 << (10 + (byte >> 3));
        return Some(base + base / 8 * (byte & 7));
    }
    // A single segment: its window is its content. The size follows the dictionary's id.
    let id = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = 1usize << (descriptor >> 6);
    let mut size = [0; 8];
    size[..length].copy_from_slice(rest.get(id..id + length)?);
    let added = if length == 2 { 256 } else { 0 };
    Some(u64::from_le_bytes(size) + added)
}

/// Whether somebody has a large window.
static TAKEN: Mutex<bool> = Mutex::new(false);
static FREED: Condvar = Condvar::new();

/// The right to a large window.
struct Turn;

impl Turn {
    /// Blocks until nobody else has it.
    fn wait() -> Self {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = FREED
            .wait_while(taken, |taken| *taken)
            .unwrap_or_else(PoisonError::into_inner);
        *taken = true;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        FREED.notify_one();
    }
}

struct InTurn<R> {
    // Dropped first: its window is free when the next one's turn comes.
    decoder: R,
    _turn: Option<Turn>,
}

impl<R: Read> Read for InTurn<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        decompress(bytes)?.read_to_end(&mut plain)?;
        Ok(plain)
    }

    #[test]
    fn reads_all_members_and_frames() {
        assert_eq!(read(b"plain").unwrap(), b"plain");
        assert_eq!(read(b"").unwrap(), b"");
        assert_eq!(read(&[gzip(b"one "), gzip(b"two")].concat()).unwrap(), b"one two");
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        assert_eq!(read(&[zstd(b"one "), zstd(b"two")].concat()).unwrap(), b"one two");
    }

    #[test]
    fn a_cut_or_damaged_stream_is_an_error() {
        let mut bytes = gzip(&[7; 10_000]);
        assert!(read(&bytes[..bytes.len() - 4]).is_err());
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        assert!(read(&bytes).is_err());
        let zstd = zstd::encode_all(&[7; 10_000][..], 1).unwrap();
        assert!(read(&zstd[..zstd.len() - 2]).is_err());
    }

    /// `length` bytes in a frame with this window.
    fn with_window(log: u32, length: usize) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&vec![1; length]).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn windows_are_told_from_the_header() {
        for log in [10, 17, 23, 24, 27] {
            assert_eq!(window(&with_window(log, 100)), Some(1 << log));
        }
        for length in [0, 1, 255, 256, 300, 65_791, 65_792] {
            // A frame that knows its content before it begins is one segment.
            let frame = zstd::bulk::compress(&vec![1; length], 1).unwrap();
            assert_eq!(window(&frame), Some(length as u64));
        }
        assert_eq!(window(&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9]), None);
        assert_eq!(window(&[0x28, 0xb5, 0x2f, 0xfd]), None);
    }

    #[test]
    fn large_windows_take_turns() {
        let (large, small) = (with_window(24, 1000), with_window(20, 1000));
        let mut first = decompress(&large[..]).unwrap();
        assert_eq!(read(&small).unwrap().len(), 1000, "small ones need not wait");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| read(&large).unwrap().len());
            let mut plain = Vec::new();
            first.read_to_end(&mut plain).unwrap();
            assert!(!second.is_finished(), "it must wait for its turn");
            drop(first);
            assert_eq!(second.join().unwrap(), 1000);
        });
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused() {
        assert!(read(&with_window(28, 1 << 20)).is_err());
    }
}
