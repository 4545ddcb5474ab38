//! One question to one place: challenges met, redirects followed, and never too many at once.

use std::ops::{Deref, DerefMut};

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, RANGE};
use reqwest::{Response, StatusCode, Url};
use tokio::time::timeout;

use super::RegistryError;
use super::answer::{cause, refusal, retry_after};
use super::auth::{Challenge, TokenRequest};
use super::client::{Place, Session};
use super::lanes::Lane;
use super::round::Failure;
use crate::digest::Digest;
use crate::manifest::media_type;

const MOST_REDIRECTS: usize = 5;
/// Our own answer to a challenge, and twice the token that another request got meanwhile.
const MOST_ATTEMPTS: usize = 4;

/// What to ask for.
pub(super) struct Question<'a> {
    /// Below the repository.
    pub(super) path: String,
    /// For errors.
    pub(super) name: &'a str,
    accept: &'static str,
    /// Bytes that are here already.
    from: u64,
}

impl<'a> Question<'a> {
    /// A manifest or index, by tag or digest.
    pub(super) fn document(path: String, name: &'a str) -> Self {
        Self {
            path,
            name,
            accept: media_type::ACCEPT,
            from: 0,
        }
    }

    /// A blob, or what is missing of it.
    pub(super) fn blob(digest: &'a Digest, from: u64) -> Self {
        Self {
            path: format!("blobs/{digest}"),
            name: digest.as_str(),
            accept: "*/*",
            from,
        }
    }
}

/// An answer, and the place at its host that it takes until it was read.
pub(super) struct Answer {
    response: Response,
    _lane: Option<Lane>,
}

impl Deref for Answer {
    type Target = Response;

    fn deref(&self) -> &Response {
        &self.response
    }
}

impl DerefMut for Answer {
    fn deref_mut(&mut self) -> &mut Response {
        &mut self.response
    }
}

impl Session {
    /// One successful answer (2xx), having met challenges and followed redirects.
    pub(super) async fn get(&self, place: &Place, question: &Question<'_>) -> Result<Answer, Failure> {
        let mut url = self.url(place, &question.path)?;
        if !place.endpoint.upstream {
            // Tells a mirror of several registries which one is meant.
            url.query_pairs_mut().append_pair("ns", self.reference.registry());
        }
        let mut challenged = false;
        for _ in 0..MOST_ATTEMPTS {
            let used = place.authorization();
            let mut answer = self.follow(place, url.clone(), question, used.as_ref()).await?;
            if answer.status().is_success() {
                return Ok(answer);
            }
            if answer.status() == StatusCode::UNAUTHORIZED && !challenged {
                let challenge = Challenge::of(answer.headers());
                if let Some(challenge) = challenge {
                    // Its place is free for others while the token service is asked.
                    drop(answer);
                    challenged = self.renew(place, challenge, used.as_ref(), "pull").await?;
                    continue;
                }
            }
            let wait = retry_after(&answer, (self.config.clock.now)());
            return Err(Failure {
                error: refusal(self.registry(), question.name, &mut answer).await,
                wait,
                answered: true,
            });
        }
        Err(self.protocol("it refuses every token it hands out").into())
    }

    pub(super) fn url(&self, place: &Place, path: &str) -> Result<Url, RegistryError> {
        place
            .endpoint
            .base
            .join(&format!("{}/{path}", self.reference.repository()))
            .map_err(|_| self.protocol("its address cannot take a repository"))
    }

    /// Meets a challenge; `false` when another request did so since `used` was sent. Of all requests
    /// that a registry challenges at once, one asks the token service.
    pub(super) async fn renew(
        &self,
        place: &Place,
        challenge: Challenge,
        used: Option<&HeaderValue>,
        actions: &str,
    ) -> Result<bool, Failure> {
        let _asking = place.asking.lock().await;
        if place.authorization().as_ref() != used {
            return Ok(false);
        }
        let request = TokenRequest {
            client: &place.client,
            registry: self.registry(),
            endpoint: &place.endpoint.base,
            repository: self.reference.repository(),
            actions,
            credentials: &place.credentials,
        };
        let authorization = timeout(self.config.progress_timeout, request.authorize(challenge))
            .await
            .unwrap_or_else(|_| Err(self.unavailable("its token service does not answer")))?;
        place.authorize(authorization);
        Ok(true)
    }

    /// Sends a request and follows redirects. What is ours (authorization, configured headers)
    /// stays with the endpoint's own origin. https is left for http only by who was declared insecure.
    async fn follow(
        &self,
        place: &Place,
        mut url: Url,
        question: &Question<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let origin = place.endpoint.base.origin();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = place.client.get(url.clone()).header(ACCEPT, question.accept);
            if question.from > 0 {
                request = request.header(RANGE, format!("bytes={}-", question.from));
            }
            if url.origin() == origin {
                for (name, value) in &place.endpoint.headers {
                    request = request.header(name, value);
                }
                if let Some(authorization) = authorization {
                    request = request.header(AUTHORIZATION, authorization.clone());
                }
            }
            let lane = self.lanes.enter(&url, self.config.connections_per_host).await;
            let response = match timeout(self.config.progress_timeout, request.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return Err(self.unavailable(&cause(&error)).into()),
                Err(_) => return Err(self.unavailable("no answer within the progress timeout").into()),
            };
            if !response.status().is_redirection() {
                return Ok(Answer {
                    response,
                    _lane: lane,
                });
            }
            let location = response
                .headers()
                .get(LOCATION)
                .and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let next = next.ok_or_else(|| self.protocol("it redirects to nowhere"))?;
            let downgrade = url.scheme() == "https"
                && next.scheme() != "https"
                && !(place.endpoint.tls.skip_verify && next.scheme() == "http");
            if downgrade || !matches!(next.scheme(), "http" | "https") {
                return Err(self.protocol("it redirects from https to something else").into());
            }
            url = next;
        }
        Err(self.protocol("it redirects without end").into())
    }
}
