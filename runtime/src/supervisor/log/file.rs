//! A log file: whole records only, whatever the disk does.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

/// Batches that a line under way may still put into the old file after a reopen, before the new file takes over in
/// mid-line: a stream without line ends must not hold the old file for ever.
const PATIENCE: u8 = 16;

/// Where a container's records go.
#[derive(Debug, Default)]
pub(crate) struct LogFile {
    /// None: discard.
    file: Option<OwnedFd>,
    successor: Option<Successor>,
    fault: Fault,
    lost: u64,
}

#[derive(Debug)]
struct Successor {
    file: OwnedFd,
    patience: u8,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    Unreported(i32),
    Reported,
}

impl LogFile {
    /// A log that goes to `file`, or nowhere.
    pub(crate) fn new(file: Option<OwnedFd>) -> LogFile {
        LogFile {
            file,
            ..LogFile::default()
        }
    }

    /// Whether there is a file to write to.
    pub(crate) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Bytes that never came into a file: those that it had no room for when the container had ended.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Gives up bytes for which there is neither room nor time.
    pub(crate) fn lose(&mut self, bytes: usize) {
        if self.is_open() {
            self.lost += bytes as u64;
        }
    }

    /// Takes up the count of another supervisor image.
    pub(crate) fn resume(&mut self, lost: u64, successor: Option<OwnedFd>) {
        self.lost = lost;
        self.succeed_by_option(successor);
    }

    /// The current file, and the one that waits for a line boundary.
    pub(crate) fn descriptors(&self) -> (Option<&OwnedFd>, Option<&OwnedFd>) {
        (
            self.file.as_ref(),
            self.successor.as_ref().map(|successor| &successor.file),
        )
    }

    /// `file` takes over at the next line boundary.
    pub(crate) fn succeed_by(&mut self, file: OwnedFd) {
        self.succeed_by_option(Some(file));
    }

    fn succeed_by_option(&mut self, file: Option<OwnedFd>) {
        self.successor = file.map(|file| Successor {
            file,
            patience: PATIENCE,
        });
    }

    /// Before and after each batch: lets the successor take over if no line is under way, or patience is at its end.
    pub(crate) fn pass_on(&mut self, at_line_boundary: bool) {
        let Some(successor) = &mut self.successor else {
            return;
        };
        if !at_line_boundary && successor.patience > 0 {
            successor.patience -= 1;
            return;
        }
        self.give_way();
    }

    /// Lets a successor take over at once, between two records; whether there was one.
    pub(crate) fn give_way(&mut self) -> bool {
        let Some(successor) = self.successor.take() else {
            return false;
        };
        self.file = Some(successor.file);
        self.fault = Fault::None;
        true
    }

    /// The errno of the first failed write to this file, once.
    pub(crate) fn take_fault(&mut self) -> Option<i32> {
        match self.fault {
            Fault::Unreported(errno) => {
                self.fault = Fault::Reported;
                Some(errno)
            }
            Fault::None | Fault::Reported => None,
        }
    }

    /// The report of [`take_fault`](LogFile::take_fault) did not get through: say it again later.
    pub(crate) fn keep_fault(&mut self, errno: i32) {
        self.fault = Fault::Unreported(errno);
    }

    /// Appends whole records; returns how many of their bytes need no further attempt. Fewer than all when the file takes
    /// no more for now; it ends with a whole record then.
    pub(crate) fn append(&mut self, records: &[u8]) -> usize {
        let Some(file) = &self.file else {
            return records.len();
        };
        let mut written = 0;
        while written < records.len() {
            match rustix::io::write(file, &records[written..]) {
                Ok(0) => break,
                Ok(length) => written += length,
                Err(Errno::INTR) => {}
                Err(error) => {
                    if self.fault == Fault::None {
                        self.fault = Fault::Unreported(error.raw_os_error());
                    }
                    break;
                }
            }
        }
        if written == records.len() {
            return written;
        }
        let whole = memchr::memrchr(b'\n', &records[..written]).map_or(0, |end| end + 1);
        match cut_back(file, written - whole) {
            true => whole,
            // The torn record stays, and is completed as soon as there is room.
            false => written,
        }
    }
}

/// Removes the last `torn` bytes: the beginning of a record whose rest found no room. This thread is the only writer.
fn cut_back(file: &OwnedFd, torn: usize) -> bool {
    if torn == 0 {
        return true;
    }
    let Ok(status) = rustix::fs::fstat(file) else {
        return false;
    };
    let size = u64::try_from(status.st_size)
        .unwrap_or(0)
        .saturating_sub(torn as u64);
    rustix::fs::ftruncate(file.as_fd(), size).is_ok()
}
