//! Clients that listen to a stream beside its log.
//!
//! A tap is a pipe of [`ATTACH_BUFFER`] bytes whose read end a client has. What is read from the container is copied into
//! it without waiting: the tap of a client that does not keep up is cut, and so is the tap of one that has gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::protocol::ATTACH_BUFFER;
use crate::supervisor::poll::Poll;

/// Most clients of one stream at a time. Whoever comes beyond that gets a stream that ends at once.
const MAX_TAPS: usize = 32;

/// The write ends of one stream's clients. Of a fixed size: it belongs to the writer, which never allocates.
#[derive(Debug, Default)]
pub(crate) struct Taps([Option<OwnedFd>; MAX_TAPS]);

/// A new tap: the client's read end, and ours.
///
/// # Errors
/// Those of pipe2. A pipe that may not be made larger serves as it is.
pub(crate) fn tap() -> io::Result<(OwnedFd, OwnedFd)> {
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let _ = fcntl_setpipe_size(&ours, ATTACH_BUFFER);
    Ok((theirs, ours))
}

impl Taps {
    /// Adds a tap, watched under `token` for its client's leaving.
    pub(crate) fn add(&mut self, tap: OwnedFd, poll: &Poll, token: u64) {
        // An unwatched tap is cut at the next write.
        let _ = poll.add(tap.as_fd(), token);
        if let Some(free) = self.0.iter_mut().find(|tap| tap.is_none()) {
            *free = Some(tap);
        }
    }

    /// Copies what the stream brought to every client.
    pub(crate) fn copy(&mut self, bytes: &[u8]) {
        for slot in &mut self.0 {
            let Some(tap) = slot else { continue };
            let all = loop {
                match rustix::io::write(&*tap, bytes) {
                    Err(Errno::INTR) => {}
                    written => break written == Ok(bytes.len()),
                }
            };
            if !all {
                *slot = None;
            }
        }
    }

    /// Cuts the taps of clients that have gone.
    pub(crate) fn sweep(&mut self) {
        for slot in &mut self.0 {
            let gone = slot.as_ref().is_some_and(|tap| {
                let mut fds = [PollFd::new(tap, PollFlags::empty())];
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

    /// Our ends, for another supervisor image.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        self.0.iter().flatten()
    }

    /// Takes up the taps of another supervisor image.
    pub(crate) fn resume(&mut self, taps: impl Iterator<Item = OwnedFd>) {
        for (slot, tap) in self.0.iter_mut().zip(taps) {
            *slot = Some(tap);
        }
    }

    /// Watches all of them anew, in another set.
    pub(crate) fn watch(&self, poll: &Poll, token: u64) {
        for tap in self.descriptors() {
            let _ = poll.add(tap.as_fd(), token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    const TOKEN: u64 = 7;

    fn tapped(taps: &mut Taps, poll: &Poll) -> File {
        let (theirs, ours) = tap().unwrap();
        taps.add(ours, poll, TOKEN);
        File::from(theirs)
    }

    fn read(client: &mut File) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let ended = client.read_to_end(&mut bytes).is_ok();
        (bytes, ended)
    }

    #[test]
    fn each_client_gets_everything_from_its_coming_on() {
        let (mut taps, poll) = (Taps::default(), Poll::new().unwrap());
        let mut early = tapped(&mut taps, &poll);
        taps.copy(b"one ");
        let mut late = tapped(&mut taps, &poll);
        taps.copy(b"two");
        assert_eq!(read(&mut early), (b"one two".to_vec(), false));
        assert_eq!(read(&mut late), (b"two".to_vec(), false));
        taps.close();
        assert!(read(&mut late).1, "the end is an end");
    }

    #[test]
    fn a_client_that_does_not_read_is_cut_and_no_other() {
        let (mut taps, poll) = (Taps::default(), Poll::new().unwrap());
        let (mut slow, mut quick) = (tapped(&mut taps, &poll), tapped(&mut taps, &poll));
        let block = [b'x'; 65_536];
        let mut taken = 0;
        for _ in 0..2 * ATTACH_BUFFER / block.len() {
            taps.copy(&block);
            taken += read(&mut quick).0.len();
        }
        assert_eq!(taken, 2 * ATTACH_BUFFER);
        let (kept, ended) = read(&mut slow);
        assert!(kept.len() >= block.len() && kept.len() <= ATTACH_BUFFER && ended);
        assert_eq!(taps.descriptors().count(), 1);
    }

    #[test]
    fn those_who_go_make_room_though_the_stream_is_silent() {
        let (mut taps, poll) = (Taps::default(), Poll::new().unwrap());
        let mut ready = Default::default();
        for _ in 0..3 * MAX_TAPS {
            drop(tapped(&mut taps, &poll));
            assert_eq!(poll.wait(&mut ready, None), [TOKEN]);
            taps.sweep();
            assert_eq!(taps.descriptors().count(), 0);
        }
    }
}
