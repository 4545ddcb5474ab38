//! Giving a registry what it does not have (distribution-spec 1.1, push side).
//!
//! ```text
//!   HEAD blobs/<digest> ── 200: nothing to do
//!        └─ 404: POST blobs/uploads/ ─► Location ─► PUT Location?digest=…  (one streamed body)
//!   PUT manifests/<tag>   once all blobs are there
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode};
use tokio::time::timeout;

use super::RegistryError;
use super::answer::{cause, refusal, retry_after};
use super::auth::Challenge;
use super::client::{Place, Session};
use super::round::Failure;
use crate::digest::Digest;

/// What a token must allow.
const ACTIONS: &str = "pull,push";
/// Of a file at once.
const PIECE: u64 = 256 << 10;

/// The place that takes what is pushed.
pub(crate) struct Target<'a> {
    session: &'a Session,
    place: &'a Place,
}

/// A blob's content.
#[derive(Clone)]
pub(crate) enum Content {
    Bytes(Bytes),
    /// A whole file of that size.
    File(Arc<File>, u64),
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, size) => *size,
        }
    }

    /// The body of a request; what has been read of it is counted.
    fn body(&self, sent: &Arc<AtomicU64>) -> Body {
        let (content, sent, all) = (self.clone(), sent.clone(), self.size());
        let pieces = stream::try_unfold(0, move |from: u64| {
            let (content, sent) = (content.clone(), sent.clone());
            async move {
                if from == all {
                    return Ok(None);
                }
                let piece = content.piece(from, PIECE.min(all - from)).await?;
                let next = from + piece.len() as u64;
                sent.store(next, Ordering::Relaxed);
                Ok::<_, std::io::Error>(Some((Frame::data(piece), next)))
            }
        });
        Body::wrap(StreamBody::new(pieces))
    }

    async fn piece(&self, from: u64, length: u64) -> std::io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.slice(from as usize..(from + length) as usize)),
            Self::File(file, _) => {
                let file = file.clone();
                let read = tokio::task::spawn_blocking(move || {
                    let mut piece = vec![0; length as usize];
                    file.read_exact_at(&mut piece, from)?;
                    Ok(piece.into())
                });
                read.await.map_err(std::io::Error::other)?
            }
        }
    }
}

impl Session {
    /// The first place that takes pushes and answers at all.
    pub(crate) async fn target(&self) -> Result<Target<'_>, RegistryError> {
        let mut last = self.unavailable("its configuration leaves no place to push to");
        for place in self.places.iter().filter(|place| place.endpoint.pushes) {
            let target = Target { session: self, place };
            let asked = target.send(place.client.get(place.endpoint.base.clone())).await;
            match asked {
                Ok(_) => return Ok(target),
                Err(failure) => last = failure.error,
            }
        }
        Err(last)
    }
}

