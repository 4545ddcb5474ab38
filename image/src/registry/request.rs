//! One request to one place: challenges met, redirects followed.

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, RANGE};
use reqwest::{Response, StatusCode, Url};
use tokio::time::timeout;

use super::RegistryError;
use super::answer::{cause, refusal, retry_after};
use super::auth::{Challenge, TokenRequest};
use super::client::{Failure, Place, Session};
use super::credentials::Credentials;
use crate::manifest::media_type;

const MOST_REDIRECTS: usize = 5;

impl Session {
    /// One successful answer (2xx), having met challenges and followed redirects.
    pub(super) async fn get(
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
}

fn accept(blob: Option<u64>) -> &'static str {
    if blob.is_some() { "*/*" } else { media_type::ACCEPT }
}
