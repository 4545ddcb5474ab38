//! A small registry that speaks the distribution API's pull half and misbehaves on request.
//!
//! It listens on a host's loopback, keeps everything in memory, writes down every request, and can
//! demand the token flow. `GET /v2/`, manifests, blobs with `Range`, and `/token` are all there is.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::Notify;

use crate::faults::{Fault, On, Pending};
use crate::host::Host;
use crate::images::{Blob, Image};

type Body = BoxBody<Bytes, io::Error>;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `GET` or `HEAD`.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The `Authorization` header, if any.
    pub authorization: Option<String>,
    /// The `Range` header, if any.
    pub range: Option<String>,
    /// The `Accept` header, if any.
    pub accept: Option<String>,
}

#[derive(Default)]
struct State {
    blobs: HashMap<String, Blob>,
    /// (repository, tag or digest) → digest.
    names: HashMap<(String, String), String>,
    seen: Vec<Seen>,
    pending: Pending,
    credentials: Option<(String, String)>,
    redirect: Option<SocketAddr>,
}

/// The registry; it ends with its host, or when it is closed.
#[derive(Clone)]
pub struct Registry {
    address: SocketAddr,
    closing: Arc<Notify>,
    state: Arc<Mutex<State>>,
}

/// How long a connection outlives the last byte that it carries.
const CUT_AFTER: Duration = Duration::from_millis(50);

/// The token the registry hands out and then demands.
const TOKEN: &str = "the-test-token";

impl Registry {
    /// Listens on `127.0.0.1:<port>` of `host`; 0 picks a port.
    ///
    /// # Panics
    /// When the port is taken.
    pub async fn start(host: &Host, port: u16) -> Self {
        let listener = host
            .run(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)))
            .await
            .expect("a free port");
        let registry = Self::of(&listener);
        host.spawn(registry.clone().serve(listener));
        registry
    }

    /// As [`Self::start`], in the network namespace of the caller.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_here(port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.expect("a free port");
        let registry = Self::of(&listener);
        tokio::spawn(registry.clone().serve(listener));
        registry
    }

    fn of(listener: &tokio::net::TcpListener) -> Self {
        Self {
            address: listener.local_addr().expect("a bound socket has an address"),
            closing: Arc::default(),
            state: Arc::default(),
        }
    }

    async fn serve(self, listener: tokio::net::TcpListener) {
        loop {
            let stream = tokio::select! {
                Ok((stream, _)) = listener.accept() => stream,
                () = self.closing.notified() => break,
            };
            let registry = self.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let registry = registry.clone();
                    async move { Ok::<_, Infallible>(registry.answer(&request)) }
                });
                // A connection that breaks is what some faults are about.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }

    /// Stops listening, before the host ends.
    pub fn close(self) {
        self.closing.notify_one();
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Offers `image` as `<address>/<repository>:<tag>`, and returns that reference.
    pub fn publish(&self, repository: &str, tag: &str, image: &Image) -> String {
        let mut state = self.state();
        state
            .blobs
            .extend(image.blobs().map(|blob| (blob.digest.clone(), blob.clone())));
        drop(state);
        self.publish_manifest(repository, tag, &image.manifest)
    }

    /// Offers a manifest or an index whose parts are already here.
    pub fn publish_manifest(&self, repository: &str, tag: &str, manifest: &Blob) -> String {
        let mut state = self.state();
        state.blobs.insert(manifest.digest.clone(), manifest.clone());
        for name in [tag, &manifest.digest] {
            state
                .names
                .insert((repository.to_owned(), name.to_owned()), manifest.digest.clone());
        }
        format!("{}/{repository}:{tag}", self.address)
    }

    /// Offers an index of these images under one tag.
    pub fn publish_index(&self, repository: &str, tag: &str, images: &[(&str, &Image)]) -> String {
        for (platform, image) in images {
            self.publish(repository, &platform.replace('/', "-"), image);
        }
        self.publish_manifest(repository, tag, &crate::images::index(images))
    }

    /// The next `times` requests of that kind go wrong.
    pub fn fault(&self, on: On, fault: Fault, times: usize) {
        self.state().pending.add(on, fault, times);
    }

    /// From now on all goes well.
    pub fn heal(&self) {
        self.state().pending.clear();
    }

    /// From now on the token flow is demanded, and only these credentials get a token.
    pub fn require(&self, user: &str, password: &str) {
        self.state().credentials = Some((user.to_owned(), password.to_owned()));
    }

    /// Blobs are served by that registry: this one answers 307.
    pub fn redirect_blobs_to(&self, other: &Registry) {
        self.state().redirect = Some(other.address);
    }

    /// What has been asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// How often a blob's or manifest's digest (or tag) was asked for by GET.
    pub fn gets(&self, name: &str) -> usize {
        self.state()
            .seen
            .iter()
            .filter(|seen| seen.method == Method::GET && seen.path.ends_with(name))
            .count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while holding it")
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let header = |name| text(request.headers(), name);
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |all| all.as_str())
            .to_owned();
        let mut state = self.state();
        state.seen.push(Seen {
            method: request.method().clone(),
            path: path.clone(),
            authorization: header(AUTHORIZATION),
            range: header(RANGE),
            accept: header(ACCEPT),
        });
        if path.starts_with("/token") {
            return match state.pending.take(&On::Token) {
                Some(fault) => respond(StatusCode::OK, HeaderMap::new(), Bytes::new(), Some(fault)),
                None => token(&state, header(AUTHORIZATION).as_deref()),
            };
        }
        if state.credentials.is_some() && header(AUTHORIZATION).as_deref() != Some(&format!("Bearer {TOKEN}"))
        {
            return self.challenge();
        }
        let parts: Vec<&str> = path
            .split('?')
            .next()
            .unwrap_or_default()
            .trim_matches('/')
            .split('/')
            .collect();
        match parts.as_slice() {
            ["v2"] => status(StatusCode::OK),
            ["v2", repository @ .., "manifests", name] => {
                state.manifest(&repository.join("/"), name, request.method() == Method::HEAD)
            }
            ["v2", _repository @ .., "blobs", digest] => match state.redirect {
                Some(other) => redirect(other, &path),
                None => state.blob(digest, header(RANGE).as_deref(), request.method() == Method::HEAD),
            },
            _ => status(StatusCode::NOT_FOUND),
        }
    }

    fn challenge(&self) -> Response<Body> {
        let realm = format!(
            r#"Bearer realm="http://{}/token",service="crisp-test""#,
            self.address
        );
        let mut response = status(StatusCode::UNAUTHORIZED);
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, realm.parse().expect("a plain header"));
        response
    }
}

