//! A blob's bytes, from one place, going on where the connection was cut.

use bytes::Bytes;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::RegistryError;
use super::answer::cause;
use super::client::{Place, Session};
use super::request::Question;
use super::round::{Failure, Round};
use crate::manifest::Descriptor;

/// A piece of a blob on its way; a channel that ends without [`Piece::End`] was cut.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    End,
}

/// One download.
struct Download<'a> {
    session: &'a Session,
    descriptor: &'a Descriptor,
    sink: &'a mpsc::Sender<Piece>,
    progress: &'a (dyn Fn(u64) + Sync),
    /// Bytes handed to the sink so far.
    offset: u64,
}

impl Session {
    /// Sends a blob's bytes to `sink`, going on where a connection was cut. The digest is for
    /// the receiver to check; the size is checked here.
    pub(crate) async fn blob(
        &self,
        descriptor: &Descriptor,
        sink: &mpsc::Sender<Piece>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RegistryError> {
        let mut download = Download {
            session: self,
            descriptor,
            sink,
            progress,
            offset: 0,
        };
        let mut trusted: Option<&Place> = None;
        let mut failures = 0;
        loop {
            let mut round = Round::default();
            let before = download.offset;
            let places = self.places.iter().filter(|place| place.endpoint.pulls);
            // Once bytes were taken from one place, only that place may go on.
            for place in places.filter(|place| trusted.is_none_or(|trusted| std::ptr::eq(trusted, *place))) {
                match download.from(place).await {
                    Ok(()) => {
                        return sink.send(Piece::End).await.map_err(|_| self.abandoned());
                    }
                    Err(failure) if !failure.error.is_definite() => return Err(failure.error),
                    Err(failure) => round.add(place.endpoint.upstream, failure),
                }
                if download.offset > before {
                    trusted = Some(place);
                    break;
                }
            }
            let failure = round.telling().ok_or_else(|| self.nowhere())?;
            failures = if download.offset > before { 1 } else { failures + 1 };
            self.back_off(failure, failures).await?;
        }
    }

    fn abandoned(&self) -> RegistryError {
        RegistryError::Abandoned {
            registry: self.registry().into(),
        }
    }
}

impl Download<'_> {
    async fn from(&mut self, place: &Place) -> Result<(), Failure> {
        let (session, wanted) = (self.session, self.descriptor.size);
        let digest = &self.descriptor.digest;
        let question = Question::blob(digest, self.offset);
        let mut answer = session.get(place, &question).await?;
        // A 200 starts over: what was taken before is passed by.
        let mut position = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                self.check_range(&answer)?;
                self.offset
            }
            _ => {
                if let Some(length) = answer.content_length().filter(|length| *length != wanted) {
                    return Err(self.wrong_size(length).into());
                }
                0
            }
        };
        loop {
            let piece = match timeout(session.config.progress_timeout, answer.chunk()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) if position < wanted => return Err(self.wrong_size(position).into()),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(session.unavailable(&cause(&error)).into()),
                Err(_) => {
                    return Err(session.unavailable("no data within the progress timeout").into());
                }
            };
            let end = position + piece.len() as u64;
            if end > wanted {
                return Err(self.wrong_size(end).into());
            }
            let known = self.offset.saturating_sub(position).min(piece.len() as u64) as usize;
            position = end;
            if known < piece.len() {
                self.offset = end;
                self.sink
                    .send(Piece::Data(piece.slice(known..)))
                    .await
                    .map_err(|_| session.abandoned())?;
                (self.progress)(end);
            }
        }
    }

    /// `bytes <first>-<last>/<all>` must go on exactly where we are, in a blob of the right size.
    fn check_range(&self, answer: &Response) -> Result<(), RegistryError> {
        let range = answer
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|value| value.to_str().ok())
            .and_then(|range| range.strip_prefix("bytes "));
        let first: Option<u64> = range.and_then(|range| range.split('-').next()?.parse().ok());
        let all: Option<u64> = range.and_then(|range| range.rsplit('/').next()?.parse().ok());
        if first == Some(self.offset) && all.is_none_or(|all| all == self.descriptor.size) {
            return Ok(());
        }
        Err(self
            .session
            .protocol("its answer to a range request is another range"))
    }

    fn wrong_size(&self, found: u64) -> RegistryError {
        RegistryError::WrongSize {
            registry: self.session.registry().into(),
            digest: self.descriptor.digest.clone(),
            wanted: self.descriptor.size,
            found,
        }
    }
}
