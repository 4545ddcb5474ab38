//! One layer around all calls: a span for what an operation logs, and one line with its outcome.
//!
//! Calls that clients poll are logged at debug level; the rest at info, failures at warn.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};
use tracing::Instrument;

use crate::exporter::Calls;

/// Calls that kubelet makes every second or so, and reads that change nothing.
const POLLED: [&str; 16] = [
    "Version",
    "Status",
    "RuntimeConfig",
    "ListPodSandbox",
    "ListContainers",
    "ListImages",
    "PodSandboxStatus",
    "ContainerStatus",
    "ImageStatus",
    "ImageFsInfo",
    "ExecSync",
    "ContainerStats",
    "ListContainerStats",
    "PodSandboxStats",
    "ListPodSandboxStats",
    "ListPodSandboxMetrics",
];

/// Wraps a server's services.
#[derive(Clone, Default)]
pub struct Observe(pub Arc<Calls>);

/// A wrapped service.
#[derive(Clone)]
pub struct Observed<S> {
    inner: S,
    calls: Arc<Calls>,
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Observed {
            inner,
            calls: self.0.clone(),
        }
    }
}

impl<S, A, B> Service<Request<A>> for Observed<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: std::fmt::Display,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let path = request.uri().path();
        let call = path.rsplit('/').next().unwrap_or(path).to_owned();
        let span = tracing::info_span!("call", name = %call);
        let started = Instant::now();
        let (answer, calls) = (self.inner.call(request), self.calls.clone());
        let logged = async move {
            let outcome = answer.await;
            log(&call, started, outcome.as_ref());
            calls.ended(&call, &code(outcome.as_ref()), started.elapsed());
            outcome
        };
        Box::pin(logged.instrument(span))
    }
}

/// The gRPC code: in the headers of a refusal; an answer with a body has none there.
fn code<B, E>(outcome: Result<&Response<B>, &E>) -> String {
    let header = outcome
        .ok()
        .and_then(|response| response.headers().get("grpc-status"));
    header
        .and_then(|value| value.to_str().ok())
        .unwrap_or(if outcome.is_ok() { "0" } else { "2" })
        .to_owned()
}

fn log<B, E: std::fmt::Display>(call: &str, started: Instant, outcome: Result<&Response<B>, &E>) {
    let ms = started.elapsed().as_micros() as f64 / 1000.0;
    let header = |response: &Response<B>, name: &str| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    match outcome {
        Ok(response) => match header(response, "grpc-status").as_str() {
            "" | "0" if POLLED.contains(&call) => tracing::debug!(call, ms, "done"),
            "" | "0" => tracing::info!(call, ms, "done"),
            // NotFound is an ordinary answer to a client that looks before it acts.
            code @ ("5" | "12") => tracing::debug!(
                call,
                ms,
                code,
                message = header(response, "grpc-message"),
                "refused"
            ),
            code => tracing::warn!(
                call,
                ms,
                code,
                message = header(response, "grpc-message"),
                "failed"
            ),
        },
        Err(error) => tracing::warn!(call, ms, %error, "failed"),
    }
}
