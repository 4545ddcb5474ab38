//! Waiting: an epoll set and the bell that one thread rings for the other.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::io::Errno;
use rustix::time::Timespec;

/// Events taken from the kernel at once.
const BATCH: usize = 16;

/// A set of descriptors watched for reading, each under a token. Level-triggered.
#[derive(Debug)]
pub(crate) struct Poll(OwnedFd);

/// Room for the tokens of one wait.
pub(crate) type Ready = [u64; BATCH];

impl Poll {
    /// An empty set.
    pub(crate) fn new() -> io::Result<Poll> {
        Ok(Poll(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Watches `fd` for bytes to read, or its end.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(epoll::add(
            &self.0,
            fd,
            EventData::new_u64(token),
            EventFlags::IN,
        )?)
    }

    /// Watches a socket for its end alone: what can be read from it wakes nobody.
    pub(crate) fn add_for_end(&self, socket: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(epoll::add(
            &self.0,
            socket,
            EventData::new_u64(token),
            EventFlags::RDHUP,
        )?)
    }

    /// Forgets `fd`. Needed when another descriptor of the same open file lives on; else closing is enough.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        // The one error there is says that it was not in the set.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Tokens of what is ready, waiting at most `timeout`; none when the time is up or a signal came.
    pub(crate) fn wait<'r>(&self, ready: &'r mut Ready, timeout: Option<Duration>) -> &'r [u64] {
        // Rounded up to whole milliseconds, so that a wait for a deadline does not end just before it.
        let timeout = timeout.map(|timeout| {
            let millis = i64::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX);
            Timespec {
                tv_sec: millis / 1000,
                tv_nsec: millis % 1000 * 1_000_000,
            }
        });
        let mut space = [MaybeUninit::<Event>::uninit(); BATCH];
        let Ok((events, _)) = epoll::wait(&self.0, &mut space, timeout.as_ref()) else {
            return &[];
        };
        let count = events.len();
        for (token, event) in ready.iter_mut().zip(events) {
            *token = event.data.u64();
        }
        &ready[..count]
    }
}

/// Rung by one thread, heard by the other in its [`Poll`].
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Bell> {
        Ok(Bell(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// A second handle of the same bell.
    pub(crate) fn share(&self) -> io::Result<Bell> {
        Ok(Bell(self.0.try_clone()?))
    }

    pub(crate) fn ring(&self) {
        // Full means that it has rung four billion times and nobody came: it still rings.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Waits until it rings.
    pub(crate) fn wait(&self) {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        while let Err(Errno::INTR) = rustix::event::poll(&mut fds, None) {}
    }

    /// Waits until it rings, at most that long; whether it did.
    pub(crate) fn wait_at_most(&self, limit: Duration) -> bool {
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&limit)) == Ok(1)
    }

    /// Heard: quiet until the next ring. To be called before looking for what it announces.
    pub(crate) fn hush(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl From<OwnedFd> for Bell {
    /// A bell that came from elsewhere, by its eventfd.
    fn from(fd: OwnedFd) -> Bell {
        Bell(fd)
    }
}

impl From<Bell> for OwnedFd {
    fn from(bell: Bell) -> OwnedFd {
        bell.0
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
