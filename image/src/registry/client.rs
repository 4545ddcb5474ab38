//! One pull's conversation with the places that have its repository.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::answer::{BodyError, bounded_body, cause};
use super::credentials::Credentials;
use super::hosts::{self, Endpoint};
use super::{RegistryConfig, RegistryError};
use crate::digest::Digest;
use crate::document::{DocumentError, LARGEST_DOCUMENT};
use crate::error::Error;
use crate::manifest::Descriptor;
use crate::reference::{Reference, Version};

/// A piece of a blob on its way; a channel that ends without [`Piece::End`] was cut.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    End,
}

/// The endpoints of one reference with the credentials of one request.
pub(crate) struct Session {
    pub(super) reference: Reference,
    pub(super) credentials: Credentials,
    pub(super) config: RegistryConfig,
    places: Vec<Place>,
}

pub(super) struct Place {
    pub(super) endpoint: Endpoint,
    pub(super) client: Client,
    /// What met its last challenge.
    pub(super) authorization: Mutex<Option<HeaderValue>>,
}

/// A tag or digest looked up.
pub(crate) struct Resolved {
    pub(crate) descriptor: Descriptor,
    pub(crate) bytes: Bytes,
}

/// A document to ask for.
struct Wanted<'a> {
    /// Below the repository.
    path: &'a str,
    /// For errors.
    name: &'a str,
    limit: u64,
    /// Only places that may resolve tags can answer.
    by_tag: bool,
}

/// A failure, and how long the registry asked to wait.
pub(super) struct Failure {
    pub(super) error: RegistryError,
    pub(super) wait: Option<Duration>,
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self { error, wait: None }
    }
}

impl Session {
    /// Reads the configuration of the reference's registry; connects to nothing yet.
    pub(crate) fn new(
        config: &RegistryConfig,
        reference: &Reference,
        credentials: Credentials,
    ) -> Result<Self, RegistryError> {
        let mut clients: Vec<(super::tls::Tls, Client)> = Vec::new();
        let mut places = Vec::new();
        for endpoint in hosts::endpoints(config, reference.registry())? {
            let known = clients
                .iter()
                .find(|(tls, _)| *tls == endpoint.tls)
                .map(|(_, client)| client.clone());
            let client = match known {
                Some(client) => client,
                None => {
                    let client = endpoint.tls.client(config, reference.registry())?;
                    clients.push((endpoint.tls.clone(), client.clone()));
                    client
                }
            };
            places.push(Place {
                endpoint,
                client,
                authorization: Mutex::new(None),
            });
        }
        Ok(Self {
            reference: reference.clone(),
            credentials,
            config: config.clone(),
            places,
        })
    }

    /// Turns the reference into a document with a known digest.
    pub(crate) async fn resolve(&self) -> Result<Resolved, Error> {
        let version = match self.reference.version() {
            Version::Tag(tag) => tag.clone(),
            Version::Digest { digest, .. } => digest.to_string(),
        };
        let wanted = Wanted {
            path: &format!("manifests/{version}"),
            name: &self.reference.to_string(),
            limit: LARGEST_DOCUMENT,
            by_tag: self.reference.tag().is_some(),
        };
        let (bytes, announced) = self.everywhere(wanted).await?;
        let digest = match self.reference.digest() {
            Some(wanted) => verified(wanted, &bytes)?,
            None => Digest::sha256(&bytes),
        };
        let descriptor = Descriptor {
            media_type: announced.unwrap_or_default(),
            digest,
            size: bytes.len() as u64,
            platform: None,
            annotations: std::collections::BTreeMap::new(),
        };
        Ok(Resolved { descriptor, bytes })
    }

