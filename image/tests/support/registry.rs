//! A registry in this process: serves what it was given, counts requests, and misbehaves on
//! request.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use image::digest::Digest;
use image::{PullRequest, Reference};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::images::{INDEX, MANIFEST, TestImage};

/// What a request looked like.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: http::Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<String>,
    pub(crate) version: http::Version,
    pub(crate) headers: http::HeaderMap,
}

pub(crate) type Answer = Response<BoxBody<Bytes, std::io::Error>>;
/// Looks at a request before the registry does; an answer of its own wins.
type Fault = Box<dyn FnMut(&Seen) -> Option<Answer> + Send>;

#[derive(Default)]
struct State {
    manifests: HashMap<String, (String, Vec<u8>)>,
    blobs: HashMap<String, Vec<u8>>,
    seen: Vec<Seen>,
    fault: Option<Fault>,
    /// Uploads begun so far.
    uploads: usize,
}

/// Answered in this way, a request is not: the connection ends.
#[derive(Clone)]
struct HangUp;

/// A running registry; ends with the value.
pub(crate) struct TestRegistry {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl TestRegistry {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0", None).await
    }

    /// Over TLS when a server's configuration is given; HTTP/2 when the client asks for it then.
    pub(crate) async fn start_at(address: &str, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let serving = state.clone();
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let (state, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, state).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, state).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, state, task }
    }

    pub(crate) fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }

    pub(crate) fn request(&self, name: &str) -> PullRequest {
        PullRequest::anonymous(self.reference(name))
    }

    /// Serves an image by its digest and under a name like `app:tag`.
    pub(crate) fn add(&self, name: &str, image: &TestImage) {
        self.add_document(name, MANIFEST, &image.manifest);
        self.add_blob(&image.config);
        for layer in &image.layers {
            self.add_blob(&layer.blob);
        }
    }

    pub(crate) fn add_index(&self, name: &str, index: &[u8]) {
        self.add_document(name, INDEX, index);
    }

    pub(crate) fn add_document(&self, name: &str, media_type: &str, bytes: &[u8]) {
        let (repository, tag) = name.split_once(':').unwrap();
        let mut state = self.state.lock().unwrap();
        for version in [tag.to_owned(), Digest::sha256(bytes).to_string()] {
            let path = format!("/v2/{repository}/manifests/{version}");
            state.manifests.insert(path, (media_type.into(), bytes.to_vec()));
        }
    }

    pub(crate) fn add_blob(&self, bytes: &[u8]) {
        self.add_blob_as(&Digest::sha256(bytes), bytes);
    }

    /// Under a digest that may be a lie.
    pub(crate) fn add_blob_as(&self, digest: &Digest, bytes: &[u8]) {
        self.state
            .lock()
            .unwrap()
            .blobs
            .insert(digest.to_string(), bytes.to_vec());
    }

    pub(crate) fn fault(&self, fault: impl FnMut(&Seen) -> Option<Answer> + Send + 'static) {
        self.state.lock().unwrap().fault = Some(Box::new(fault));
    }

    /// What is stored under a digest.
    pub(crate) fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        self.state.lock().unwrap().blobs.get(digest).cloned()
    }

    /// Type and bytes of the manifest of `app:tag`.
    pub(crate) fn manifest(&self, name: &str) -> Option<(String, Vec<u8>)> {
        let (repository, tag) = name.split_once(':').unwrap();
        let path = format!("/v2/{repository}/manifests/{tag}");
        self.state.lock().unwrap().manifests.get(&path).cloned()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path.contains(part)).count()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<Mutex<State>>) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move {
            let answer = answer(&state, request).await;
            match answer.extensions().get::<HangUp>() {
                Some(HangUp) => Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted)),
                None => Ok(answer),
            }
        }
    });
    // A connection that breaks is what some faults are about.
    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn full(bytes: &[u8]) -> BoxBody<Bytes, std::io::Error> {
    Full::new(Bytes::copy_from_slice(bytes))
        .map_err(|never| match never {})
        .boxed()
}

pub(crate) fn status(status: u16) -> Answer {
    Response::builder().status(status).body(full(b"")).unwrap()
}

pub(crate) fn body(bytes: &[u8]) -> Answer {
    Response::new(full(bytes))
}

pub(crate) fn with_header(status: u16, name: &str, value: &str) -> Answer {
    Response::builder()
        .status(status)
        .header(name, value)
        .body(full(b""))
        .unwrap()
}

/// An answer with any status, header and body.
pub(crate) fn answer_with(status: u16, headers: &[(&str, &str)], bytes: &[u8]) -> Answer {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(full(bytes)).unwrap()
}

/// No answer at all: the connection ends, whatever was still to be read of the request.
pub(crate) fn hang_up() -> Answer {
    let mut answer = status(500);
    answer.extensions_mut().insert(HangUp);
    answer
}

/// Promises all of `bytes`, and cuts the connection after `at` of them.
pub(crate) fn cut(bytes: &[u8], at: usize) -> Answer {
    let part = Ok(Frame::data(Bytes::copy_from_slice(&bytes[..at])));
    let pieces = stream::iter([part, Err(std::io::Error::other("cut"))]);
    // The first piece must be out before the connection breaks.
    let pieces = futures::StreamExt::then(pieces, |piece| async move {
        if piece.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        piece
    });
    let body = StreamBody::new(pieces);
    Response::builder()
        .header("content-length", bytes.len())
        .body(body.boxed())
        .unwrap()
}

