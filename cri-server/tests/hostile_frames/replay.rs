//! What a peer may send, fed to the protocols as a connection would. Shared with the fuzz targets in `fuzz/`.

use bytes::BytesMut;
use cri_server::streaming::channel::Activity;
use cri_server::streaming::spdy;
use cri_server::streaming::websocket;
use cri_server::streaming::websocket::connection::Codec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a connection may hold of a peer that nobody reads, so that none of it waits for a reader.
const MAX_INPUT: usize = 256 << 10;

/// Decodes a conversation, whole and in pieces: both end the same way, with bounded events.
pub(crate) fn spdy_frames(input: &[u8]) {
    let whole = spdy_events(input, input.len().max(1));
    for step in [1, 7] {
        assert_eq!(spdy_events(input, step), whole, "in steps of {step}");
    }
}

/// Data bytes, other events, and whether the peer was refused.
fn spdy_events(input: &[u8], step: usize) -> (Vec<u8>, usize, bool) {
    use spdy::frame::{Decoder, Event, MAX_CHUNK};
    let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
    let (mut data, mut others) = (Vec::new(), 0);
    for part in input.chunks(step) {
        buffer.extend_from_slice(part);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(Event::Data { stream, bytes, .. })) => {
                    assert!(stream != 0 && bytes.len() <= MAX_CHUNK);
                    data.extend_from_slice(&bytes);
                }
                Ok(Some(_)) => others += 1,
                Ok(None) => break,
                Err(_) => return (data, others, true),
            }
        }
    }
    (data, others, false)
}

/// As [`spdy_frames`].
pub(crate) fn websocket_frames(input: &[u8]) {
    let whole = websocket_events(input, input.len().max(1));
    for step in [1, 7] {
        assert_eq!(websocket_events(input, step), whole, "in steps of {step}");
    }
}

fn websocket_events(input: &[u8], step: usize) -> (Vec<u8>, usize, bool) {
    use websocket::frame::{Decoder, Event, MAX_CHUNK};
    let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
    let (mut data, mut others) = (Vec::new(), 0);
    for part in input.chunks(step) {
        buffer.extend_from_slice(part);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(Event::Payload { bytes, .. })) => {
                    assert!(bytes.len() <= MAX_CHUNK);
                    data.extend_from_slice(&bytes);
                }
                Ok(Some(_)) => others += 1,
                Ok(None) => break,
                Err(_) => return (data, others, true),
            }
        }
    }
    (data, others, false)
}

/// A whole SPDY connection: it answers, ends when the peer has gone, and its streams end with it.
pub(crate) fn spdy_connection(input: &[u8]) {
    converse(input, |io| async move {
        let mut connection = spdy::connection::Connection::serve(io, Activity::default());
        let mut streams = Vec::new();
        while let Some(opened) = connection.opened.recv().await {
            streams.push(tokio::spawn(async move {
                let mut receiver = opened.receiver;
                while let Some(bytes) = receiver.receive().await {
                    assert!(!bytes.is_empty());
                }
                // The peer may be gone.
                let _ = opened.sender.finish().await;
            }));
        }
        for stream in streams {
            stream.await.expect("no panic");
        }
    });
}

/// The same for the channels of a WebSocket, in each codec.
pub(crate) fn websocket_connection(input: &[u8]) {
    for codec in [
        Codec::Binary { close_signal: true },
        Codec::Binary { close_signal: false },
        Codec::Base64,
        Codec::Tunnel,
    ] {
        converse(input, |io| async move {
            let mut connection =
                websocket::connection::Connection::serve(io, codec, &[0, 4], Activity::default());
            let receivers = [0, 4].map(|channel| connection.receiver(channel));
            for mut receiver in receivers.into_iter().flatten() {
                while let Some(bytes) = receiver.receive().await {
                    assert!(!bytes.is_empty());
                }
            }
        });
    }
}

/// Says all of it at once, hears all that is answered, and leaves.
fn converse<F: Future<Output = ()> + Send + 'static>(
    input: &[u8],
    session: impl FnOnce(tokio::io::DuplexStream) -> F,
) {
    let input = &input[..input.len().min(MAX_INPUT)];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(1 << 20);
        let session = tokio::spawn(session(far));
        let (mut from, mut to) = tokio::io::split(near);
        let talk = async {
            // A connection that was broken off takes no more.
            if to.write_all(input).await.is_ok() {
                let _ = to.shutdown().await;
            }
        };
        let listen = async {
            let mut answer = [0; 4096];
            while let Ok(1..) = from.read(&mut answer).await {}
        };
        let all = async {
            tokio::join!(talk, async {
                tokio::select! {
                    () = listen => {}
                    ended = session => ended.expect("no panic in the session"),
                }
            })
        };
        let bound = std::time::Duration::from_secs(20);
        tokio::time::timeout(bound, all)
            .await
            .expect("the session ends with its peer");
    });
}
