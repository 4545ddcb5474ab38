//! The HTTP server: a request that is admitted and whose token is good becomes a session.
//!
//! | Answer | When |
//! |---|---|
//! | 101 | the connection is the session's from here on |
//! | 400 | not an upgrade to SPDY/3.1 or WebSocket 13 |
//! | 403 | [`gate`] does not admit it, or no protocol in common |
//! | 404 | no such token: never issued, used, expired, or of another operation |
//! | 429 | as many sessions as there may be |

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::protocol::{self, Agreed, Carrier, Forwarding, Version};
use super::remotecommand::{Shape, Streams};
use super::websocket::connection::Codec;
use super::websocket::connection::Connection;
use super::websocket::handshake;
use super::{Request, attach, exec, gate, port_forward};
use crate::app::App;

/// How long a client may take for its TLS handshake, and for its request.
const OPENING: Duration = Duration::from_secs(10);
/// Most connections whose request has not come yet.
const MAX_OPENING: usize = 1024;
/// Most bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;
/// How long to wait before accepting again when the process has run out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// After so long without a word the kernel asks a peer whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

type Answer = Response<Full<Bytes>>;

/// Serves for ever.
pub async fn serve(app: Arc<App>, listener: TcpListener) {
    let opening = Arc::new(Semaphore::new(MAX_OPENING));
    loop {
        match listener.accept().await {
            // Beyond the bound a connection is closed without a word: whoever opens so many is no kubelet.
            Ok((stream, _)) => {
                if let Ok(permit) = opening.clone().try_acquire_owned() {
                    crate::task::spawn(connection(app.clone(), stream, permit));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept streaming clients; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(app: Arc<App>, stream: TcpStream, opening: OwnedSemaphorePermit) {
    tune(&stream);
    let Some(tls) = app.streaming.tls.clone() else {
        return http(app, stream, opening).await;
    };
    // It may have to read files, and the disk they are on may take its time.
    match tokio::task::spawn_blocking(move || tls.acceptor()).await {
        Err(error) => tracing::warn!(%error, "no certificate for a streaming client"),
        Ok(acceptor) => match tokio::time::timeout(OPENING, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => http(app, stream, opening).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake of a streaming client"),
            Err(_) => tracing::debug!("TLS handshake of a streaming client takes too long"),
        },
    }
}

/// Keystrokes must not wait for more; a peer that vanished must be noticed.
fn tune(stream: &TcpStream) {
    use rustix::net::sockopt;
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE / 4);
}

async fn http<I>(app: Arc<App>, stream: I, opening: OwnedSemaphorePermit)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = answer(&app, request).unwrap_or_else(Refusal::into_answer);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(OPENING)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "streaming client");
    }
    drop(opening);
}

/// A request that does not become a session.
struct Refusal {
    status: StatusCode,
    why: &'static str,
    header: Option<(&'static str, String)>,
}

impl Refusal {
    fn new(status: StatusCode, why: &'static str) -> Self {
        Self {
            status,
            why,
            header: None,
        }
    }

    fn into_answer(self) -> Answer {
        let mut answer = Response::new(Full::from(format!("{}\n", self.why)));
        *answer.status_mut() = self.status;
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}

fn answer(app: &Arc<App>, request: http::Request<Incoming>) -> Result<Answer, Refusal> {
    let streaming = &app.streaming;
    if !gate::admits(request.headers(), &streaming.node) {
        let why = "this Host or Origin is not served: streaming is for programs, not for pages in a browser";
        return Err(Refusal::new(StatusCode::FORBIDDEN, why));
    }
    let carrier = Carrier::of(request.headers())
        .filter(|_| [Method::GET, Method::POST].contains(request.method()))
        .ok_or(Refusal::new(
            StatusCode::BAD_REQUEST,
            "only upgrades to SPDY/3.1 or WebSocket are served here",
        ))?;
    let permit = streaming
        .sessions
        .clone()
        .try_acquire_owned()
        .map_err(|_| Refusal {
            header: Some(("retry-after", "1".to_owned())),
            ..Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many streaming sessions")
        })?;
    let session = redeem(app, request.uri().path()).ok_or(Refusal::new(
        StatusCode::NOT_FOUND,
        "unknown or used streaming token",
    ))?;
    let plan = Plan::of(carrier, &session, request.headers())?;
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    plan.announce(request.headers(), answer.headers_mut())?;
    let app = app.clone();
    crate::task::spawn(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => run(&app, session, plan, TokioIo::new(upgraded)).await,
            Err(error) => tracing::debug!(%error, "streaming client left before its session began"),
        }
        drop(permit);
    });
    Ok(answer)
}

/// The request behind `/operation/token`, if the token is one of that operation.
fn redeem(app: &App, path: &str) -> Option<Request> {
    let (operation, token) = path.strip_prefix('/')?.split_once('/')?;
    app.streaming
        .tokens
        .redeem(token)
        .filter(|request| request.operation() == operation)
}

/// How a session will talk.
#[derive(Clone, Copy)]
enum Plan {
    Spdy(Agreed<Version>),
    WebSocket(Agreed<(Version, Codec)>),
    ForwardSpdy(Agreed<()>),
    ForwardWebSocket(Agreed<Forwarding>),
}

impl Plan {
    fn of(carrier: Carrier, session: &Request, headers: &HeaderMap) -> Result<Self, Refusal> {
        use protocol::negotiate;
        const SUBPROTOCOL: &str = "sec-websocket-protocol";
        let forward = matches!(session, Request::PortForward(_));
        let plan = match (carrier, forward) {
            (Carrier::Spdy, false) => negotiate(
                headers,
                protocol::STREAM_PROTOCOL,
                protocol::SPDY,
                Some(protocol::UNNAMED_SPDY),
            )
            .map(Self::Spdy),
            (Carrier::WebSocket, false) => negotiate(
                headers,
                SUBPROTOCOL,
                protocol::WEBSOCKET,
                Some(protocol::UNNAMED_WEBSOCKET),
            )
            .map(Self::WebSocket),
            (Carrier::Spdy, true) => {
                negotiate(headers, protocol::STREAM_PROTOCOL, protocol::PORT_FORWARD, None)
                    .map(Self::ForwardSpdy)
            }
            (Carrier::WebSocket, true) => {
                negotiate(headers, SUBPROTOCOL, protocol::PORT_FORWARD_WEBSOCKET, None)
                    .map(Self::ForwardWebSocket)
            }
        };
        plan.ok_or_else(|| {
            let names = |all: &mut dyn Iterator<Item = &'static str>| all.collect::<Vec<_>>().join(", ");
            let ours = match (carrier, forward) {
                (Carrier::Spdy, false) => names(&mut protocol::SPDY.iter().map(|p| p.name)),
                (Carrier::WebSocket, false) => names(&mut protocol::WEBSOCKET.iter().map(|p| p.name)),
                (Carrier::Spdy, true) => names(&mut protocol::PORT_FORWARD.iter().map(|p| p.name)),
                (Carrier::WebSocket, true) => {
                    names(&mut protocol::PORT_FORWARD_WEBSOCKET.iter().map(|p| p.name))
                }
            };
            Refusal {
                header: Some((protocol::ACCEPTED_PROTOCOLS, ours)),
                ..Refusal::new(StatusCode::FORBIDDEN, "no streaming protocol in common")
            }
        })
    }

    /// The headers of the answer that begins the session.
    fn announce(&self, asked: &HeaderMap, answer: &mut HeaderMap) -> Result<(), Refusal> {
        let name = match self {
            Self::Spdy(agreed) => agreed.name,
            Self::WebSocket(agreed) => agreed.name,
            Self::ForwardSpdy(agreed) => agreed.name,
            Self::ForwardWebSocket(agreed) => agreed.name,
        };
        let fixed = HeaderValue::from_static;
        answer.insert(header::CONNECTION, fixed("Upgrade"));
        match self {
            Self::Spdy(_) | Self::ForwardSpdy(_) => {
                answer.insert(header::UPGRADE, fixed("SPDY/3.1"));
                if !name.is_empty() {
                    answer.insert(protocol::STREAM_PROTOCOL, fixed(name));
                }
            }
            Self::WebSocket(_) | Self::ForwardWebSocket(_) => {
                let version = asked.get(header::SEC_WEBSOCKET_VERSION);
                if version.is_none_or(|version| version != "13") {
                    return Err(Refusal {
                        header: Some(("sec-websocket-version", "13".to_owned())),
                        ..Refusal::new(StatusCode::BAD_REQUEST, "only WebSocket version 13 is served")
                    });
                }
                let key = asked
                    .get(header::SEC_WEBSOCKET_KEY)
                    .and_then(|key| handshake::accept(key.to_str().ok()?))
                    .and_then(|accept| HeaderValue::from_str(&accept).ok())
                    .ok_or(Refusal::new(
                        StatusCode::BAD_REQUEST,
                        "Sec-WebSocket-Key is no key",
                    ))?;
                answer.insert(header::UPGRADE, fixed("websocket"));
                answer.insert(header::SEC_WEBSOCKET_ACCEPT, key);
                if !name.is_empty() {
                    answer.insert(header::SEC_WEBSOCKET_PROTOCOL, fixed(name));
                }
            }
        }
        Ok(())
    }
}

async fn run<I>(app: &Arc<App>, session: Request, plan: Plan, io: I)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let idle = app.streaming.settings.idle_timeout;
    match session {
        Request::Exec(request) => {
            if let Some(streams) = streams(plan, io, request.shape, idle).await {
                exec::run(app, request, streams).await;
            }
        }
        Request::Attach(request) => {
            if let Some(streams) = streams(plan, io, request.shape, idle).await {
                attach::run(app, request, streams).await;
            }
        }
        Request::PortForward(request) => match plan {
            Plan::ForwardWebSocket(agreed) => match agreed.meaning {
                Forwarding::Tunnel => {
                    port_forward::over_spdy(request, Connection::tunnel(io), idle).await;
                }
                Forwarding::Channels(codec) => {
                    port_forward::over_channels(request, io, codec, idle).await;
                }
            },
            Plan::Spdy(_) | Plan::WebSocket(_) | Plan::ForwardSpdy(_) => {
                port_forward::over_spdy(request, io, idle).await;
            }
        },
    }
}

async fn streams<I>(plan: Plan, io: I, shape: Shape, idle: Duration) -> Option<Streams>
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let opened = match plan {
        Plan::Spdy(agreed) => Streams::over_spdy(io, agreed.meaning, shape, idle).await,
        Plan::WebSocket(agreed) => Streams::over_websocket(io, agreed.meaning, shape, idle).await,
        // Not what was planned for a command.
        Plan::ForwardSpdy(_) | Plan::ForwardWebSocket(_) => return None,
    };
    opened
        .inspect_err(|error| tracing::debug!(%error, "streaming session"))
        .ok()
}
