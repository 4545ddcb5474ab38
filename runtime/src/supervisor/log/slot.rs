//! One container's log: its streams, its file, and what is between them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::fcntl_setpipe_size;

use super::buffers::{Batch, Buffers, READ};
use super::file::LogFile;
use super::line::{Cut, Lines, PIECE};
use super::stamp::Stamp;
use super::tap::Taps;
use crate::protocol::UnixNanos;

/// Which of a container's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamName {
    Stdout,
    Stderr,
}

/// What a container's log is made of. Made by the control thread and lent to a writer.
#[derive(Debug)]
pub(crate) struct LogSlot {
    /// The container's key in the control thread's table.
    pub(crate) key: u32,
    sources: [Source; 2],
    pub(crate) file: LogFile,
    pub(crate) stamp: Stamp,
    pub(crate) buffers: Buffers,
}

/// A stream. Its memory stays when it has ended: the control thread frees it, with the slot.
#[derive(Debug)]
pub(crate) struct Source {
    /// A pipe's read end or a pty's master, non-blocking; none when the stream has ended.
    fd: Option<OwnedFd>,
    lines: Lines,
    taps: Taps,
    /// Its pipe has been found full.
    widened: bool,
}

/// Bytes that a pipe holds once it has been found full: while one end of it is being read and written to the file, its
/// container fills the other, and is woken up less often.
const WIDE: usize = 256 * 1024;

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// So many bytes; there may be more.
    Bytes(usize),
    /// Nothing for now.
    Empty,
    /// The stream has ended; it is for the caller to [`end`](LogSlot::end) it.
    Ended,
}

/// Whether the file took what there was for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Nothing is pending.
    All,
    /// The file takes no more; the rest stays pending and nothing more is to be read.
    Stuck,
}

impl StreamName {
    pub(crate) const ALL: [StreamName; 2] = [StreamName::Stdout, StreamName::Stderr];

    /// The other one.
    pub(super) fn other(self) -> StreamName {
        match self {
            StreamName::Stdout => StreamName::Stderr,
            StreamName::Stderr => StreamName::Stdout,
        }
    }

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
            widened: false,
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

    /// Makes a pipe wider, once.
    fn widen(&mut self) {
        if let Some(fd) = self.fd.as_ref().filter(|_| !self.widened) {
            // Where pipes may not be so wide, and for terminals, it serves as it is.
            let _ = fcntl_setpipe_size(fd, WIDE);
            self.widened = true;
        }
    }

    /// Takes up an unfinished line.
    pub(crate) fn resume(&mut self, held: &[u8], continued: bool) {
        self.lines.resume(held, continued);
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
            buffers: Buffers::new(),
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

    /// Whether there is room for another read before the next [flush](LogSlot::flush).
    pub(crate) fn takes_more(&self) -> bool {
        self.buffers.takes_more()
    }

    /// Reads once from a stream. There must be [room](LogSlot::takes_more); what was read is pending until it is
    /// [flushed](LogSlot::flush).
    pub(crate) fn read(&mut self, name: StreamName) -> Pumped {
        let source = &mut self.sources[name as usize];
        let Some(fd) = &source.fd else {
            return Pumped::Ended;
        };
        let buffers = &mut self.buffers;
        let read = match rustix::io::read(fd, &mut buffers.input[PIECE..]) {
            Ok(0) => return Pumped::Ended,
            Ok(read) => read,
            Err(Errno::AGAIN | Errno::INTR) => return Pumped::Empty,
            // A pty's master answers EIO once nobody has its slave open.
            Err(_) => return Pumped::Ended,
        };
        if read == READ {
            source.widen();
        }
        source.taps.copy(&buffers.input[PIECE..PIECE + read]);
        if self.file.is_open() {
            if self.buffers.unwritten.is_empty() {
                self.pass_on();
            }
            let (source, buffers) = (&mut self.sources[name as usize], &mut self.buffers);
            let start = source.lines.unhold(&mut buffers.input);
            (buffers.uncut, buffers.known) = (start..PIECE + read, PIECE - start);
            buffers.stream = name;
            self.stamp.advance(UnixNanos::now());
            self.cut();
        }
        Pumped::Bytes(read)
    }

    /// Writes what is pending, as far as the file takes it.
    pub(crate) fn flush(&mut self) -> Flushed {
        loop {
            let buffers = &mut self.buffers;
            let unwritten = buffers.unwritten.clone();
            buffers.unwritten.start += self.file.append(&buffers.batch[unwritten]);
            if !buffers.unwritten.is_empty() {
                // Records are whole wherever they are: with a new file at hand there is no reason to wait.
                if self.file.give_way() {
                    continue;
                }
                return Flushed::Stuck;
            }
            buffers.unwritten = 0..0;
            if buffers.uncut.is_empty() {
                self.pass_on();
                return Flushed::All;
            }
            self.cut();
        }
    }

    /// Turns what is uncut into records behind those that are to be written, as many as there is room for.
    fn cut(&mut self) {
        let buffers = &mut self.buffers;
        let data = &buffers.input[buffers.uncut.clone()];
        let mut batch = Batch {
            room: &mut buffers.batch,
            used: buffers.unwritten.end,
        };
        let lines = &mut self.sources[buffers.stream as usize].lines;
        let cut = lines.cut(data, buffers.known, self.stamp.text(), &mut batch);
        buffers.unwritten.end = batch.used;
        buffers.known = 0;
        match cut {
            Cut::All => buffers.uncut = 0..0,
            Cut::NoRoom { at } => buffers.uncut.start += at,
        }
    }

    /// Ends a stream: what it holds back becomes pending, its descriptor is closed. Its writers may live on. Nothing must
    /// be pending before.
    pub(crate) fn end(&mut self, name: StreamName) {
        let source = &mut self.sources[name as usize];
        source.fd = None;
        source.taps.close();
        if !self.file.is_open() {
            return;
        }
        self.pass_on();
        let source = &mut self.sources[name as usize];
        let mut batch = Batch {
            room: &mut self.buffers.batch,
            used: 0,
        };
        source.lines.end(self.stamp.advance(UnixNanos::now()), &mut batch);
        self.buffers.unwritten = 0..batch.used;
    }

    /// Gives up what is pending and what is still in the pipes: the file has had its time. Counted as lost.
    pub(crate) fn give_up(&mut self) {
        let mut lost = self.buffers.clear();
        for source in &mut self.sources {
            lost += source.lines.forget();
            if let Some(fd) = source.fd.take() {
                lost += rustix::io::ioctl_fionread(&fd).map_or(0, |bytes| bytes as usize);
            }
            source.taps.close();
        }
        self.file.lose(lost);
    }

    /// Lets a new file take over if no line is under way.
    fn pass_on(&mut self) {
        let boundary = self.sources.iter().all(|source| source.lines.at_line_boundary());
        self.file.pass_on(boundary);
    }
}
