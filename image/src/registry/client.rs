//! One pull's conversation with the places that have its repository.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use reqwest::Client;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use tokio::time::timeout;

use super::answer::{BodyError, bounded_body};
use super::credentials::Credentials;
use super::docker_config::DockerConfig;
use super::hosts::{self, Endpoint};
use super::lanes::Lanes;
use super::names::Names;
use super::request::Question;
use super::round::{Failure, Round};
use super::{RegistryConfig, RegistryError};
use crate::digest::Digest;
use crate::document::{DocumentError, LARGEST_DOCUMENT};
use crate::error::Error;
use crate::manifest::Descriptor;
use crate::reference::{Reference, Version};
use crate::store::blocking;

/// The endpoints of one reference with the credentials of one request.
pub(crate) struct Session {
    pub(super) reference: Reference,
    pub(super) config: RegistryConfig,
    pub(super) lanes: Arc<Lanes>,
    pub(super) places: Vec<Place>,
}

/// One endpoint as one request may use it.
pub(super) struct Place {
    pub(super) endpoint: Endpoint,
    pub(super) client: Client,
    /// Who we are there: what the request brought is for the registry itself alone.
    pub(super) credentials: Credentials,
    /// What met its last challenge.
    authorization: Mutex<Option<HeaderValue>>,
    /// Held by the one request that meets a challenge for all.
    pub(super) asking: tokio::sync::Mutex<()>,
}

/// A tag or digest looked up.
pub(crate) struct Resolved {
    pub(crate) descriptor: Descriptor,
    pub(crate) bytes: Bytes,
}

/// A document to ask for.
struct Wanted<'a> {
    question: Question<'a>,
    limit: u64,
    /// Only places that may resolve tags can answer.
    by_tag: bool,
}