impl Target<'_> {
    /// Whether the repository has the blob already.
    pub(crate) async fn has(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let url = self.session.url(self.place, &format!("blobs/{digest}"))?;
        let head = || Ok(self.place.client.head(url.clone()));
        match self.persist(digest.as_str(), head).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uploads a blob; `sent` counts the bytes of it that are on their way.
    pub(crate) async fn upload(
        &self,
        digest: &Digest,
        content: &Content,
        sent: &Arc<AtomicU64>,
    ) -> Result<(), RegistryError> {
        let mut failures = 0;
        loop {
            match self.upload_once(digest, content, sent).await {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    failures += 1;
                    self.session.back_off(failure, failures).await?;
                }
            }
        }
    }

    async fn upload_once(
        &self,
        digest: &Digest,
        content: &Content,
        sent: &Arc<AtomicU64>,
    ) -> Result<(), Failure> {
        let url = self.session.url(self.place, "blobs/uploads/")?;
        let begin = || Ok(self.place.client.post(url.clone()).header(CONTENT_LENGTH, 0));
        let begun = self.authorized(digest.as_str(), begin, None).await?;
        let location = begun
            .headers()
            .get(LOCATION)
            .and_then(|value| value.to_str().ok());
        let location = location.and_then(|location| url.join(location).ok());
        let mut location =
            location.ok_or_else(|| self.session.protocol("it names no place for an upload"))?;
        if url.scheme() == "https" && location.scheme() != "https" {
            let problem = "it wants an upload without TLS";
            return Err(self.session.protocol(problem).into());
        }
        location.query_pairs_mut().append_pair("digest", digest.as_str());
        let put = || {
            let request = self.place.client.request(Method::PUT, location.clone());
            Ok(request
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, content.size())
                .body(content.body(sent)))
        };
        self.authorized(digest.as_str(), put, Some(sent)).await?;
        Ok(())
    }

    /// Publishes a manifest whose blobs are all there.
    pub(crate) async fn publish(
        &self,
        version: &str,
        media_type: &str,
        bytes: &Bytes,
    ) -> Result<(), RegistryError> {
        let url = self.session.url(self.place, &format!("manifests/{version}"))?;
        let put = || {
            let request = self.place.client.put(url.clone());
            Ok(request.header(CONTENT_TYPE, media_type).body(bytes.clone()))
        };
        self.persist(version, put).await.map(drop)
    }

    /// Tries until it worked, or failed for good.
    async fn persist(
        &self,
        what: &str,
        build: impl Fn() -> Result<RequestBuilder, RegistryError>,
    ) -> Result<Response, RegistryError> {
        let mut failures = 0;
        loop {
            match self.authorized(what, &build, None).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => {
                    failures += 1;
                    self.session.back_off(failure, failures).await?;
                }
            }
        }
    }

    /// One successful answer, having met a challenge. `sent` shows that a long request goes on.
    async fn authorized(
        &self,
        what: &str,
        build: impl Fn() -> Result<RequestBuilder, RegistryError>,
        sent: Option<&Arc<AtomicU64>>,
    ) -> Result<Response, Failure> {
        let mut challenged = false;
        loop {
            let used = self.place.authorization();
            let mut answer = match sent {
                None => self.send(build()?).await?,
                Some(sent) => self.watched(self.send(build()?), sent).await?,
            };
            let status = answer.status();
            if status.is_success() {
                return Ok(answer);
            }
            if status == StatusCode::UNAUTHORIZED
                && !challenged
                && let Some(challenge) = Challenge::of(answer.headers())
            {
                self.session
                    .renew(self.place, challenge, used.as_ref(), ACTIONS)
                    .await?;
                challenged = true;
                continue;
            }
            if status.is_redirection() {
                return Err(self.session.protocol("it redirects what is pushed").into());
            }
            let wait = retry_after(&answer, (self.session.config.clock.now)());
            return Err(Failure {
                error: refusal(self.session.registry(), what, &mut answer).await,
                wait,
                answered: true,
            });
        }
    }

    /// One request, with what is ours when it goes to the endpoint's own origin.
    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let unavailable = |error: &reqwest::Error| self.session.unavailable(&cause(error));
        let mut request = request.build().map_err(|error| unavailable(&error))?;
        if request.url().origin() == self.place.endpoint.base.origin() {
            for (name, value) in &self.place.endpoint.headers {
                request.headers_mut().append(name, value.clone());
            }
            if let Some(authorization) = self.place.authorization() {
                request.headers_mut().insert(AUTHORIZATION, authorization);
            }
        }
        let (lanes, places) = (&self.session.lanes, self.session.config.connections_per_host);
        let _lane = lanes.enter(request.url(), places).await;
        let limit = self.session.config.progress_timeout;
        let streamed = request.body().is_some_and(|body| body.as_bytes().is_none());
        let sending = self.place.client.execute(request);
        let answer = if streamed {
            sending.await
        } else {
            timeout(limit, sending)
                .await
                .map_err(|_| self.session.unavailable("no answer within the progress timeout"))?
        };
        answer.map_err(|error| unavailable(&error).into())
    }

    /// Gives up when nothing more was sent for the length of the progress timeout.
    async fn watched<T>(
        &self,
        sending: impl Future<Output = Result<T, Failure>>,
        sent: &Arc<AtomicU64>,
    ) -> Result<T, Failure> {
        let mut sending = std::pin::pin!(sending);
        let mut before = None;
        loop {
            match timeout(self.session.config.progress_timeout, &mut sending).await {
                Ok(answer) => return answer,
                Err(_) => {
                    let now = Some(sent.load(Ordering::Relaxed));
                    if now == before {
                        let detail = "it takes nothing within the progress timeout";
                        return Err(self.session.unavailable(detail).into());
                    }
                    before = now;
                }
            }
        }
    }
}
