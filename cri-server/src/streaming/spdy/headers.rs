//! Header blocks: names and values, compressed with one zlib stream per direction (SPDY protocol 3, section 2.6.10).
//!
//! A block is a count, then for each header a length, the name, a length, the value. Both directions begin with
//! a dictionary that both sides know, so that even the first block is small.

use std::sync::LazyLock;

use bytes::{Buf, Bytes};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frame::FrameError;

/// Most headers of one block.
pub const MAX_HEADERS: usize = 256;
/// Most bytes of one inflated block.
pub const MAX_INFLATED: usize = 64 << 10;

/// The headers of a stream, in the order of the block; names are lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Headers of our own; names are lower case already.
    pub fn new(pairs: &[(&str, &str)]) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self(pairs.iter().map(own).collect())
    }

    /// The value of a header; with several values, the first.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        value.split('\0').next()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn parse(mut block: Bytes) -> Result<Self, FrameError> {
        let count = number(&mut block)?;
        if count > MAX_HEADERS {
            return Err(FrameError::TooManyHeaders(count));
        }
        // The count is the peer's word; what is there decides how much is made room for.
        let mut all = Vec::new();
        for _ in 0..count {
            let name = text(&mut block)?;
            let value = text(&mut block)?;
            if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return Err(FrameError::HeaderName);
            }
            if all.iter().any(|(known, _): &(String, String)| *known == name) {
                return Err(FrameError::HeaderTwice);
            }
            all.push((name, value));
        }
        match block.is_empty() {
            true => Ok(Self(all)),
            false => Err(FrameError::HeaderBlock),
        }
    }

    fn block(&self) -> Vec<u8> {
        let mut block = length(self.0.len()).to_vec();
        for part in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend(length(part.len()));
            block.extend(part.as_bytes());
        }
        block
    }
}

fn length(length: usize) -> [u8; 4] {
    // Our own headers are a few words.
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

fn number(block: &mut Bytes) -> Result<usize, FrameError> {
    let number = block.try_get_u32().map_err(|_| FrameError::HeaderBlock)?;
    usize::try_from(number).map_err(|_| FrameError::HeaderBlock)
}

fn text(block: &mut Bytes) -> Result<String, FrameError> {
    let length = number(block)?;
    if length > block.len() {
        return Err(FrameError::HeaderBlock);
    }
    let bytes = block.split_to(length);
    // What is no text cannot be a value that any protocol here knows; it must not end the session of a peer either.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The peer's direction.
pub struct Inflater(Decompress);

impl Inflater {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The headers of the next block. After an error the stream is lost for good.
    ///
    /// # Errors
    /// [`FrameError`] for what is not compressed so, is too long, or is no list of headers.
    pub fn headers(&mut self, compressed: &[u8]) -> Result<Headers, FrameError> {
        let mut rest = compressed;
        let mut block = Vec::with_capacity(4096);
        loop {
            let (read, written) = (self.0.total_in(), block.len());
            match self.0.decompress_vec(rest, &mut block, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(FrameError::Compression),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    // The header that names the dictionary has been read.
                    rest = advanced(rest, self.0.total_in() - read);
                    self.0
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| FrameError::Compression)?;
                    continue;
                }
                Err(_) => return Err(FrameError::Compression),
            }
            let progress = self.0.total_in() - read;
            rest = advanced(rest, progress);
            if block.len() > MAX_INFLATED {
                return Err(FrameError::TooLong);
            }
            if block.len() == block.capacity() {
                block.reserve(block.len().min(MAX_INFLATED + 1 - block.len()).max(1));
            } else if rest.is_empty() {
                return Headers::parse(block.into());
            } else if progress == 0 && block.len() == written {
                return Err(FrameError::Compression);
            }
        }
    }
}