impl Place {
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        self.held().clone()
    }

    pub(super) fn authorize(&self, authorization: Option<HeaderValue>) {
        *self.held() = authorization;
    }

    fn held(&self) -> MutexGuard<'_, Option<HeaderValue>> {
        self.authorization
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Session {
    /// Reads the configuration of the reference's registry, and asks credential helpers where the
    /// request brings none; connects to nothing yet.
    pub(crate) async fn open(
        config: &RegistryConfig,
        lanes: &Arc<Lanes>,
        reference: &Reference,
        credentials: Credentials,
    ) -> Result<Self, Error> {
        let (read, registry) = (config.clone(), reference.registry().to_owned());
        let (mut places, kept) = blocking("read the registry's configuration", move || {
            let kept = read.docker_config.as_deref().map(DockerConfig::read);
            let kept = kept.transpose()?.flatten();
            let (helpers, limit) = (read.credential_helpers.as_deref(), read.helper_timeout);
            let kept = kept.map(|kept| kept.helpers(helpers, limit));
            Ok((places(&read, &registry)?, kept))
        })
        .await?;
        for place in &mut places {
            let upstream = place.endpoint.upstream;
            place.credentials = match &kept {
                _ if upstream && credentials != Credentials::Anonymous => credentials.clone(),
                None => Credentials::Anonymous,
                Some(kept) => {
                    let own = place.endpoint.authority();
                    let host = if upstream { reference.registry() } else { &own };
                    kept.credentials(host, reference).await?
                }
            };
        }
        Ok(Self {
            reference: reference.clone(),
            config: config.clone(),
            lanes: lanes.clone(),
            places,
        })
    }

    /// Turns the reference into a document with a known digest.
    pub(crate) async fn resolve(&self) -> Result<Resolved, Error> {
        let version = match self.reference.version() {
            Version::Tag(tag) => tag.clone(),
            Version::Digest { digest, .. } => digest.to_string(),
        };
        let name = self.reference.to_string();
        let wanted = Wanted {
            question: Question::document(format!("manifests/{version}"), &name),
            limit: LARGEST_DOCUMENT,
            by_tag: self.reference.tag().is_some(),
        };
        let (bytes, announced) = self.everywhere(&wanted).await?;
        let digest = match self.reference.digest() {
            Some(wanted) => verified(wanted, &bytes)?,
            None => Digest::sha256(&bytes),
        };
        let descriptor = Descriptor {
            media_type: announced.unwrap_or_default(),
            digest,
            size: bytes.len() as u64,
            platform: None,
            annotations: BTreeMap::new(),
        };
        Ok(Resolved { descriptor, bytes })
    }

    /// A manifest or index by its descriptor.
    pub(crate) async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let digest = &descriptor.digest;
        let question = Question::document(format!("manifests/{digest}"), digest.as_str());
        self.document(question, descriptor).await
    }

    /// A small blob (a configuration) by its descriptor.
    pub(crate) async fn small_blob(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let question = Question::blob(&descriptor.digest, 0);
        self.document(question, descriptor).await
    }

    async fn document(&self, question: Question<'_>, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let refused = |problem| Error::Document {
            what: descriptor.digest.to_string(),
            problem,
        };
        if descriptor.size > LARGEST_DOCUMENT {
            return Err(refused(DocumentError::TooLarge {
                size: descriptor.size,
            }));
        }
        let wanted = Wanted {
            question,
            limit: descriptor.size,
            by_tag: false,
        };
        let (bytes, _) = self.everywhere(&wanted).await?;
        if bytes.len() as u64 != descriptor.size {
            return Err(refused(DocumentError::WrongSize {
                wanted: descriptor.size,
                found: bytes.len() as u64,
            }));
        }
        verified(&descriptor.digest, &bytes)?;
        Ok(bytes)
    }

    /// Asks one place after the other, and all of them again after a wait.
    async fn everywhere(&self, wanted: &Wanted<'_>) -> Result<(Bytes, Option<String>), Error> {
        let mut failures = 0;
        loop {
            let mut round = Round::default();
            let places = self.places.iter().filter(|place| place.endpoint.pulls);
            for place in places.filter(|place| place.endpoint.resolves || !wanted.by_tag) {
                match self.small(place, wanted).await {
                    Ok(value) => return Ok(value),
                    Err(failure) if !failure.error.is_definite() => return Err(failure.error.into()),
                    Err(failure) => round.add(place.endpoint.upstream, failure),
                }
            }
            let failure = round.telling().ok_or_else(|| self.nowhere())?;
            failures += 1;
            self.back_off(failure, failures).await?;
        }
    }

    /// Waits before the next try, or gives the failure back when there is none.
    pub(super) async fn back_off(&self, failure: Failure, failures: u32) -> Result<(), RegistryError> {
        let wait = self
            .config
            .retry
            .wait(failures, failure.wait)
            .filter(|_| failure.error.is_passing());
        let Some(wait) = wait else {
            return Err(failure.error);
        };
        tracing::debug!(error = %failure.error, ?wait, "trying again");
        (self.config.clock.sleep)(wait).await;
        Ok(())
    }

    /// A document and the type the place gives it.
    async fn small(&self, place: &Place, wanted: &Wanted<'_>) -> Result<(Bytes, Option<String>), Failure> {
        let mut answer = self.get(place, &wanted.question).await?;
        let media_type = answer
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let media_type = media_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_owned());
        let limit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
        match timeout(self.config.progress_timeout, bounded_body(&mut answer, limit)).await {
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

    pub(super) fn nowhere(&self) -> RegistryError {
        self.unavailable("its configuration leaves no place to pull from")
    }
}

/// The endpoints, each with a client that trusts as it says. Equal ways of trusting share one.
fn places(config: &RegistryConfig, registry: &str) -> Result<Vec<Place>, RegistryError> {
    let names = Names::new(&config.names);
    let mut clients: Vec<(super::tls::Tls, Client)> = Vec::new();
    let mut places = Vec::new();
    for endpoint in hosts::endpoints(config, registry)? {
        let known = clients.iter().find(|(tls, _)| *tls == endpoint.tls);
        let client = match known {
            Some((_, client)) => client.clone(),
            None => {
                let client = endpoint.tls.client(config, &names, registry)?;
                clients.push((endpoint.tls.clone(), client.clone()));
                client
            }
        };
        places.push(Place {
            endpoint,
            client,
            credentials: Credentials::Anonymous,
            authorization: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        });
    }
    Ok(places)
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
