//! Descriptors on their way from one image to the next, each known by its place.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::scm;

/// Descriptors in one message.
const BATCH: usize = 64;
/// Most descriptors that are taken over.
const MAX: usize = 16 * 1024;

/// Collects the descriptors to send.
#[derive(Default)]
pub(super) struct Packing<'a>(Vec<BorrowedFd<'a>>);

/// The descriptors that came.
pub(super) struct Unpacking(Vec<Option<OwnedFd>>);

impl<'a> Packing<'a> {
    /// Adds one; returns its place.
    pub(super) fn put(&mut self, fd: &'a impl AsFd) -> u32 {
        self.0.push(fd.as_fd());
        u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn put_some(&mut self, fd: Option<&'a OwnedFd>) -> Option<u32> {
        fd.map(|fd| self.put(fd))
    }

    /// Sends all, `state` first; returns the end of the socket that they are in.
    pub(super) fn send(self, state: &OwnedFd) -> io::Result<OwnedFd> {
        let (ours, theirs) = scm::seqpacket_pair()?;
        let count = u32::try_from(self.0.len())
            .map_err(io::Error::other)?
            .to_le_bytes();
        scm::send(ours.as_fd(), &[&count, &[]], &[state])?;
        for batch in self.0.chunks(BATCH) {
            scm::send(ours.as_fd(), &[&[0], &[]], batch)?;
        }
        Ok(theirs)
    }
}

impl Unpacking {
    /// Receives what [`Packing::send`] sent: the state, and the rest.
    pub(super) fn receive(socket: &OwnedFd) -> io::Result<(OwnedFd, Unpacking)> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut count = [0; 4];
        let first = scm::receive(socket.as_fd(), &mut count)?;
        let state = first.fds.into_iter().next().ok_or_else(invalid)?;
        let count = usize::try_from(u32::from_le_bytes(count)).map_err(|_| invalid())?;
        if first.length != 4 || count > MAX {
            return Err(invalid());
        }
        let mut fds = Vec::with_capacity(count);
        while fds.len() < count {
            let batch = scm::receive(socket.as_fd(), &mut [0; 1])?;
            if batch.truncated || batch.fds.is_empty() {
                return Err(invalid());
            }
            fds.extend(batch.fds.into_iter().map(Some));
        }
        Ok((state, Unpacking(fds)))
    }

    /// The one at that place, once.
    pub(super) fn take(&mut self, place: u32) -> io::Result<OwnedFd> {
        let fd = usize::try_from(place)
            .ok()
            .and_then(|place| self.0.get_mut(place)?.take());
        fd.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    pub(super) fn take_some(&mut self, place: Option<u32>) -> io::Result<Option<OwnedFd>> {
        place.map(|place| self.take(place)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    #[test]
    fn hundreds_of_descriptors_keep_their_places() {
        let files: Vec<File> = (0..200)
            .map(|i| {
                let mut file = tempfile::tempfile().unwrap();
                write!(file, "{i}").unwrap();
                file
            })
            .collect();
        let mut packing = Packing::default();
        let places: Vec<u32> = files.iter().map(|file| packing.put(file)).collect();
        let state = OwnedFd::from(tempfile::tempfile().unwrap());
        let socket = packing.send(&state).unwrap();
        let (_, mut unpacking) = Unpacking::receive(&socket).unwrap();
        for place in places {
            let mut file = File::from(unpacking.take(place).unwrap());
            file.rewind().unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, place.to_string());
            assert!(unpacking.take(place).is_err(), "taken twice");
        }
    }
}