fn advanced(bytes: &[u8], count: u64) -> &[u8] {
    &bytes[usize::try_from(count).map_or(bytes.len(), |count| count.min(bytes.len()))..]
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

/// Our direction.
pub struct Deflater(Compress);

impl Deflater {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        let mut stream = Compress::new(Compression::fast(), true);
        // Refused only when something was compressed before.
        let _ = stream.set_dictionary(&DICTIONARY);
        Self(stream)
    }

    /// The next block.
    pub fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let block = headers.block();
        let mut compressed = Vec::with_capacity(block.len() + 64);
        let start = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - start).unwrap_or(block.len());
            let outcome = self
                .0
                .compress_vec(&block[done..], &mut compressed, FlushCompress::Sync);
            let all = self.0.total_in() - start == block.len() as u64;
            // Room that is left says that the flush is through.
            if outcome.is_err() || (all && compressed.len() < compressed.capacity()) {
                return compressed;
            }
            compressed.reserve(256);
        }
    }
}

impl Default for Deflater {
    fn default() -> Self {
        Self::new()
    }
}

/// The dictionary of SPDY protocol 3, section 2.6.10.1: words with their lengths before them, as they stand in a
/// block, then words that stand in values.
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        let word = word.replace('_', " ");
        dictionary.extend(length(word.len()));
        dictionary.extend(word.as_bytes());
    }
    dictionary.extend(TAIL.as_bytes());
    dictionary
});

/// Words with a length; `_` stands for a space within one.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
    accept-language accept-ranges age allow authorization cache-control connection content-base content-encoding \
    content-language content-length content-location content-md5 content-range content-type date etag expect \
    expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location \
    max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer \
    transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 \
    url public set-cookie keep-alive origin";

/// Words without.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
    Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
    charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_that_peers_name() {
        assert_eq!(DICTIONARY.len(), 1423);
        // The number by which a zlib stream asks for it (RFC 1950, FDICT): its Adler-32.
        let mut stream = Compress::new(Compression::fast(), true);
        assert_eq!(stream.set_dictionary(&DICTIONARY).expect("fresh"), 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_follow_each_other_through_one_stream() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let long = "x".repeat(20_000);
        for headers in [
            Headers::new(&[("streamtype", "error")]),
            Headers::new(&[("streamtype", "data"), ("port", "8080"), ("requestid", "0")]),
            Headers::default(),
            Headers::new(&[("long", &long)]),
        ] {
            let block = deflater.block(&headers);
            assert_eq!(inflater.headers(&block).expect("our own block"), headers);
        }
    }

    #[test]
    fn a_block_that_explodes_is_refused() {
        let long = "a".repeat(MAX_INFLATED);
        let block = Deflater::new().block(&Headers::new(&[("n", &long)]));
        assert!(block.len() < 2000, "it is small on the wire");
        assert_eq!(Inflater::new().headers(&block), Err(FrameError::TooLong));
    }

    #[test]
    fn counts_and_lengths_are_not_believed() {
        let inflate = |block: &[u8]| {
            let mut stream = Deflater::new().0;
            let mut compressed = Vec::with_capacity(8192);
            stream
                .compress_vec(block, &mut compressed, FlushCompress::Sync)
                .expect("it compresses");
            Inflater::new().headers(&compressed)
        };
        assert_eq!(inflate(&[0, 0, 1, 1]), Err(FrameError::TooManyHeaders(257)));
        assert_eq!(inflate(&[0, 0, 0, 1]), Err(FrameError::HeaderBlock));
        assert_eq!(
            inflate(&[0, 0, 0, 1, 255, 255, 255, 255, 0]),
            Err(FrameError::HeaderBlock)
        );
        assert_eq!(
            inflate(&[0, 0, 0, 1, 0, 0, 0, 1, b'A', 0, 0, 0, 0]),
            Err(FrameError::HeaderName)
        );
        assert_eq!(
            inflate(&[0, 0, 0, 0, 7]),
            Err(FrameError::HeaderBlock),
            "bytes behind the last"
        );
        let twice = [0, 0, 0, 1, b'a', 0, 0, 0, 0].repeat(2);
        assert_eq!(
            inflate(&[&[0, 0, 0, 2][..], &twice].concat()),
            Err(FrameError::HeaderTwice)
        );
    }

    #[test]
    fn what_is_not_compressed_is_refused() {
        assert_eq!(
            Inflater::new().headers(b"GET / HTTP/1.1"),
            Err(FrameError::Compression)
        );
        assert_eq!(Inflater::new().headers(b""), Err(FrameError::HeaderBlock));
    }
}
