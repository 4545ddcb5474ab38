//! Who may knock: checks of `Host` and `Origin` against web pages that make a node's browser knock for them.
//!
//! A token cannot be guessed; this is the second wall. What a browser does by itself can be told from what kubelet does:
//! - A page elsewhere that opens a WebSocket to us says so in `Origin`, and no page can leave that out.
//! - A page whose own name was made to point to us (DNS rebinding) has that name in both `Host` and `Origin`.
//! - kubelet hands on the request of the API server, with whatever `Host` and `Origin` that had (a name of the node that the
//!   node itself need not know), and adds `X-Forwarded-For`. No page can set that header on a WebSocket, and none can ask
//!   for SPDY at all.

use http::{HeaderMap, header};

/// Whether the request can come from a program that was given its URL, rather than from a page in a browser.
pub fn admits(headers: &HeaderMap, node: &str) -> bool {
    if headers.contains_key("x-forwarded-for") {
        return true;
    }
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let Some(host) = text(header::HOST) else {
        return false;
    };
    if !is_own(name_of(host), node) {
        return false;
    }
    match text(header::ORIGIN) {
        None => true,
        Some(origin) => origin
            .split_once("://")
            .is_some_and(|(_, origin)| origin.eq_ignore_ascii_case(host)),
    }
}

/// An address, or a name that no one else can make point here.
fn is_own(name: &str, node: &str) -> bool {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<std::net::IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || (!node.is_empty() && name.eq_ignore_ascii_case(node))
}

/// `host`, `host:port`, `[v6]:port` without the port.
fn name_of(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn admitted(pairs: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        admits(&headers, "node1")
    }

    #[test]
    fn programs_are_admitted_and_pages_are_not() {
        assert!(admitted(&[("host", "127.0.0.1:4242")]));
        assert!(admitted(&[("host", "[::1]:4242")]));
        assert!(admitted(&[("host", "localhost:4242")]));
        assert!(admitted(&[("host", "node1")]));
        assert!(admitted(&[
            ("host", "127.0.0.1:4242"),
            ("origin", "http://127.0.0.1:4242")
        ]));
        assert!(!admitted(&[]), "HTTP/1.1 demands a host");
        assert!(!admitted(&[("host", "rebound.example:4242")]));
        assert!(!admitted(&[
            ("host", "127.0.0.1:4242"),
            ("origin", "https://evil.example")
        ]));
        assert!(!admitted(&[("host", "127.0.0.1:4242"), ("origin", "null")]));
    }

    #[test]
    fn what_kubelet_hands_on_is_admitted() {
        assert!(admitted(&[
            ("host", "worker-3.cluster.example:10250"),
            ("origin", "https://console.example"),
            ("x-forwarded-for", "10.0.0.1")
        ]));
    }
}
