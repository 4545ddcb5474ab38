//! `GET /metrics`, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::text::MEDIA_TYPE;
use crate::app::App;

/// A scraper's request is some hundred bytes.
const MAX_REQUEST: usize = 8 << 10;
/// A client that takes longer is none that reads metrics.
const PATIENCE: Duration = Duration::from_secs(10);
/// Scrapers are few; whoever opens more connections waits.
const AT_ONCE: usize = 8;

/// Answers for ever. One request per connection: a scrape every few seconds gains nothing from more.
pub async fn serve(app: Arc<App>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let app = app.clone();
                crate::task::spawn(async move {
                    // A client that goes away harms nobody.
                    let _ = tokio::time::timeout(PATIENCE, answer(&app, stream)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a scraper; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(app: &App, mut stream: TcpStream) -> std::io::Result<()> {
    let request = read_head(&mut stream).await?;
    let response = match request_line(&request) {
        Some(("GET", "/metrics")) => response("200 OK", MEDIA_TYPE, &super::render(app)),
        Some(("GET", _)) => response("404 Not Found", "text/plain", "metrics are at /metrics\n"),
        Some(_) => response(
            "405 Method Not Allowed",
            "text/plain",
            "metrics can only be read\n",
        ),
        None => response("400 Bad Request", "text/plain", "this is HTTP\n"),
    };
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

/// Reads up to the empty line (RFC 9112, section 2.1), or as much as a request may be.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(1024);
    while head.len() < MAX_REQUEST && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(head)
}

/// Method and path, without a query.
fn request_line(head: &[u8]) -> Option<(&str, &str)> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    version.starts_with("HTTP/1.").then_some(())?;
    Some((method, target.split('?').next().unwrap_or(target)))
}

fn response(status: &str, media_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_is_understood() {
        let of = |head: &'static str| request_line(head.as_bytes());
        assert_eq!(
            of("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"),
            Some(("GET", "/metrics"))
        );
        assert_eq!(of("GET /metrics?x=1 HTTP/1.0\r\n\r\n"), Some(("GET", "/metrics")));
        assert_eq!(of("POST / HTTP/1.1\r\n\r\n"), Some(("POST", "/")));
        for none in ["", "GET /metrics", "\u{16}\u{3}", "GET /metrics SSH-2.0\r\n"] {
            assert_eq!(request_line(none.as_bytes()), None, "{none:?}");
        }
    }
}
