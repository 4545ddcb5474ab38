//! One stream of bytes cut into CRI log records.
//!
//! ```text
//!   <30 bytes stamp> stdout F <line>\n          a whole line, or the last piece of one
//!   <30 bytes stamp> stdout P <16384 bytes>\n   a piece of a line; more follows
//! ```
//! A line without its end is held back until the end comes, until it has more than 16 KiB, or until the stream ends; so the
//! records do not depend on how the bytes came in.

use super::stamp::STAMP_LEN;
use crate::sys::pages::Pages;

/// Longest content of one record in bytes; what containerd and CRI-O write, and kubelet reads.
pub(crate) const PIECE: usize = 16 * 1024;
/// Stamp, stream name, tag, and the spaces between.
const PREFIX_LEN: usize = STAMP_LEN + 10;
/// Longest record in bytes.
pub(crate) const RECORD_MAX: usize = PREFIX_LEN + PIECE + 1;

/// Position of the tag in the prefix.
const TAG: usize = PREFIX_LEN - 2;

/// Where records go.
pub(crate) trait Output {
    /// Room for a record of `length` bytes, at most [`RECORD_MAX`]; none when what is there must be written first.
    fn room(&mut self, length: usize) -> Option<&mut [u8]>;
}

/// One stream on its way into records.
#[derive(Debug)]
pub(crate) struct Lines {
    prefix: [u8; PREFIX_LEN],
    held: Pages,
    held_len: usize,
    /// Pieces of the current line are already out.
    continued: bool,
}

impl Lines {
    /// A stream of that name, ` stdout ` or ` stderr `, with nothing in it.
    pub(crate) fn new(name: &[u8; 8]) -> Lines {
        let mut prefix = [b' '; PREFIX_LEN];
        prefix[STAMP_LEN..STAMP_LEN + 8].copy_from_slice(name);
        // A stream of short lines never uses more than the first page.
        Lines {
            prefix,
            held: Pages::new(PIECE),
            held_len: 0,
            continued: false,
        }
    }

    /// The bytes of a line whose end has not come yet, and whether pieces of it are out.
    pub(crate) fn unfinished(&self) -> (&[u8], bool) {
        (&self.held[..self.held_len], self.continued)
    }

    /// Takes up a stream where another supervisor image left it; bytes beyond a piece are cut off.
    pub(crate) fn resume(&mut self, held: &[u8], continued: bool) {
        let held = &held[..held.len().min(PIECE)];
        self.held[..held.len()].copy_from_slice(held);
        self.held_len = held.len();
        self.continued = continued;
    }

    /// Whether the records so far end with the end of a line.
    pub(crate) fn at_line_boundary(&self) -> bool {
        !self.continued
    }

    /// Puts the held bytes right before `buffer[PIECE..]`, where the next read goes, and says where they begin.
    pub(crate) fn unhold(&mut self, buffer: &mut [u8]) -> usize {
        let start = PIECE - self.held_len;
        buffer[start..PIECE].copy_from_slice(&self.held[..self.held_len]);
        start
    }

    /// Cuts `data`, whose first `known` bytes have no line end, and holds back the rest. Where the output had no more
    /// room it stops and says where: what follows is to be cut again, and nothing is held back.
    pub(crate) fn cut(
        &mut self,
        data: &[u8],
        known: usize,
        stamp: &[u8; STAMP_LEN],
        out: &mut impl Output,
    ) -> Cut {
        self.prefix[..STAMP_LEN].copy_from_slice(stamp);
        let (mut done, mut known) = (0, known);
        loop {
            let rest = &data[done..];
            let window = &rest[known..rest.len().min(PIECE + 1)];
            let (tag, content, after) = if let Some(end) = memchr::memchr(b'\n', window) {
                (b'F', known + end, known + end + 1)
            } else if rest.len() > PIECE {
                (b'P', PIECE, PIECE)
            } else {
                break;
            };
            if !write_record(&mut self.prefix, tag, &rest[..content], out) {
                self.held_len = 0;
                return Cut::NoRoom { at: done };
            }
            self.continued = tag == b'P';
            done += after;
            known = 0;
        }
        let rest = &data[done..];
        self.held[..rest.len()].copy_from_slice(rest);
        self.held_len = rest.len();
        Cut::All
    }

    /// Drops what is held back; returns how much that was.
    pub(crate) fn forget(&mut self) -> usize {
        std::mem::take(&mut self.held_len)
    }

