//! Port-forward: connections of a client to ports on a pod's own loopback.
//!
//! ```text
//!   SPDY       streams  port, requestID, streamType error ┐ a pair is ─► forward ──► 127.0.0.1, else ::1,
//!                       port, requestID, streamType data  ┘ a connection             in the pod's namespace
//!   WebSocket  a tunnel of SPDY, or two channels (data, error) for each port of the request
//! ```
//!
//! A session ends with its client, and with the pod: a socket would keep the pod's namespace alive.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::channel::{Activity, Receiver, Sender};
use super::netns::Netns;
use super::spdy;
use super::spdy::connection::Opened;
use super::spdy::frame::ResetStatus;
use super::websocket;
use super::websocket::connection::Codec;
use crate::pod::Pod;
use crate::{Error, Result};

/// How long the second stream of a pair may take.
const PAIRING: Duration = Duration::from_secs(30);
/// Bytes read at once from the pod.
const CHUNK: usize = 64 << 10;
/// Most ports of a request over channels: each takes two of the 255 that are no signal.
pub const MAX_CHANNEL_PORTS: usize = 127;

/// A forwarding that waits for its client.
pub struct Request {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Ports that the client named beforehand; SPDY names them stream by stream.
    pub ports: Vec<u16>,
}

/// A pod to forward to.
#[derive(Clone)]
struct Destination {
    name: String,
    netns: Netns,
}

async fn open(pod: &Pod) -> Result<Destination> {
    let created = pod.ready()?.namespaces().await?;
    if created.network.is_none() && !pod.record.host_network() {
        return Err(crate::supervisor::Error::Unexpected("Namespaces").into());
    }
    Ok(Destination {
        name: pod.record.config.name.to_string(),
        netns: Netns::new(created.network),
    })
}

/// Runs a session over SPDY.
pub async fn over_spdy<I>(request: Request, io: I, idle: Duration)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let target = match open(&request.pod).await {
        Ok(target) => target,
        Err(error) => return tracing::debug!(%error, "port-forward session"),
    };
    let mut connection = spdy::connection::Connection::serve(io, Activity::default());
    let mut forwarding = JoinSet::new();
    let mut pairs = Pairs::default();
    loop {
        tokio::select! {
            opened = connection.opened.recv() => match opened.map(|opened| pairs.add(opened)) {
                Some(Some(pair)) => drop(forwarding.spawn(forward(target.clone(), pair))),
                Some(None) => {}
                None => break,
            },
            Some(_) = forwarding.join_next() => {}
            () = connection.link.closed(idle) => return,
            () = request.pod.stopped_or_stopping() => break,
        }
    }
    forwarding.shutdown().await;
    connection.link.finish(idle).await;
}

/// Runs a session over the channels of a WebSocket.
pub async fn over_channels<I>(request: Request, io: I, codec: Codec, idle: Duration)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let target = match open(&request.pod).await {
        Ok(target) => target,
        Err(error) => return tracing::debug!(%error, "port-forward session"),
    };
    let channels = (0..=u8::MAX).step_by(2).zip(&request.ports);
    let inputs: Vec<u8> = channels.clone().map(|(channel, _)| channel).collect();
    let mut connection = websocket::connection::Connection::serve(io, codec, &inputs, Activity::default());
    let mut forwarding = JoinSet::new();
    for (channel, &port) in channels {
        let Some(receiver) = connection.receiver(channel) else {
            continue;
        };
        let (mut sender, mut error) = (connection.sender(channel), connection.sender(channel + 1));
        let name = || Bytes::copy_from_slice(&port.to_le_bytes());
        // Each channel begins with the port that it is for.
        if sender.send(name()).await.is_err() || error.send(name()).await.is_err() {
            return;
        }
        let pair = Pair {
            port,
            sender,
            receiver,
            error,
        };
        forwarding.spawn(forward(target.clone(), pair));
    }
    tokio::select! {
        () = async { while forwarding.join_next().await.is_some() {} } => {}
        () = connection.link.closed(idle) => return,
        () = request.pod.stopped_or_stopping() => forwarding.shutdown().await,
    }
    connection.link.finish(idle).await;
}

