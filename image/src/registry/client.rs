//! One pull's conversation with the places that have its repository.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::auth::{Challenge, TokenRequest};
use super::credentials::Credentials;
use super::hosts::{self, Endpoint};
use super::{RegistryConfig, RegistryError};
use crate::digest::Digest;
use crate::document::{DocumentError, LARGEST_DOCUMENT};
use crate::error::Error;
use crate::manifest::{Descriptor, media_type};
use crate::reference::{Reference, Version};

const MOST_REDIRECTS: usize = 5;
const LARGEST_ERROR_BODY: usize = 64 << 10;
/// Of what a registry says, this much is repeated in an error.
const LONGEST_DETAIL: usize = 200;

/// A piece of a blob on its way; a channel that ends without [`Piece::End`] was cut.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    End,
}

/// The endpoints of one reference with the credentials of one request.
pub(crate) struct Session {
    reference: Reference,
    credentials: Credentials,
    config: RegistryConfig,
    places: Vec<Place>,
}

struct Place {
    endpoint: Endpoint,
    client: Client,
    /// What met its last challenge.
    authorization: Mutex<Option<HeaderValue>>,
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
struct Failure {
    error: RegistryError,
    wait: Option<Duration>,
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

    /// One successful answer (2xx), having met challenges and followed redirects.
    async fn get(
        &self,
        place: &Place,
        path: &str,
        what: &str,
        from: Option<u64>,
    ) -> Result<Response, Failure> {
        let mut url = place
            .endpoint
            .base
            .join(&format!("{}/{path}", self.reference.repository()))
            .map_err(|_| self.protocol("its address cannot take a repository"))?;
        if !place.endpoint.upstream {
            // Tells a mirror of several registries which one is meant.
            url.query_pairs_mut().append_pair("ns", self.reference.registry());
        }
        let mut challenged = false;
        loop {
            let answer = self.follow(place, url.clone(), from).await?;
            let status = answer.status();
            if status == StatusCode::UNAUTHORIZED && !challenged {
                challenged = true;
                if let Some(authorization) = self.authorize(place, &answer).await? {
                    *place
                        .authorization
                        .lock()
                        .unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(authorization);
                    continue;
                }
            }
            if status.is_success() {
                return Ok(answer);
            }
            let wait = retry_after(&answer);
            return Err(Failure {
                error: refusal(self.registry(), what, answer).await,
                wait,
            });
        }
    }

    async fn authorize(
        &self,
        place: &Place,
        answer: &Response,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let Some(challenge) = Challenge::of(answer.headers()) else {
            return Ok(None);
        };
        let anonymous = Credentials::Anonymous;
        let request = TokenRequest {
            client: &place.client,
            registry: self.registry(),
            endpoint: &place.endpoint.base,
            repository: self.reference.repository(),
            credentials: if place.endpoint.upstream {
                &self.credentials
            } else {
                &anonymous
            },
        };
        match timeout(self.config.progress_timeout, request.authorize(challenge)).await {
            Ok(result) => result,
            Err(_) => Err(self.unavailable("its token service does not answer")),
        }
    }

    /// Sends a request and follows redirects. What is ours (authorization, configured headers)
    /// stays with the endpoint's own origin, and https is never left for http.
    async fn follow(&self, place: &Place, mut url: Url, from: Option<u64>) -> Result<Response, Failure> {
        let origin = place.endpoint.base.origin();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = place.client.get(url.clone()).header(ACCEPT, accept(from));
            if let Some(from) = from.filter(|from| *from > 0) {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if url.origin() == origin {
                for (name, value) in &place.endpoint.headers {
                    request = request.header(name, value);
                }
                let authorization = place
                    .authorization
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner())
                    .clone();
                if let Some(authorization) = authorization {
                    request = request.header(AUTHORIZATION, authorization);
                }
            }
            let answer = match timeout(self.config.progress_timeout, request.send()).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => return Err(self.unavailable(&cause(&error)).into()),
                Err(_) => return Err(self.unavailable("no answer within the progress timeout").into()),
            };
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let location = answer
                .headers()
                .get(LOCATION)
                .and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let next = next.ok_or_else(|| self.protocol("it redirects to nowhere"))?;
            let downgrade = url.scheme() == "https" && next.scheme() != "https";
            if downgrade || !matches!(next.scheme(), "http" | "https") {
                return Err(self.protocol("it redirects from https to something else").into());
            }
            url = next;
        }
        Err(self.protocol("it redirects without end").into())
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

