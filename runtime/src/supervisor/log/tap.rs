//! Clients that listen to a stream beside its log.
//!
//! A tap is a pipe of [`ATTACH_BUFFER`] bytes whose read end a client has. What is read from the container is copied into
//! it without waiting: the tap of a client that does not keep up is cut, and so is the tap of one that has gone. A pipe that
//! was cut looks like one that has ended; the client's bell tells which.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::protocol::ATTACH_BUFFER;
use crate::supervisor::poll::{Bell, Poll};

/// Most clients of one stream at a time. Whoever comes beyond that is cut off at once.
const MAX_TAPS: usize = 32;

/// One stream's clients. Of a fixed size: it belongs to the writer, which never allocates.
#[derive(Debug, Default)]
pub(crate) struct Taps([Option<Tap>; MAX_TAPS]);

/// A client of one stream.
#[derive(Debug)]
pub(crate) struct Tap {
    /// The write end.
    pipe: OwnedFd,
    /// Rung when the client is cut off; none for a client that did not ask for it.
    bell: Option<Bell>,
}

impl Tap {
    /// A new tap: the client's read end, and ours.
    ///
    /// # Errors
    /// Those of pipe2. A pipe that may not be made larger serves as it is.
    pub(crate) fn new(bell: Option<&Bell>) -> io::Result<(OwnedFd, Tap)> {
        let (theirs, pipe) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let _ = fcntl_setpipe_size(&pipe, ATTACH_BUFFER);
        let bell = bell.map(Bell::share).transpose()?;
        Ok((theirs, Tap { pipe, bell }))
    }

    /// One of another supervisor image.
    pub(crate) fn resume(pipe: OwnedFd, bell: Option<OwnedFd>) -> Tap {
        Tap {
            pipe,
            bell: bell.map(Bell::from),
        }
    }

    /// Our end of the pipe, and the bell, for another supervisor image.
    pub(crate) fn parts(&self) -> (&OwnedFd, Option<&Bell>) {
        (&self.pipe, self.bell.as_ref())
    }

    /// Before it is dropped: the client is told that this is not the end of the stream.
    fn cut(&self) {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

impl Taps {
    /// Adds a tap, watched under `token` for its client's leaving.
    pub(crate) fn add(&mut self, tap: Tap, poll: &Poll, token: u64) {
        let Some(free) = self.0.iter_mut().find(|tap| tap.is_none()) else {
            return tap.cut();
        };
        // An unwatched tap is cut at the next write.
        let _ = poll.add(tap.pipe.as_fd(), token);
        *free = Some(tap);
    }

    /// Copies what the stream brought to every client.
    pub(crate) fn copy(&mut self, bytes: &[u8]) {
        for slot in &mut self.0 {
            let Some(tap) = slot else { continue };
            let all = loop {
                match rustix::io::write(&tap.pipe, bytes) {
                    Err(Errno::INTR) => {}
                    written => break written == Ok(bytes.len()),
                }
            };
            if !all {
                tap.cut();
                *slot = None;
            }
        }
    }

    /// Cuts the taps of clients that have gone.
    pub(crate) fn sweep(&mut self) {
        for slot in &mut self.0 {
            let gone = slot.as_ref().is_some_and(|tap| {
                let mut fds = [PollFd::new(&tap.pipe, PollFlags::empty())];
                let now = Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                };
                // The write end of a pipe without readers is in an error state.
                poll(&mut fds, Some(&now)) == Ok(1)
            });
            if gone {
                *slot = None;
            }
        }
    }

    /// The stream has ended, and so do its copies.
    pub(crate) fn close(&mut self) {
        *self = Taps::default();
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Tap> {
        self.0.iter().flatten()
    }

    /// Takes up the taps of another supervisor image.
    pub(crate) fn resume(&mut self, taps: impl Iterator<Item = Tap>) {
        for (slot, tap) in self.0.iter_mut().zip(taps) {
            *slot = Some(tap);
        }
    }

    /// Watches none of them any more.
    pub(crate) fn unwatch(&self, poll: &Poll) {
        for tap in self.iter() {
            poll.remove(tap.pipe.as_fd());
        }
    }

    /// Watches all of them anew, in another set.
    pub(crate) fn watch(&self, poll: &Poll, token: u64) {
        for tap in self.iter() {
            let _ = poll.add(tap.pipe.as_fd(), token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::time::Duration;

    const TOKEN: u64 = 7;

    /// A client's pipe and its bell.
    fn tapped(taps: &mut Taps, poll: &Poll) -> (File, Bell) {
        let bell = Bell::new().unwrap();
        let (theirs, ours) = Tap::new(Some(&bell)).unwrap();
        taps.add(ours, poll, TOKEN);
        (File::from(theirs), bell)
    }

    fn rings(bell: &Bell) -> bool {
        bell.wait_at_most(Duration::ZERO)
    }

    fn read(client: &mut File) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let ended = client.read_to_end(&mut bytes).is_ok();
        (bytes, ended)
    }

    #[test]
    fn each_client_gets_everything_from_its_coming_on() {
        let (mut taps, poll) = (Taps::default(), Poll::new().unwrap());
        let (mut early, bell) = tapped(&mut taps, &poll);
        taps.copy(b"one ");
        let (mut late, _) = tapped(&mut taps, &poll);
        taps.copy(b"two");
        assert_eq!(read(&mut early), (b"one two".to_vec(), false));
        assert_eq!(read(&mut late), (b"two".to_vec(), false));
        taps.close();
        assert!(read(&mut late).1, "the end is an end");
        assert!(!rings(&bell));
    }

    #[test]
    fn a_client_that_does_not_read_is_cut_and_no_other() {
        let (mut taps, poll) = (Taps::default(), Poll::new().unwrap());
        let (mut slow, told) = tapped(&mut taps, &poll);
        let (mut quick, not_told) = tapped(&mut taps, &poll);
        let block = [b'x'; 65_536];
        let mut taken = 0;
        for _ in 0..2 * ATTACH_BUFFER / block.len() {
            taps.copy(&block);
            taken += read(&mut quick).0.len();
        }
        assert_eq!(taken, 2 * ATTACH_BUFFER);
        let (kept, ended) = read(&mut slow);
        assert!(kept.len() >= block.len() && kept.len() <= ATTACH_BUFFER && ended);
        assert_eq!(taps.iter().count(), 1);
        assert!(rings(&told) && !rings(&not_told));
    }

    #[test]
    fn a_client_too_many_is_told_so() {
        let (mut taps, poll) = (Taps::default(), Poll::new().unwrap());
        let clients: Vec<_> = (0..MAX_TAPS).map(|_| tapped(&mut taps, &poll)).collect();
        let (mut one, bell) = tapped(&mut taps, &poll);
        assert!(read(&mut one).1 && rings(&bell));
        assert!(clients.iter().all(|(_, bell)| !rings(bell)));
    }

    #[test]
    fn those_who_go_make_room_though_the_stream_is_silent() {
        let (mut taps, poll) = (Taps::default(), Poll::new().unwrap());
        let mut ready = Default::default();
        for _ in 0..3 * MAX_TAPS {
            drop(tapped(&mut taps, &poll));
            assert_eq!(poll.wait(&mut ready, None), [TOKEN]);
            taps.sweep();
            assert_eq!(taps.iter().count(), 0);
        }
    }
}
