//! A whole pod: its cgroup, its network, its containers.

use std::collections::HashMap;
use std::sync::Arc;

use runtime::cgroup::Cgroup;
use runtime::cgroup::usage::{CpuUsage, MemoryUsage, SwapUsage, Usage};

use super::network::{Interface, interfaces};
use super::rate::Moment;
use super::{ContainerSample, of_containers, off_the_async_threads};
use crate::Result;
use crate::app::App;
use crate::container::{Container, ContainerState};
use crate::pod::Pod;
use crate::time::Nanos;

/// A pod's use at one moment.
#[derive(Clone)]
pub struct PodSample {
    /// When the counters were read.
    pub at: Nanos,
    /// Of its own cgroup, or the sum of its containers'; a sum has no pressure.
    pub usage: Usage,
    /// CPU time per second, in nanoseconds.
    pub nano_cores: Option<u64>,
    /// How many processes its containers have.
    pub processes: u64,
    /// Its links; `None` when they are the node's.
    pub network: Option<Vec<Interface>>,
    /// Its running containers.
    pub containers: Vec<(Arc<Container>, ContainerSample)>,
}

/// Reads one pod.
///
/// # Errors
/// [`crate::Error::Cgroup`] for a damaged record.
pub async fn of_pod(app: &Arc<App>, pod: &Arc<Pod>) -> Result<PodSample> {
    read(app, pod, &Parents::count(app)).await
}

/// Reads many pods, each beside the others.
///
/// # Errors
/// As [`of_pod`].
pub async fn of_pods(app: &Arc<App>, pods: &[Arc<Pod>]) -> Result<Vec<PodSample>> {
    let parents = Parents::count(app);
    futures::future::try_join_all(pods.iter().map(|pod| read(app, pod, &parents))).await
}

async fn read(app: &Arc<App>, pod: &Arc<Pod>, parents: &Parents) -> Result<PodSample> {
    let running: Vec<_> = pod
        .containers()
        .into_iter()
        .filter(|container| matches!(container.state(), ContainerState::Running { .. }))
        .collect();
    let samples = of_containers(app, running.clone()).await?;
    let own = parents.own_cgroup(app, pod)?;
    let pid = pod.supervisor().map(|supervisor| supervisor.pid());
    let pid = pid.filter(|_| !pod.record.host_network());
    let moment = Moment::now();
    let (cgroup, network) =
        off_the_async_threads(move || Ok((own.map(|cgroup| cgroup.usage()), pid.map(interfaces)))).await?;
    let usage = cgroup.unwrap_or_else(|| sum(samples.iter().map(|sample| &sample.usage)));
    let of_containers = samples.iter().filter_map(|sample| sample.nano_cores).sum();
    Ok(PodSample {
        at: moment.wall,
        nano_cores: usage
            .cpu
            .map(|cpu| pod.meter.rate.since_last(moment, cpu.total_ns, of_containers)),
        processes: samples.iter().map(|sample| sample.processes).sum(),
        network,
        containers: running.into_iter().zip(samples).collect(),
        usage,
    })
}

/// How many ready pods have each `cgroup_parent`.
struct Parents(HashMap<String, usize>);

impl Parents {
    fn count(app: &App) -> Self {
        let mut users = HashMap::new();
        for pod in app.registry.pods().iter().filter(|pod| pod.is_ready()) {
            *users.entry(pod.record.config.cgroup_parent.clone()).or_default() += 1;
        }
        Self(users)
    }

    /// The cgroup that is this pod's alone.
    fn own_cgroup(&self, app: &App, pod: &Pod) -> Result<Option<Cgroup>> {
        let parent = &pod.record.config.cgroup_parent;
        let shared = self.0.get(parent).is_some_and(|users| *users > 1);
        if shared || parent.trim_matches('/').is_empty() {
            return Ok(None);
        }
        let cgroup = app.cgroups.open(parent)?;
        Ok(cgroup.exists().then_some(cgroup))
    }
}

/// Adds up what can be added up.
fn sum<'a>(usages: impl Iterator<Item = &'a Usage>) -> Usage {
    let mut all = Usage {
        cpu: Some(CpuUsage::default()),
        memory: Some(MemoryUsage {
            swap: Some(SwapUsage::default()),
            ..MemoryUsage::default()
        }),
        ..Usage::default()
    };
    for usage in usages {
        if let (Some(all), Some(cpu)) = (&mut all.cpu, &usage.cpu) {
            all.total_ns += cpu.total_ns;
            all.user_ns += cpu.user_ns;
            all.system_ns += cpu.system_ns;
            all.periods += cpu.periods;
            all.throttled_periods += cpu.throttled_periods;
            all.throttled_ns += cpu.throttled_ns;
        }
        if let (Some(all), Some(memory)) = (&mut all.memory, &usage.memory) {
            add_memory(all, memory);
        }
        if let (pids, Some(more)) = (&mut all.pids, usage.pids) {
            pids.get_or_insert_default().tasks += more.tasks;
        }
    }
    all
}

fn add_memory(all: &mut MemoryUsage, memory: &MemoryUsage) {
    all.usage += memory.usage;
    all.peak += memory.peak;
    all.inactive_file += memory.inactive_file;
    all.anon += memory.anon;
    all.file += memory.file;
    all.mapped_file += memory.mapped_file;
    all.kernel += memory.kernel;
    all.page_faults += memory.page_faults;
    all.major_page_faults += memory.major_page_faults;
    all.own_page_faults.0 += memory.own_page_faults.0;
    all.own_page_faults.1 += memory.own_page_faults.1;
    all.limit_hits += memory.limit_hits;
    all.oom_kills += memory.oom_kills;
    all.swap = match (all.swap, memory.swap) {
        (Some(all), Some(more)) => Some(SwapUsage {
            usage: all.usage + more.usage,
            limit: None,
        }),
        _ => None,
    };
}