    fn registry(&self) -> &str {
        self.reference.registry()
    }

    fn unavailable(&self, detail: &str) -> RegistryError {
        RegistryError::Unavailable {
            registry: self.registry().into(),
            detail: detail.into(),
        }
    }

    fn protocol(&self, problem: &'static str) -> RegistryError {
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

fn accept(blob: Option<u64>) -> &'static str {
    if blob.is_some() { "*/*" } else { media_type::ACCEPT }
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

fn retry_after(answer: &Response) -> Option<Duration> {
    let passing = answer.status() == StatusCode::TOO_MANY_REQUESTS || answer.status().is_server_error();
    let value = answer.headers().get(RETRY_AFTER).filter(|_| passing)?;
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The error that an unsuccessful answer stands for, with the registry's own words.
pub(super) async fn refusal(registry: &str, what: &str, answer: Response) -> RegistryError {
    let status = answer.status();
    let body = timeout(Duration::from_secs(10), bounded_body(answer, LARGEST_ERROR_BODY)).await;
    let detail = body
        .ok()
        .and_then(Result::ok)
        .map_or_else(String::new, |body| words(&body));
    let (registry, what) = (registry.to_owned(), what.to_owned());
    match status {
        StatusCode::NOT_FOUND => RegistryError::NotFound {
            registry,
            what,
            detail,
        },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Unauthorized {
            registry,
            what,
            detail,
        },
        StatusCode::TOO_MANY_REQUESTS => RegistryError::Unavailable {
            registry,
            detail: "too many requests".into(),
        },
        status if status.is_server_error() => RegistryError::Unavailable {
            registry,
            detail: format!("status {}", status.as_u16()),
        },
        status => RegistryError::Refused {
            registry,
            what,
            status: status.as_u16(),
            detail,
        },
    }
}

/// `{"errors": [{"code", "message"}]}` (distribution-spec) or the start of whatever came, without
/// anything that could fake another line or carry a URL's secrets.
fn words(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Body>(body) {
        Ok(Body { errors }) => {
            let all: Vec<String> = errors
                .iter()
                .take(3)
                .map(|error| format!("{} {}", error.code, error.message))
                .collect();
            all.join("; ")
        }
        // Pages for browsers say nothing useful.
        Err(_) if body.trim_ascii_start().starts_with(b"<") => String::new(),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let clean = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty());
    let clean: Vec<String> = clean.map(redact).collect();
    clean.join(" ").chars().take(LONGEST_DETAIL).collect()
}

/// A word that is a URL loses its user and query.
fn redact(word: &str) -> String {
    let Some(at) = word.find("://") else {
        return word.to_owned();
    };
    let (scheme, rest) = word.split_at(at + 3);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or_default();
    format!("{scheme}{host}{}", &rest[end..])
}

pub(super) enum BodyError {
    TooLarge,
    Cut(String),
}

/// A body of at most `limit` bytes.
pub(super) async fn bounded_body(mut answer: Response, limit: usize) -> Result<Bytes, BodyError> {
    let mut body = Vec::new();
    while let Some(piece) = answer
        .chunk()
        .await
        .map_err(|error| BodyError::Cut(cause(&error)))?
    {
        if body.len() + piece.len() > limit {
            return Err(BodyError::TooLarge);
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.into())
}

/// The innermost reason of a transport error, without URLs and addresses.
pub(super) fn cause(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if let Some(io) = innermost.downcast_ref::<std::io::Error>()
        && let Some(code) = io.raw_os_error()
    {
        return rustix::io::Errno::from_raw_os_error(code).to_string();
    }
    if error.is_timeout() {
        return "timed out".into();
    }
    let text = if innermost.source().is_none() && innermost.is::<reqwest::Error>() {
        "the connection failed".to_owned()
    } else {
        innermost.to_string()
    };
    words(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_a_registry_without_its_secrets() {
        let body = br#"{"errors":[{"code":"DENIED","message":"see https://u:p@a.io/x?sig=s\nnow"}]}"#;
        assert_eq!(words(body), "DENIED see https://a.io/x now");
        assert_eq!(words(b"<html>"), "");
        assert!(words("x".repeat(5000).as_bytes()).len() <= LONGEST_DETAIL);
        assert_eq!(redact("http://a.io"), "http://a.io");
    }
}
