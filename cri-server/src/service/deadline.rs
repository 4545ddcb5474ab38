//! A call that outlives its client's deadline is answered `DEADLINE_EXCEEDED`.
//!
//! The client says how long it waits (`grpc-timeout`). tonic gives up in time, too, but answers `CANCELLED`, and when that
//! answer is quicker than the client's own clock, the client believes it: kubelet would take a slow registry for a request
//! that somebody withdrew. This layer lies inside tonic's, starts counting before it and looks at the clock whenever it is
//! asked, so it is always the first to know.
//!
//! Only the wait ends here. What mutates runs as a task of its own (`inflight.rs`), and goes on.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

/// Wraps a server's services.
#[derive(Clone, Copy, Default)]
pub struct Deadline;

/// A wrapped service.
#[derive(Clone)]
pub struct Bounded<S>(S);

impl<S> Layer<S> for Deadline {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Bounded(inner)
    }
}

impl<S, A, B> Service<Request<A>> for Bounded<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let deadline = patience(request.headers()).map(|patience| Instant::now() + patience);
        Answer {
            inner: Box::pin(self.0.call(request)),
            alarm: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
        }
    }
}

/// The service's answer, or what is said at the deadline.
pub struct Answer<F> {
    inner: Pin<Box<F>>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Default,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(answer) = self.inner.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        let Some(alarm) = &mut self.alarm else {
            return Poll::Pending;
        };
        // The clock decides, not whose alarm rang first: both may ring in the same tick.
        let over = alarm.as_mut().poll(cx).is_ready() || Instant::now() >= alarm.deadline();
        if over {
            return Poll::Ready(Ok(
                Status::deadline_exceeded("the client's deadline has passed").into_http()
            ));
        }
        Poll::Pending
    }
}

/// How long the client waits: gRPC over HTTP/2, "Timeout" (at most eight digits and a unit). What cannot be read is as good
/// as nothing, as for tonic.
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Deadline, patience};
    use std::convert::Infallible;
    use std::time::Duration;

    use tonic::codegen::http::{HeaderMap, Request, Response};
    use tower::{Layer, ServiceExt, service_fn};

    fn headers(timeout: &str) -> HeaderMap {
        HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), timeout.parse().unwrap())])
    }

    #[test]
    fn all_units_are_read() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("4S", Some(Duration::from_secs(4))),
            ("5m", Some(Duration::from_millis(5))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("7n", Some(Duration::from_nanos(7))),
            ("123456789m", None),
            ("+1S", None),
            ("1", None),
            ("S", None),
            ("", None),
        ] {
            assert_eq!(patience(&headers(text)), expected, "{text:?}");
        }
        assert_eq!(patience(&HeaderMap::new()), None);
    }

    async fn status(timeout: &str, answers: bool) -> Option<String> {
        let service = Deadline.layer(service_fn(move |_: Request<()>| async move {
            if !answers {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(()))
        }));
        let mut request = Request::new(());
        *request.headers_mut() = headers(timeout);
        let answer = service.oneshot(request).await.unwrap();
        answer
            .headers()
            .get("grpc-status")
            .map(|code| code.to_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn who_waits_too_long_is_told_so() {
        assert_eq!(status("1m", false).await.as_deref(), Some("4"));
    }

    #[tokio::test]
    async fn an_answer_in_time_passes() {
        assert_eq!(status("1M", true).await, None);
    }
}