    /// A manifest or index by its descriptor.
    pub(crate) async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        self.document("manifests", descriptor).await
    }

    /// A small blob (a configuration) by its descriptor.
    pub(crate) async fn small_blob(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        self.document("blobs", descriptor).await
    }

    async fn document(&self, kind: &str, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let digest = &descriptor.digest;
        if descriptor.size > LARGEST_DOCUMENT {
            let problem = DocumentError::TooLarge {
                size: descriptor.size,
            };
            return Err(Error::Document {
                what: digest.to_string(),
                problem,
            });
        }
        let path = format!("{kind}/{digest}");
        let wanted = Wanted {
            path: &path,
            name: digest.as_str(),
            limit: descriptor.size,
            by_tag: false,
        };
        let (bytes, _) = self.everywhere(wanted).await?;
        if bytes.len() as u64 != descriptor.size {
            let problem = DocumentError::WrongSize {
                wanted: descriptor.size,
                found: bytes.len() as u64,
            };
            return Err(Error::Document {
                what: digest.to_string(),
                problem,
            });
        }
        verified(digest, &bytes)?;
        Ok(bytes)
    }

    /// Sends a blob's bytes to `sink`, going on where a connection was cut. The digest is for
    /// the receiver to check; the size is checked here.
    pub(crate) async fn blob(
        &self,
        descriptor: &Descriptor,
        sink: &mpsc::Sender<Piece>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RegistryError> {
        let mut offset = 0;
        let mut failures = 0;
        loop {
            let mut last: Option<Failure> = None;
            let before = offset;
            for place in &self.places {
                match self.stream(place, descriptor, &mut offset, sink, progress).await {
                    Ok(()) => {
                        return sink.send(Piece::End).await.map_err(|_| self.abandoned());
                    }
                    // Once bytes are trusted to one place, only that place may go on.
                    Err(failure) if !failure.error.is_definite() => return Err(failure.error),
                    Err(failure) => last = Some(failure),
                }
                if offset > before {
                    break;
                }
            }
            let Some(failure) = last else {
                return Err(self.nowhere());
            };
            failures = if offset > before { 1 } else { failures + 1 };
            self.back_off(failure, failures).await?;
        }
    }

    async fn stream(
        &self,
        place: &Place,
        descriptor: &Descriptor,
        offset: &mut u64,
        sink: &mpsc::Sender<Piece>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), Failure> {
        let digest = &descriptor.digest;
        let wrong_size = |found| RegistryError::WrongSize {
            registry: self.registry().into(),
            digest: digest.clone(),
            wanted: descriptor.size,
            found,
        };
        let mut answer = self
            .get(place, &format!("blobs/{digest}"), digest.as_str(), Some(*offset))
            .await?;
        // A 200 starts over: what was taken before is passed by.
        let mut position = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                self.check_range(&answer, *offset)?;
                *offset
            }
            _ => {
                if let Some(length) = answer
                    .content_length()
                    .filter(|length| *length != descriptor.size)
                {
                    return Err(wrong_size(length).into());
                }
                0
            }
        };
        loop {
            let piece = match timeout(self.config.progress_timeout, answer.chunk()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) if position < descriptor.size => return Err(wrong_size(position).into()),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(self.unavailable(&cause(&error)).into()),
                Err(_) => return Err(self.unavailable("no data within the progress timeout").into()),
            };
            let end = position + piece.len() as u64;
            if end > descriptor.size {
                return Err(wrong_size(end).into());
            }
            let known = offset.saturating_sub(position).min(piece.len() as u64) as usize;
            position = end;
            if known < piece.len() {
                *offset = end;
                sink.send(Piece::Data(piece.slice(known..)))
                    .await
                    .map_err(|_| self.abandoned())?;
                progress(end);
            }
        }
    }

    fn check_range(&self, answer: &Response, offset: u64) -> Result<(), RegistryError> {
        let range = answer
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|value| value.to_str().ok());
        let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        if start == Some(offset) {
            Ok(())
        } else {
            Err(self.protocol("its answer to a range request is another range"))
        }
    }

    /// Asks one place after the other, and all of them again after a wait.
    async fn everywhere(&self, wanted: Wanted<'_>) -> Result<(Bytes, Option<String>), Error> {
        for failures in 1.. {
            let mut last: Option<Failure> = None;
            for place in self
                .places
                .iter()
                .filter(|place| place.endpoint.resolves || !wanted.by_tag)
            {
                match self.small(place, &wanted).await {
                    Ok(value) => return Ok(value),
                    Err(failure) if !failure.error.is_definite() => return Err(failure.error.into()),
                    Err(failure) => last = Some(failure),
                }
            }
            let Some(failure) = last else { break };
            self.back_off(failure, failures).await?;
        }
        Err(self.nowhere().into())
    }

    /// Waits before the next try, or gives the failure back when there is none.
    async fn back_off(&self, failure: Failure, failures: u32) -> Result<(), RegistryError> {
        let wait = self
            .config
            .retry
            .wait(failures, failure.wait)
            .filter(|_| failure.error.is_passing());
        let Some(wait) = wait else {
            return Err(failure.error);
        };
        tracing::debug!(error = %failure.error, ?wait, "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// A document and the type the place gives it.
    async fn small(&self, place: &Place, wanted: &Wanted<'_>) -> Result<(Bytes, Option<String>), Failure> {
        let answer = self.get(place, wanted.path, wanted.name, None).await?;
        let media_type = answer
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let media_type = media_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_owned());
        let limit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
        match timeout(self.config.progress_timeout, bounded_body(answer, limit)).await {
            Ok(Ok(bytes)) => Ok((bytes, media_type)),
            Ok(Err(BodyError::TooLarge)) => Err(self
                .protocol("a document is larger than announced or allowed")
                .into()),
            Ok(Err(BodyError::Cut(detail))) => Err(self.unavailable(&detail).into()),
            Err(_) => Err(self.unavailable("no data within the progress timeout").into()),
        }
    }

    pub(super) fn registry(&self) -> &str {
        self.reference.registry()
    }

    pub(super) fn unavailable(&self, detail: &str) -> RegistryError {
        RegistryError::Unavailable {
            registry: self.registry().into(),
            detail: detail.into(),
        }
    }

    pub(super) fn protocol(&self, problem: &'static str) -> RegistryError {
        RegistryError::Protocol {
            registry: self.registry().into(),
            problem,
        }
    }

    fn abandoned(&self) -> RegistryError {
        RegistryError::Abandoned {
            registry: self.registry().into(),
        }
    }

    fn nowhere(&self) -> RegistryError {
        self.unavailable("its configuration leaves no place to pull from")
    }
}

fn verified(wanted: &Digest, bytes: &[u8]) -> Result<Digest, Error> {
    if wanted.matches(bytes) {
        return Ok(wanted.clone());
    }
    let problem = DocumentError::WrongDigest {
        wanted: wanted.clone(),
        found: Digest::sha256(bytes),
    };
    Err(Error::Document {
        what: wanted.to_string(),
        problem,
    })
}