/// Eight pieces with a pause before each, and silence until as many bytes came as were promised.
pub(crate) fn in_pieces(bytes: &[u8], promised: usize, pause: std::time::Duration) -> Answer {
    let size = bytes.len().div_ceil(8);
    let pieces: Vec<Bytes> = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
    let complete = bytes.len() == promised;
    let pieces = stream::iter(pieces);
    let pieces = futures::StreamExt::then(pieces, move |piece| async move {
        tokio::time::sleep(pause).await;
        Ok(Frame::data(piece))
    });
    let silence = stream::once(async move {
        if !complete {
            std::future::pending::<()>().await;
        }
        Ok(Frame::data(Bytes::new()))
    });
    let body = StreamBody::new(futures::StreamExt::chain(pieces, silence));
    Response::builder()
        .header("content-length", promised)
        .body(BodyExt::boxed(body))
        .unwrap()
}

/// The bytes, without a copy of them.
pub(crate) fn shared(bytes: &Bytes) -> Answer {
    Response::new(Full::new(bytes.clone()).map_err(|never| match never {}).boxed())
}

/// The bytes, once the gate is open.
pub(crate) fn held(bytes: &[u8], mut gate: tokio::sync::watch::Receiver<bool>) -> Answer {
    let bytes = Bytes::copy_from_slice(bytes);
    let pieces = stream::once(async move {
        let opened = gate.wait_for(|open| *open).await;
        opened.map(|_| Frame::data(bytes)).map_err(std::io::Error::other)
    });
    Response::builder().body(StreamBody::new(pieces).boxed()).unwrap()
}

/// The bytes once `together` answers were on their way at once, with a count of how many there are.
pub(crate) fn counted(bytes: &[u8], under_way: &Arc<UnderWay>, together: usize) -> Answer {
    let (bytes, entry) = (Bytes::copy_from_slice(bytes), under_way.enter());
    let pieces = stream::once(async move {
        entry.0.reached(together).await;
        // For those that must not be here at the same time.
        tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        drop(entry);
        Ok(Frame::data(bytes))
    });
    Response::builder().body(StreamBody::new(pieces).boxed()).unwrap()
}

/// How many answers are on their way, and the most there ever were.
#[derive(Default)]
pub(crate) struct UnderWay(Mutex<(usize, usize)>, tokio::sync::watch::Sender<usize>);

pub(crate) struct Entry(Arc<UnderWay>);

impl UnderWay {
    fn enter(self: &Arc<Self>) -> Entry {
        let mut counts = self.0.lock().unwrap();
        counts.0 += 1;
        counts.1 = counts.1.max(counts.0);
        self.1.send_replace(counts.1);
        Entry(self.clone())
    }

    /// Waits until there were so many at once.
    async fn reached(&self, together: usize) {
        let mut most = self.1.subscribe();
        let _ = most.wait_for(|most| *most >= together).await;
    }

    pub(crate) fn most(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().0 -= 1;
    }
}

async fn answer(state: &Mutex<State>, request: Request<Incoming>) -> Answer {
    let header = |name| {
        request
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let seen = Seen {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        authorization: header("authorization"),
        range: header("range"),
        version: request.version(),
        headers: request.headers().clone(),
    };
    {
        let mut state = state.lock().unwrap();
        state.seen.push(seen.clone());
        if let Some(fault) = &mut state.fault
            && let Some(answer) = fault(&seen)
        {
            return answer;
        }
    }
    if matches!(seen.method, http::Method::POST | http::Method::PUT) {
        return match request.into_body().collect().await {
            Ok(body) => state.lock().unwrap().take(&seen, &body.to_bytes()),
            Err(_) => hang_up(),
        };
    }
    state.lock().unwrap().give(&seen)
}

impl State {
    fn give(&self, seen: &Seen) -> Answer {
        if let Some((media_type, bytes)) = self.manifests.get(&seen.path) {
            return Response::builder()
                .header("content-type", media_type)
                .body(full(bytes))
                .unwrap();
        }
        let blob = seen
            .path
            .rsplit_once("/blobs/")
            .and_then(|(_, digest)| self.blobs.get(digest));
        let Some(blob) = blob else { return status(404) };
        let range = seen.range.as_deref();
        let start = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let Some(start) = start else { return body(blob) };
        let start: usize = start;
        let range = format!("bytes {start}-{}/{}", blob.len() - 1, blob.len());
        Response::builder()
            .status(StatusCode::PARTIAL_CONTENT)
            .header("content-range", range)
            .body(full(&blob[start..]))
            .unwrap()
    }

    /// The push side: an upload begins, an upload ends, a manifest comes.
    fn take(&mut self, seen: &Seen, bytes: &[u8]) -> Answer {
        if seen.path.ends_with("/blobs/uploads/") {
            self.uploads += 1;
            return with_header(202, "location", &format!("{}{}?state=x", seen.path, self.uploads));
        }
        if seen.path.contains("/blobs/uploads/") {
            let named = seen
                .query
                .split('&')
                .find_map(|pair| pair.strip_prefix("digest="));
            let digest = named.unwrap_or_default().replace("%3A", ":");
            if Digest::sha256(bytes).to_string() != digest {
                return status(400);
            }
            self.blobs.insert(digest, bytes.to_vec());
            return status(201);
        }
        let media_type = seen.headers["content-type"].to_str().unwrap().to_owned();
        self.manifests
            .insert(seen.path.clone(), (media_type, bytes.to_vec()));
        status(201)
    }
}
