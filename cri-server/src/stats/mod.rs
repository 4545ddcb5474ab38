//! What containers and pods use: read when asked for, away from the async threads.
//!
//! ```text
//!   ops::stats, ops::metrics ──► of_container ─┬─ cgroup::usage    counters, at this moment
//!                                of_pod        ├─ Meter.rate       CPU now, from two readings of the counter
//!                                              ├─ Meter.layer      the writable layer, measured now and then
//!                                              └─ network          /proc/<supervisor>/net/dev
//! ```
//! Nothing polls: a node whose stats nobody asks for pays nothing. Counters cost a few files per container; only the
//! size of a writable layer takes a walk through it, which is done beside the request and remembered.
//!
//! A pod's numbers are those of the cgroup that kubelet made for it. Where there is none of its own (no
//! `cgroup_parent`, or one that several pods share) they are the sum of its running containers', whose counters begin
//! anew with each container.

mod layer;
mod network;
mod pod;
mod rate;

use std::sync::Arc;

use runtime::cgroup::Cgroup;
use runtime::cgroup::usage::Usage;

use crate::app::App;
use crate::container::{Container, ContainerState};
use crate::time::{Nanos, now};
use crate::{Error, Result};

pub use layer::LayerSize;
pub use network::Interface;
pub use pod::{PodSample, of_pod, of_pods};

/// What is remembered of a container or pod between two requests. It lives and dies with it.
#[derive(Debug, Default)]
pub struct Meter {
    rate: rate::Rate,
    layer: layer::Layer,
}

/// A container's use at one moment.
#[derive(Debug, Clone)]
pub struct ContainerSample {
    /// When the counters were read.
    pub at: Nanos,
    /// The counters; all absent when it does not run.
    pub usage: Usage,
    /// CPU time per second, in nanoseconds; `None` when it does not run.
    pub nano_cores: Option<u64>,
    /// How many processes it has.
    pub processes: u64,
    /// Its writable layer; `None` until it has been measured.
    pub layer: Option<LayerSize>,
}

/// Reads one container. One that does not run has only its writable layer.
///
/// # Errors
/// [`Error::Cgroup`] for a damaged record.
pub async fn of_container(app: &Arc<App>, container: &Arc<Container>) -> Result<ContainerSample> {
    let mut all = of_containers(app, vec![container.clone()]).await?;
    all.pop().ok_or(Error::Crashed)
}

/// Reads many at once, in the order given.
///
/// # Errors
/// As [`of_container`].
pub async fn of_containers(app: &Arc<App>, containers: Vec<Arc<Container>>) -> Result<Vec<ContainerSample>> {
    let cgroups = containers
        .iter()
        .map(|container| app.cgroups.open(&container.record.cgroup))
        .collect::<Result<Vec<_>>>()?;
    let sizes = futures::future::join_all(containers.iter().map(|container| layer::size(app, container)));
    let counted = containers.clone();
    let counters = off_the_async_threads(move || {
        let both = counted.iter().zip(&cgroups);
        Ok(both
            .map(|(container, cgroup)| read(container, cgroup))
            .collect::<Vec<_>>())
    });
    let (sizes, counters) = futures::join!(sizes, counters);
    let samples = counters?.into_iter().zip(sizes);
    Ok(samples
        .map(|(sample, layer)| ContainerSample { layer, ..sample })
        .collect())
}

fn read(container: &Container, cgroup: &Cgroup) -> ContainerSample {
    let ContainerState::Running { started_at, .. } = container.state() else {
        return ContainerSample {
            at: now(),
            usage: Usage::default(),
            nano_cores: None,
            processes: 0,
            layer: None,
        };
    };
    let moment = rate::Moment::now();
    let usage = cgroup.usage();
    ContainerSample {
        nano_cores: usage
            .cpu
            .map(|cpu| container.meter.rate.since_start(started_at, moment, cpu.total_ns)),
        processes: cgroup.pids().map_or(0, |pids| pids.len() as u64),
        layer: None,
        usage,
        at: moment.wall,
    }
}

async fn off_the_async_threads<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Error::Crashed))
}
