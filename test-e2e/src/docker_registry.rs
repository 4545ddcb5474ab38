//! Debian's `docker-registry`, the reference implementation, on a host's loopback.
//!
//! Images are pushed by the distribution API's own upload calls, so what `crisp` pulls has gone
//! through a registry that others wrote.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;

use crate::eventually::eventually;
use crate::host::Host;
use crate::images::{Blob, Image};

/// A running `docker-registry` with an empty store, ended with the value.
pub struct DockerRegistry {
    address: SocketAddr,
    child: Child,
    _store: TempDir,
}

impl DockerRegistry {
    /// Starts it on `127.0.0.1:<port>` of `host` and waits until it answers.
    ///
    /// # Panics
    /// When it is not installed (`make test` does that) or does not come up.
    pub async fn start(host: &Host, port: u16) -> Self {
        let store = tempfile::Builder::new()
            .prefix("crisp-registry-")
            .tempdir()
            .expect("a temporary directory");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let config = store.path().join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\n",
                store.path().join("data").display(),
            ),
        )
        .expect("writing into a fresh directory");
        let child = host
            .enter(move || {
                Command::new("docker-registry")
                    .arg("serve")
                    .arg(config)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
            })
            .await
            .expect("docker-registry (Debian: docker-registry; `make test` installs it)");
        let registry = Self {
            address,
            child,
            _store: store,
        };
        eventually("docker-registry answers", || async {
            let answer = host
                .run(request(
                    address,
                    Method::GET,
                    "/v2/".to_owned(),
                    None,
                    Bytes::new(),
                ))
                .await;
            answer
                .is_ok_and(|response| response.status() == StatusCode::OK)
                .then_some(())
        })
        .await;
        registry
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Pushes `image` as `<address>/<repository>:<tag>` and returns that reference.
    ///
    /// # Panics
    /// When the registry refuses.
    pub async fn push(&self, host: &Host, repository: &str, tag: &str, image: &Image) -> String {
        for blob in image.blobs() {
            self.push_blob(host, repository, blob).await;
        }
        self.push_manifest(host, repository, tag, &image.manifest).await
    }

    /// Pushes a manifest or index whose parts are already there.
    ///
    /// # Panics
    /// When the registry refuses.
    pub async fn push_manifest(&self, host: &Host, repository: &str, name: &str, manifest: &Blob) -> String {
        let path = format!("/v2/{repository}/manifests/{name}");
        let kind = Some(manifest.media_type);
        let response = host
            .run(request(
                self.address,
                Method::PUT,
                path,
                kind,
                manifest.bytes.clone(),
            ))
            .await
            .expect("the registry answers");
        assert_eq!(
            response.status(),
            StatusCode::CREATED,
            "pushing a manifest: {:?}",
            response.body()
        );
        format!("{}/{repository}:{name}", self.address)
    }

    async fn push_blob(&self, host: &Host, repository: &str, blob: &Blob) {
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        let begun = host
            .run(request(self.address, Method::POST, uploads, None, Bytes::new()))
            .await
            .expect("the registry answers");
        assert_eq!(
            begun.status(),
            StatusCode::ACCEPTED,
            "starting an upload: {:?}",
            begun.body()
        );
        let location = begun.headers()[LOCATION].to_str().expect("a plain header");
        let path = location
            .split_once(&self.address.to_string())
            .map_or(location, |(_, path)| path);
        let joint = if path.contains('?') { '&' } else { '?' };
        let target = format!("{path}{joint}digest={}", blob.digest);
        let kind = Some("application/octet-stream");
        let done = host
            .run(request(
                self.address,
                Method::PUT,
                target,
                kind,
                blob.bytes.clone(),
            ))
            .await
            .expect("the registry answers");
        assert_eq!(
            done.status(),
            StatusCode::CREATED,
            "uploading a blob: {:?}",
            done.body()
        );
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Why a plain HTTP request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection.
    #[error("connecting: {0}")]
    Connect(#[from] std::io::Error),
    /// The exchange broke.
    #[error("exchange: {0}")]
    Exchange(#[from] hyper::Error),
}

/// One plain HTTP request on a connection of its own; run it on the host whose network it is for.
///
/// # Errors
/// When the connection or the exchange fails; a status is not an error.
///
/// # Panics
/// When the request cannot be put together.
pub async fn request(
    address: SocketAddr,
    method: Method,
    path: String,
    content_type: Option<&'static str>,
    body: Bytes,
) -> Result<Response<Bytes>, HttpError> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let served = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string());
    if let Some(kind) = content_type {
        request = request.header(CONTENT_TYPE, kind);
    }
    let response = sender
        .send_request(request.body(Full::new(body)).expect("a plain request"))
        .await?;
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await?.to_bytes();
    served.abort();
    Ok(Response::from_parts(parts, bytes))
}
