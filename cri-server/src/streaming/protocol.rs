//! What a client asks for in its headers: the carrier, and the version of the protocol on it.
//!
//! | Carrier | remotecommand | port-forward |
//! |---|---|---|
//! | SPDY | `X-Stream-Protocol-Version`: `v4.channel.k8s.io` … `channel.k8s.io`, or none | `portforward.k8s.io` |
//! | WebSocket | `Sec-WebSocket-Protocol`: v5, v4, v4.base64, and the unversioned ones | `SPDY/3.1+portforward.k8s.io` |
//!
//! The client's order is its preference, and the first that we have is taken.

use http::{HeaderMap, header};

use super::websocket::connection::Codec;

/// The header in which SPDY's protocols are negotiated.
pub const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// What is answered in place of it when none is known.
pub const ACCEPTED_PROTOCOLS: &str = "x-accepted-stream-protocol-versions";

/// Versions of remotecommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Text on the error stream.
    V1,
    /// Each stream is closed by itself.
    V2,
    /// Terminals are resized.
    V3,
    /// The exit code on the error stream.
    V4,
    /// Channels of a WebSocket are closed by themselves.
    V5,
}

/// What carries a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// `Upgrade: SPDY/3.1`.
    Spdy,
    /// `Upgrade: websocket`.
    WebSocket,
}

impl Carrier {
    /// What the request wants its connection to become, if anything that we have.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let wants = |name| words(headers, name).map(str::to_ascii_lowercase);
        if !wants(header::CONNECTION).any(|word| word == "upgrade") {
            return None;
        }
        wants(header::UPGRADE).find_map(|word| match word.as_str() {
            "spdy/3.1" => Some(Self::Spdy),
            "websocket" => Some(Self::WebSocket),
            _ => None,
        })
    }
}

/// A protocol that client and server both have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed<T: 'static> {
    /// As it is named in the answer; empty when the client named none.
    pub name: &'static str,
    /// What it means.
    pub meaning: T,
}

/// Those of remotecommand over SPDY.
pub const SPDY: &[Agreed<Version>] = &[
    agreed("v4.channel.k8s.io", Version::V4),
    agreed("v3.channel.k8s.io", Version::V3),
    agreed("v2.channel.k8s.io", Version::V2),
    agreed("channel.k8s.io", Version::V1),
];
/// Of a client that names none.
pub const UNNAMED_SPDY: Agreed<Version> = agreed("", Version::V1);

/// Those of remotecommand over WebSocket.
pub const WEBSOCKET: &[Agreed<(Version, Codec)>] = &[
    agreed("v5.channel.k8s.io", (Version::V5, binary(true))),
    agreed("v4.channel.k8s.io", (Version::V4, binary(false))),
    agreed("v4.base64.channel.k8s.io", (Version::V4, Codec::Base64)),
    agreed("channel.k8s.io", (Version::V1, binary(false))),
    agreed("base64.channel.k8s.io", (Version::V1, Codec::Base64)),
];
/// Of a client that names none.
pub const UNNAMED_WEBSOCKET: Agreed<(Version, Codec)> = agreed("", (Version::V1, binary(false)));

/// That of port-forward over SPDY, also within a tunnel.
pub const PORT_FORWARD: &[Agreed<()>] = &[agreed("portforward.k8s.io", ())];

/// How port-forward goes over a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// SPDY within a WebSocket.
    Tunnel,
    /// Two channels for each port that the request named.
    Channels(Codec),
}

/// Those of port-forward over WebSocket.
pub const PORT_FORWARD_WEBSOCKET: &[Agreed<Forwarding>] = &[
    agreed("SPDY/3.1+portforward.k8s.io", Forwarding::Tunnel),
    agreed("v4.channel.k8s.io", Forwarding::Channels(binary(false))),
    agreed("v4.base64.channel.k8s.io", Forwarding::Channels(Codec::Base64)),
];

const fn agreed<T>(name: &'static str, meaning: T) -> Agreed<T> {
    Agreed { name, meaning }
}

const fn binary(close_signal: bool) -> Codec {
    Codec::Binary { close_signal }
}

/// The first protocol of the client's list that is on ours; `unnamed` for an empty list.
pub fn negotiate<T: Copy>(
    headers: &HeaderMap,
    header: &'static str,
    ours: &[Agreed<T>],
    unnamed: Option<Agreed<T>>,
) -> Option<Agreed<T>> {
    let mut theirs = words(headers, header).peekable();
    if theirs.peek().is_none() {
        return unnamed;
    }
    theirs.find_map(|name| ours.iter().find(|known| known.name == name).copied())
}

/// The words of a header that may come several times, each with several words.
fn words(headers: &HeaderMap, name: impl header::AsHeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_clients_order_decides() {
        let mut headers = HeaderMap::new();
        let choose = |headers: &HeaderMap| {
            let agreed = negotiate(headers, STREAM_PROTOCOL, SPDY, Some(UNNAMED_SPDY));
            agreed.map(|agreed| agreed.meaning)
        };
        assert_eq!(choose(&headers), Some(Version::V1));
        for name in ["v9.channel.k8s.io", "v3.channel.k8s.io, v4.channel.k8s.io"] {
            headers.append(STREAM_PROTOCOL, HeaderValue::from_static(name));
        }
        assert_eq!(choose(&headers), Some(Version::V3));
        headers.insert(STREAM_PROTOCOL, HeaderValue::from_static("v9.channel.k8s.io"));
        assert_eq!(choose(&headers), None);
    }

    #[test]
    fn carriers_are_told_apart() {
        let carrier = |connection: &'static str, upgrade: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
            headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
            Carrier::of(&headers)
        };
        assert_eq!(carrier("Upgrade", "SPDY/3.1"), Some(Carrier::Spdy));
        assert_eq!(
            carrier("keep-alive, Upgrade", "websocket"),
            Some(Carrier::WebSocket)
        );
        assert_eq!(carrier("close", "websocket"), None);
        assert_eq!(carrier("Upgrade", "h2c"), None);
    }
}