impl State {
    fn manifest(&mut self, repository: &str, name: &str, head: bool) -> Response<Body> {
        let fault = self.pending.take(&On::Manifest);
        let digest = self.names.get(&(repository.to_owned(), name.to_owned()));
        let Some(blob) = digest.and_then(|digest| self.blobs.get(digest)) else {
            return error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, blob.media_type.parse().expect("a plain header"));
        headers.insert(
            "docker-content-digest",
            blob.digest.parse().expect("a plain header"),
        );
        content(StatusCode::OK, headers, blob.bytes.clone(), fault, head)
    }

    fn blob(&mut self, digest: &str, range: Option<&str>, head: bool) -> Response<Body> {
        let fault = self.pending.take(&On::Blob(digest.to_owned()));
        let Some(blob) = self.blobs.get(digest) else {
            return error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN");
        };
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            "application/octet-stream".parse().expect("a plain header"),
        );
        let total = blob.bytes.len();
        let from: Option<usize> =
            range.and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
        match from {
            Some(from) if from < total => {
                let stated = format!("bytes {from}-{}/{total}", total - 1);
                headers.insert(CONTENT_RANGE, stated.parse().expect("a plain header"));
                content(
                    StatusCode::PARTIAL_CONTENT,
                    headers,
                    blob.bytes.slice(from..),
                    fault,
                    head,
                )
            }
            _ => content(StatusCode::OK, headers, blob.bytes.clone(), fault, head),
        }
    }
}