/// A connection that a client wants.
struct Pair {
    port: u16,
    sender: Sender,
    receiver: Receiver,
    error: Sender,
}

/// Streams whose partners have not come yet.
#[derive(Default)]
struct Pairs {
    waiting: HashMap<String, (Instant, Opened)>,
}

impl Pairs {
    /// The pair that this stream completes. A stream that cannot be of any is reset.
    fn add(&mut self, opened: Opened) -> Option<Pair> {
        let now = Instant::now();
        let late = |_: &String, (since, _): &mut (Instant, Opened)| now.duration_since(*since) > PAIRING;
        for (_, (_, opened)) in self.waiting.extract_if(late) {
            opened.sender.reset(ResetStatus::Cancel);
        }
        let port = opened
            .headers
            .get("port")
            .and_then(|port| port.parse::<u16>().ok());
        let is_error = match opened.headers.get("streamtype") {
            Some("error") => true,
            Some("data") => false,
            _ => return refuse(opened),
        };
        let Some(port) = port.filter(|port| *port != 0) else {
            return refuse(opened);
        };
        // Clients of old name no request: their data stream is the one behind their error stream.
        let request = opened.headers.get("requestid").map_or_else(
            || {
                opened
                    .stream
                    .saturating_sub(if is_error { 0 } else { 2 })
                    .to_string()
            },
            str::to_owned,
        );
        let Some((since, first)) = self.waiting.remove(&request) else {
            self.waiting.insert(request, (now, opened));
            return None;
        };
        if (first.headers.get("streamtype") == Some("error")) == is_error {
            self.waiting.insert(request, (since, first));
            return refuse(opened);
        }
        let (data, error) = if is_error {
            (first, opened)
        } else {
            (opened, first)
        };
        Some(Pair {
            port,
            sender: data.sender,
            receiver: data.receiver,
            error: error.sender,
        })
    }
}

fn refuse(opened: Opened) -> Option<Pair> {
    opened.sender.reset(ResetStatus::ProtocolError);
    None
}

/// Serves one connection.
async fn forward(target: Destination, pair: Pair) {
    let Pair {
        port,
        sender,
        receiver,
        mut error,
    } = pair;
    match target.netns.connect_loopback(port).await {
        Ok(stream) => copy(stream, sender, receiver, error).await,
        Err(why) => {
            let pod = target.name;
            let message = format!("error forwarding port {port} to pod {pod}: {why}");
            // A client that has gone needs no answer; its data stream ends with this function.
            if error.send(message.into()).await.is_ok() {
                let _ = error.finish().await;
            }
            let _ = sender.finish().await;
        }
    }
}

/// Both directions, each to its own end.
async fn copy(stream: TcpStream, mut sender: Sender, mut receiver: Receiver, error: Sender) {
    // Keystrokes must not wait for more; a socket that cannot be told so still carries them.
    let _ = stream.set_nodelay(true);
    let (mut from_pod, mut to_pod) = stream.into_split();
    let up = async {
        while let Some(mut bytes) = receiver.receive().await {
            if to_pod.write_all_buf(&mut bytes).await.is_err() {
                return;
            }
        }
        // A pod that has closed already needs no end.
        let _ = to_pod.shutdown().await;
    };
    let down = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = from_pod.read(&mut buffer).await {
            if sender
                .send(Bytes::copy_from_slice(&buffer[..count]))
                .await
                .is_err()
            {
                return;
            }
        }
        // Clients wait for the end of both before they give up their own direction.
        let _ = sender.finish().await;
        let _ = error.finish().await;
    };
    tokio::join!(up, down);
}

/// The ports of a request as TCP has them.
///
/// # Errors
/// [`Error::Invalid`]
pub fn ports(named: &[i32]) -> Result<Vec<u16>> {
    if named.len() > MAX_CHANNEL_PORTS {
        return Err(Error::invalid(
            "port",
            format!("at most {MAX_CHANNEL_PORTS} ports"),
        ));
    }
    let port = |&number: &i32| {
        u16::try_from(number)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| Error::invalid("port", format!("{number} must be from 1 to 65535")))
    };
    named.iter().map(port).collect()
}
