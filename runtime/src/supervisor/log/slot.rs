//! One container's part of the log writer: its streams and its file.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::file::LogFile;
use super::line::{Lines, Output, PIECE, RECORD_MAX};
use super::stamp::Stamp;
use super::tap::Taps;
use crate::protocol::UnixNanos;
use crate::sys::pages::Pages;

/// Bytes asked for in one read: the capacity of a pipe.
const READ: usize = 64 * 1024;
/// Room for records, to be written at once: a full read of lines of a hundred bytes, with their prefixes.
const BATCH: usize = 128 * 1024;

/// Which of a container's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamName {
    Stdout,
    Stderr,
}

/// What a container's log is made of. Made by the control thread and lent to the writer.
#[derive(Debug)]
pub(crate) struct LogSlot {
    /// The container's key in the control thread's table.
    pub(crate) key: u32,
    sources: [Source; 2],
    pub(crate) file: LogFile,
    pub(crate) stamp: Stamp,
}

/// A stream. Its memory stays when it has ended: the control thread frees it, with the slot.
#[derive(Debug)]
pub(crate) struct Source {
    /// A pipe's read end or a pty's master, non-blocking; none when the stream has ended.
    fd: Option<OwnedFd>,
    lines: Lines,
    taps: Taps,
}

/// The writer's buffers, one set for all containers.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// Room for held bytes, then for one read.
    input: Pages,
    batch: Pages,
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// Bytes; there may be more.
    Bytes,
    /// Nothing for now.
    Empty,
    /// The stream has ended; it is for the caller to [`end`](LogSlot::end) it.
    Ended,
}

impl StreamName {
    pub(crate) const ALL: [StreamName; 2] = [StreamName::Stdout, StreamName::Stderr];

    fn label(self) -> &'static [u8; 8] {
        match self {
            StreamName::Stdout => b" stdout ",
            StreamName::Stderr => b" stderr ",
        }
    }
}

impl Source {
    /// A stream with nothing in it yet.
    pub(crate) fn new(name: StreamName, fd: Option<OwnedFd>) -> Source {
        Source {
            fd,
            lines: Lines::new(name.label()),
            taps: Taps::default(),
        }
    }

    /// Its descriptor, the bytes of its unfinished line, and whether pieces of that line are out.
    pub(crate) fn parts(&self) -> (Option<&OwnedFd>, &[u8], bool) {
        let (held, continued) = self.lines.unfinished();
        (self.fd.as_ref(), held, continued)
    }

    /// Who listens to it.
    pub(crate) fn taps(&self) -> &Taps {
        &self.taps
    }

    pub(crate) fn taps_mut(&mut self) -> &mut Taps {
        &mut self.taps
    }

    /// Takes up an unfinished line.
    pub(crate) fn resume(&mut self, held: &[u8], continued: bool) {
        self.lines.resume(held, continued);
    }
}

impl Buffers {
    pub(crate) fn new() -> Buffers {
        Buffers {
            input: Pages::new(PIECE + READ),
            batch: Pages::new(BATCH),
        }
    }

    /// Gives their memory back until the next read. Nothing is in them between two reads.
    pub(crate) fn release(&mut self) {
        self.input.release();
        self.batch.release();
    }
}

impl LogSlot {
    /// A container's streams and its file.
    pub(crate) fn new(key: u32, stdout: Source, stderr: Source, file: LogFile) -> LogSlot {
        LogSlot {
            key,
            sources: [stdout, stderr],
            file,
            stamp: Stamp::new(UnixNanos(0)),
        }
    }

    /// A container without streams or file.
    pub(crate) fn closed(key: u32) -> LogSlot {
        let [stdout, stderr] = StreamName::ALL.map(|name| Source::new(name, None));
        LogSlot::new(key, stdout, stderr, LogFile::default())
    }

    /// A stream.
    pub(crate) fn source(&self, name: StreamName) -> &Source {
        &self.sources[name as usize]
    }

    /// A stream, to change it.
    pub(crate) fn source_mut(&mut self, name: StreamName) -> &mut Source {
        &mut self.sources[name as usize]
    }

    /// The open stream's descriptor.
    pub(crate) fn fd(&self, name: StreamName) -> Option<BorrowedFd<'_>> {
        self.sources[name as usize].fd.as_ref().map(AsFd::as_fd)
    }

    /// Reads once from a stream and writes what lines that makes.
    pub(crate) fn pump(&mut self, name: StreamName, buffers: &mut Buffers) -> Pumped {
        let Some(fd) = self.fd(name) else {
            return Pumped::Ended;
        };
        let read = match rustix::io::read(fd, &mut buffers.input[PIECE..]) {
            Ok(0) => None,
            Ok(read) => Some(read),
            Err(Errno::AGAIN | Errno::INTR) => return Pumped::Empty,
            // A pty's master answers EIO once nobody has its slave open.
            Err(_) => None,
        };
        let Some(read) = read else { return Pumped::Ended };
        self.sources[name as usize]
            .taps
            .copy(&buffers.input[PIECE..PIECE + read]);
        self.pass_on();
        if self.file.is_open() {
            let stamp = self.stamp.advance(UnixNanos::now());
            let mut batch = Batch {
                room: &mut buffers.batch,
                used: 0,
                file: &mut self.file,
            };
            let lines = &mut self.sources[name as usize].lines;
            let start = lines.unhold(&mut buffers.input);
            lines.cut(
                &buffers.input[start..PIECE + read],
                PIECE - start,
                stamp,
                &mut batch,
            );
            batch.flush();
            self.pass_on();
        }
        Pumped::Bytes
    }

    /// Ends a stream: what it holds back goes out, its descriptor is closed. Its writers may live on.
    pub(crate) fn end(&mut self, name: StreamName, buffers: &mut Buffers) {
        self.pass_on();
        let source = &mut self.sources[name as usize];
        source.fd = None;
        source.taps.close();
        let stamp = self.stamp.advance(UnixNanos::now());
        let mut batch = Batch {
            room: &mut buffers.batch,
            used: 0,
            file: &mut self.file,
        };
        source.lines.end(stamp, &mut batch);
        batch.flush();
        self.pass_on();
    }

    /// Lets a new file take over if no line is under way.
    pub(crate) fn pass_on(&mut self) {
        let boundary = self.sources.iter().all(|source| source.lines.at_line_boundary());
        self.file.pass_on(boundary);
    }
}

/// Records on their way to a file.
struct Batch<'a> {
    room: &'a mut [u8],
    used: usize,
    file: &'a mut LogFile,
}

impl Batch<'_> {
    fn flush(&mut self) {
        self.file.append(&self.room[..self.used]);
        self.used = 0;
    }
}

impl Output for Batch<'_> {
    fn room(&mut self, length: usize) -> &mut [u8] {
        const { assert!(BATCH >= RECORD_MAX) }
        if self.room.len() - self.used < length {
            self.flush();
        }
        let start = self.used;
        self.used += length;
        &mut self.room[start..self.used]
    }
}