fn token(state: &State, authorization: Option<&str>) -> Response<Body> {
    let wanted = state
        .credentials
        .as_ref()
        .map(|(user, password)| format!("Basic {}", base64(&format!("{user}:{password}"))));
    if authorization.map(str::to_owned) != wanted {
        return error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
    }
    let body = json!({ "token": TOKEN, "expires_in": 300 }).to_string();
    respond(StatusCode::OK, HeaderMap::new(), body.into(), None)
}

fn redirect(to: SocketAddr, path: &str) -> Response<Body> {
    let mut response = status(StatusCode::TEMPORARY_REDIRECT);
    response.headers_mut().insert(
        LOCATION,
        format!("http://{to}{path}").parse().expect("a plain header"),
    );
    response
}

fn text(headers: &HeaderMap, name: http::HeaderName) -> Option<String> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
}

fn status(code: StatusCode) -> Response<Body> {
    respond(code, HeaderMap::new(), Bytes::new(), None)
}

fn error(code: StatusCode, name: &str) -> Response<Body> {
    let body = json!({ "errors": [{ "code": name, "message": "said by the test registry" }] }).to_string();
    respond(code, HeaderMap::new(), body.into(), None)
}

fn content(
    code: StatusCode,
    mut headers: HeaderMap,
    bytes: Bytes,
    fault: Option<Fault>,
    head: bool,
) -> Response<Body> {
    if !head {
        return respond(code, headers, bytes, fault);
    }
    headers.insert(CONTENT_LENGTH, bytes.len().into());
    let mut response = Response::new(stream_body(stream::empty()));
    *response.status_mut() = code;
    *response.headers_mut() = headers;
    response
}

fn respond(code: StatusCode, mut headers: HeaderMap, bytes: Bytes, fault: Option<Fault>) -> Response<Body> {
    let mut code = code;
    let mut length = bytes.len();
    let body = match fault {
        None => stream_body(stream::iter([Ok(bytes)])),
        Some(Fault::Status(instead, extra)) => {
            code = StatusCode::from_u16(instead).expect("a valid status");
            for (name, value) in extra {
                headers.insert(name, value.parse().expect("a plain header"));
            }
            length = 0;
            stream_body(stream::empty())
        }
        Some(Fault::CutAfter(kept)) => {
            let kept = bytes.slice(..kept.min(bytes.len()));
            // hyper drops what it has not written when the body fails: the kept bytes get time to leave.
            let cut = stream::once(async {
                tokio::time::sleep(CUT_AFTER).await;
                Err(io::ErrorKind::ConnectionReset.into())
            });
            stream_body(stream::iter([Ok(kept)]).chain(cut))
        }
        Some(Fault::Corrupt) => {
            let mut changed = bytes.to_vec();
            let middle = changed.len() / 2;
            changed[middle] ^= 0xff;
            stream_body(stream::iter([Ok(changed.into())]))
        }
        Some(Fault::Short(by)) => {
            length = bytes.len().saturating_sub(by);
            stream_body(stream::iter([Ok(bytes.slice(..length))]))
        }
        Some(Fault::Trickle { piece, pause }) => {
            stream_body(stream::unfold(bytes, move |mut rest| async move {
                if rest.is_empty() {
                    return None;
                }
                tokio::time::sleep(pause).await;
                let next = rest.split_to(piece.min(rest.len()));
                Some((Ok(next), rest))
            }))
        }
        Some(Fault::StallAfter(kept)) => {
            let kept = bytes.slice(..kept.min(bytes.len()));
            stream_body(stream::iter([Ok(kept)]).chain(stream::pending()))
        }
    };
    headers.insert(CONTENT_LENGTH, length.into());
    let mut response = Response::new(body);
    *response.status_mut() = code;
    *response.headers_mut() = headers;
    response
}

fn stream_body(pieces: impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static) -> Body {
    BodyExt::boxed(StreamBody::new(pieces.map(|piece| piece.map(Frame::data))))
}

/// RFC 4648 with padding, for one Basic header.
fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let sextet = (bits >> (18 - 6 * place)) & 0x3f;
            encoded.push(if place <= chunk.len() {
                char::from(ALPHABET[sextet as usize])
            } else {
                '='
            });
        }
    }
    encoded
}
