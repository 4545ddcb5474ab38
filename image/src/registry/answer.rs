//! What a registry's answers say: bodies with a bound, errors in its own words without secrets.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use tokio::time::timeout;

use super::RegistryError;
use super::retry::asked_wait;

const LARGEST_ERROR_BODY: usize = 64 << 10;
/// Of what a registry says, this much is repeated in an error.
const LONGEST_DETAIL: usize = 200;

/// How long the registry asks to wait.
pub(super) fn retry_after(answer: &Response, now: SystemTime) -> Option<Duration> {
    let passing = answer.status() == StatusCode::TOO_MANY_REQUESTS || answer.status().is_server_error();
    let value = answer.headers().get(RETRY_AFTER).filter(|_| passing)?;
    asked_wait(value.to_str().ok()?, now)
}

/// The error that an unsuccessful answer stands for, with the registry's own words.
pub(super) async fn refusal(registry: &str, what: &str, answer: &mut Response) -> RegistryError {
    let status = answer.status();
    let body = timeout(Duration::from_secs(10), bounded_body(answer, LARGEST_ERROR_BODY)).await;
    let detail = body
        .ok()
        .and_then(Result::ok)
        .map_or_else(String::new, |body| words(&body));
    let (registry, what) = (registry.to_owned(), what.to_owned());
    match status {
        StatusCode::NOT_FOUND => RegistryError::NotFound {
            registry,
            what,
            detail,
        },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Unauthorized {
            registry,
            what,
            detail,
        },
        StatusCode::TOO_MANY_REQUESTS => RegistryError::Unavailable {
            registry,
            detail: "too many requests".into(),
        },
        status if status.is_server_error() => RegistryError::Unavailable {
            registry,
            detail: format!("status {}", status.as_u16()),
        },
        status => RegistryError::Refused {
            registry,
            what,
            status: status.as_u16(),
            detail,
        },
    }
}

/// `{"errors": [{"code", "message"}]}` (distribution-spec) or the start of whatever came, without
/// anything that could fake another line or carry a URL's secrets.
fn words(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Body>(body) {
        Ok(Body { errors }) => {
            let all: Vec<String> = errors
                .iter()
                .take(3)
                .map(|error| format!("{} {}", error.code, error.message))
                .collect();
            all.join("; ")
        }
        // Pages for browsers say nothing useful.
        Err(_) if body.trim_ascii_start().starts_with(b"<") => String::new(),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    without_secrets(&text)
}

/// One short line in which URLs have lost user and query.
pub(super) fn without_secrets(text: &str) -> String {
    let clean = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty());
    let clean: Vec<String> = clean.map(redact).collect();
    clean.join(" ").chars().take(LONGEST_DETAIL).collect()
}

/// A word that is a URL loses its user and query.
fn redact(word: &str) -> String {
    let Some(at) = word.find("://") else {
        return word.to_owned();
    };
    let (scheme, rest) = word.split_at(at + 3);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or_default();
    format!("{scheme}{host}{}", &rest[end..])
}

pub(super) enum BodyError {
    TooLarge,
    Cut(String),
}

/// A body of at most `limit` bytes.
pub(super) async fn bounded_body(answer: &mut Response, limit: usize) -> Result<Bytes, BodyError> {
    let mut body = Vec::new();
    while let Some(piece) = answer
        .chunk()
        .await
        .map_err(|error| BodyError::Cut(cause(&error)))?
    {
        if body.len() + piece.len() > limit {
            return Err(BodyError::TooLarge);
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.into())
}

/// The innermost reason of a transport error, without URLs and addresses.
pub(super) fn cause(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if let Some(io) = innermost.downcast_ref::<std::io::Error>()
        && let Some(code) = io.raw_os_error()
    {
        return rustix::io::Errno::from_raw_os_error(code).to_string();
    }
    if error.is_timeout() {
        return "timed out".into();
    }
    let text = if innermost.source().is_none() && innermost.is::<reqwest::Error>() {
        "the connection failed".to_owned()
    } else {
        innermost.to_string()
    };
    words(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_a_registry_without_its_secrets() {
        let body = br#"{"errors":[{"code":"DENIED","message":"see https://u:p@a.io/x?sig=s\nnow"}]}"#;
        assert_eq!(words(body), "DENIED see https://a.io/x now");
        assert_eq!(words(b"<html>"), "");
        assert!(words("x".repeat(5000).as_bytes()).len() <= LONGEST_DETAIL);
        assert_eq!(redact("http://a.io"), "http://a.io");
    }
}