    /// The stream has ended: what is held back goes out as a piece. The output must be empty.
    pub(crate) fn end(&mut self, stamp: &[u8; STAMP_LEN], out: &mut impl Output) {
        self.prefix[..STAMP_LEN].copy_from_slice(stamp);
        if self.held_len > 0 {
            let written = write_record(&mut self.prefix, b'P', &self.held[..self.held_len], out);
            debug_assert!(written, "an empty output has room for a record");
        }
        self.held_len = 0;
        self.continued = false;
    }
}

/// How far a cut came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// All is in records, or held back.
    All,
    /// What begins there found no room.
    NoRoom { at: usize },
}

fn write_record(prefix: &mut [u8; PREFIX_LEN], tag: u8, content: &[u8], out: &mut impl Output) -> bool {
    let Some(record) = out.room(PREFIX_LEN + content.len() + 1) else {
        return false;
    };
    prefix[TAG] = tag;
    let (head, rest) = record.split_at_mut(PREFIX_LEN);
    head.copy_from_slice(prefix);
    let (middle, end) = rest.split_at_mut(content.len());
    middle.copy_from_slice(content);
    end.copy_from_slice(b"\n");
    true
}

#[cfg(test)]
mod tests {
    use super::super::replay::parse;
    use super::*;
    use proptest::prelude::*;

    impl Output for Vec<u8> {
        fn room(&mut self, length: usize) -> Option<&mut [u8]> {
            let start = self.len();
            self.resize(start + length, 0);
            Some(&mut self[start..])
        }
    }

    const STAMP: &[u8; STAMP_LEN] = b"2026-11-20T18:10:00.123456789Z";

    fn encode(chunks: &[&[u8]]) -> Vec<u8> {
        let mut lines = Lines::new(b" stdout ");
        let mut log = Vec::new();
        let mut buffer = vec![0; PIECE + 70_000];
        for chunk in chunks {
            let start = lines.unhold(&mut buffer);
            buffer[PIECE..PIECE + chunk.len()].copy_from_slice(chunk);
            lines.cut(
                &buffer[start..PIECE + chunk.len()],
                PIECE - start,
                STAMP,
                &mut log,
            );
        }
        lines.end(STAMP, &mut log);
        log
    }

    #[test]
    fn a_line_a_piece_and_a_tail() {
        assert_eq!(
            encode(&[b"hello\n"]),
            b"2026-11-20T18:10:00.123456789Z stdout F hello\n"
        );
        assert_eq!(encode(&[b"\n"]), b"2026-11-20T18:10:00.123456789Z stdout F \n");
        assert_eq!(
            encode(&[b"hel", b"lo"]),
            b"2026-11-20T18:10:00.123456789Z stdout P hello\n"
        );
        assert_eq!(encode(&[]), b"");
    }

    #[test]
    fn a_line_of_exactly_a_piece_is_whole_and_one_byte_more_is_cut() {
        let tags = |line: &[u8]| -> Vec<u8> {
            encode(&[line])
                .split(|c| *c == b'\n')
                .filter(|r| !r.is_empty())
                .map(|r| r[TAG])
                .collect()
        };
        let mut line = vec![b'x'; PIECE];
        line.push(b'\n');
        assert_eq!(tags(&line), b"F");
        line.insert(0, b'x');
        assert_eq!(tags(&line), b"PF");
    }

    /// Text with lines of all lengths around the interesting ones.
    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            4 => 0..200usize,
            1 => PIECE - 2..PIECE + 3,
            1 => 2 * PIECE - 2..2 * PIECE + 3,
        ];
        proptest::collection::vec((line, any::<u8>(), any::<bool>()), 0..12).prop_map(|lines| {
            let mut bytes = Vec::new();
            for (length, byte, ended) in lines {
                bytes.extend(std::iter::repeat_n(
                    if byte == b'\n' { b'n' } else { byte },
                    length,
                ));
                bytes.extend(ended.then_some(b'\n'));
            }
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_is_parsed_is_what_was_written_however_it_came(
            bytes in streams(),
            cuts in proptest::collection::vec(1..70_000usize, 0..20),
        ) {
            let whole: Vec<&[u8]> = bytes.chunks(65_536).collect();
            let log = encode(&whole);
            prop_assert_eq!(parse(&log, "stdout"), bytes.clone());
            let mut rest = &bytes[..];
            let mut chunks = Vec::new();
            for cut in cuts {
                let (chunk, after) = rest.split_at(cut.min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            chunks.extend(rest.chunks(65_536));
            prop_assert_eq!(encode(&chunks), log);
        }
    }
}
