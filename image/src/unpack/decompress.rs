//! gzip, zstd or nothing, told by the first bytes: media types in registries are often wrong.
//!
//! A zstd decoder needs a window of memory as large as its frames say: the caller says what it may have.

use std::io::{self, BufRead, Read};

/// zstd frames may never ask for a window of more than 2^27 bytes.
pub const LARGEST_WINDOW_LOG: u32 = 27;

/// A zstd frame wants a window larger than was granted.
#[derive(Debug, thiserror::Error)]
#[error("a zstd window of more than 2^{granted} bytes")]
pub struct WindowTooLarge {
    granted: u32,
}

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

/// A decompressing reader over `input`. Of a zstd stream, `grant` is told the window that its first frame asks for, if it
/// can be told, and says how large (2^n bytes) the windows of all its frames may be.
///
/// # Errors
/// The first bytes cannot be read, zstd cannot be set up; or, on reading too, an error of which [`is_too_large`] knows.
pub fn decompress<'a>(
    mut input: impl BufRead + Send + 'a,
    grant: impl FnOnce(Option<u64>) -> u32,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match Compression::detect(input.fill_buf()?) {
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => {
            let first = window(input.fill_buf()?);
            let granted = grant(first).min(LARGEST_WINDOW_LOG);
            if first.is_some_and(|first| first > 1 << granted) {
                return Err(io::Error::other(WindowTooLarge { granted }));
            }
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            decoder.window_log_max(granted)?;
            Box::new(Granted { decoder, granted })
        }
        Compression::None => Box::new(input),
    })
}

/// Whether decompressing failed because of a window larger than was granted.
#[must_use]
pub fn is_too_large(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<WindowTooLarge>())
}

/// Tells a window that was not granted from damage.
struct Granted<R> {
    decoder: R,
    granted: u32,
}

impl<R: Read> Read for Granted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer).map_err(|error| {
            // All that zstd's binding gives is its text (ZSTD_error_frameParameter_windowTooLarge).
            if error.to_string() == "Frame requires too much memory for decoding" {
                return io::Error::other(WindowTooLarge {
                    granted: self.granted,
                });
            }
            error
        })
    }
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
        decompress(bytes, |_| LARGEST_WINDOW_LOG)?.read_to_end(&mut plain)?;
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
    fn windows_are_granted() {
        let (large, small) = (with_window(24, 1 << 20), with_window(20, 1000));
        let read = |bytes: &[u8]| {
            let mut told = None;
            let mut plain = Vec::new();
            let reader = decompress(bytes, |first| {
                told = Some(first);
                23
            });
            let outcome = reader.and_then(|mut reader| reader.read_to_end(&mut plain));
            (told, outcome.map_err(|error| is_too_large(&error)))
        };
        assert_eq!(read(&large), (Some(Some(1 << 24)), Err(true)));
        assert_eq!(read(&small), (Some(Some(1 << 20)), Ok(1000)));
        // A later frame is no way around it.
        assert_eq!(read(&[small, large].concat()).1, Err(true));
        assert_eq!(read(&gzip(b"x")), (None, Ok(1)));
        assert_eq!(read(&[0x28, 0xb5, 0x2f, 0xfd, 0xff]).1, Err(false));
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused() {
        assert!(read(&with_window(28, 1 << 20)).is_err());
    }
}
