//! The daemon's own metrics, for Prometheus: off unless `[metrics] address` is set.
//!
//! ```text
//!   Observe (one layer around all calls) ──► Calls ─┐
//!   registry, images, operations in flight ─────────┴─► render ──► GET /metrics
//! ```
//! What containers use is not here: that is told over CRI ([`crate::metrics`]). Names begin with `crisp_`; the text is
//! that of the Prometheus exposition format, version 0.0.4. Nothing is secret in it, but it is nobody's business
//! either: listen on the loopback unless the network is trusted.

mod calls;
mod http;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::app::App;
use crate::container::ContainerState;
use text::{Exposition, Kind};

pub use calls::Calls;
pub use http::serve;

/// All metrics at this moment.
pub fn render(app: &App) -> String {
    let mut text = Exposition::default();
    text.family("crisp_build_info", "The version that runs", Kind::Gauge);
    text.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    text.family(
        "crisp_uptime_seconds",
        "How long the daemon has been serving",
        Kind::Gauge,
    );
    text.sample(&[], app.started.elapsed().as_secs_f64());
    objects(app, &mut text);
    streaming(app, &mut text);
    operations(app, &mut text);
    app.calls.render(&mut text);
    text.finish()
}

fn objects(app: &App, text: &mut Exposition) {
    let pods = app.registry.pods();
    let ready = pods.iter().filter(|pod| pod.is_ready()).count();
    text.family("crisp_pods", "Pod sandboxes by state", Kind::Gauge);
    text.sample(&[("state", "ready")], ready as f64);
    text.sample(&[("state", "notready")], (pods.len() - ready) as f64);

    let mut states = BTreeMap::from([("created", 0), ("running", 0), ("exited", 0)]);
    for (_, container) in app.registry.containers() {
        let state = match container.state() {
            ContainerState::Created => "created",
            ContainerState::Running { .. } => "running",
            ContainerState::Exited { .. } => "exited",
        };
        *states.entry(state).or_default() += 1;
    }
    text.family("crisp_containers", "Containers by state", Kind::Gauge);
    for (state, count) in states {
        text.sample(&[("state", state)], f64::from(count));
    }
    text.family("crisp_images", "Images in the store", Kind::Gauge);
    text.sample(&[], app.images.list().len() as f64);
}

/// Sessions, and the tasks that a session which has ended must not leave behind.
fn streaming(app: &App, text: &mut Exposition) {
    text.family(
        "crisp_streaming_sessions",
        "Exec, attach and port-forward sessions",
        Kind::Gauge,
    );
    text.sample(&[], app.streaming.sessions() as f64);
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        text.family("crisp_tasks", "Tasks of the daemon", Kind::Gauge);
        text.sample(&[], runtime.metrics().num_alive_tasks() as f64);
    }
}

/// An operation that grows old is the first sign of a hanging volume, plugin or registry.
fn operations(app: &App, text: &mut Exposition) {
    let mut verbs = BTreeMap::<&str, (u32, f64)>::new();
    for operation in app.operations.list() {
        let (count, oldest) = verbs.entry(operation.verb).or_default();
        *count += 1;
        *oldest = oldest.max(operation.since.elapsed().as_secs_f64());
    }
    text.family("crisp_operations", "Operations under way, by verb", Kind::Gauge);
    for (verb, (count, _)) in &verbs {
        text.sample(&[("verb", verb)], f64::from(*count));
    }
    text.family(
        "crisp_operation_oldest_seconds",
        "Age of the oldest operation under way, by verb",
        Kind::Gauge,
    );
    for (verb, (_, oldest)) in &verbs {
        text.sample(&[("verb", verb)], *oldest);
    }
}

/// Serves metrics in the background where the configuration asks for them.
///
/// # Errors
/// [`crate::Error::Io`] when the address cannot be listened on.
pub async fn start(app: &Arc<App>) -> crate::Result<()> {
    let Some(address) = app.config.metrics.address else {
        return Ok(());
    };
    let failed = |source| crate::Error::Io {
        operation: "listen on",
        path: address.to_string().into(),
        source,
    };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    tracing::info!(%address, "serving metrics");
    crate::task::spawn(serve(app.clone(), listener));
    Ok(())
}
