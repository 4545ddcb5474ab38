//! gzip, zstd or nothing, told by the first bytes: media types in registries are often wrong.

use std::io::{self, BufRead, Read};

/// zstd frames may ask for a window of up to this many bytes (2^27).
const LARGEST_WINDOW_LOG: u32 = 27;

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
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            decoder.window_log_max(LARGEST_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Compression::None => Box::new(input),
    })
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

    #[test]
    fn a_window_beyond_the_limit_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&vec![1; 1 << 20]).unwrap();
        assert!(read(&encoder.finish().unwrap()).is_err());
    }
}
