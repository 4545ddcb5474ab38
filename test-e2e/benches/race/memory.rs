//! What idle pods cost, and how long a restarted daemon keeps its clients waiting.

use std::time::Duration;

use crate::contender::{Contender, IDLE_SECONDS};
use crate::crowd::{lower, raise};
use crate::machine::{self, Resident};
use crate::report::Report;
use crate::sample::Samples;

const PODS: usize = 30;

/// KiB, of one contender with `PODS` idle pods.
#[derive(Default)]
struct Cost {
    daemon_alone: u64,
    daemon: u64,
    /// Supervisors, shims, pause processes.
    monitors: u64,
    workloads: u64,
    kernel: u64,
}

impl Cost {
    fn per_pod(total: u64) -> f64 {
        kib(total) / kib(PODS as u64)
    }
}

/// Threads that served the start end, caches settle: what is measured is idleness.
const SETTLING: Duration = Duration::from_secs(4);

/// The memory of thirty idle pods: PSS of every process involved, and what the kernel took meanwhile.
pub(crate) async fn measure(contenders: &mut [Contender], report: &mut Report) {
    let mut costs = Vec::new();
    for contender in contenders.iter() {
        costs.push(match contender.daemon() {
            Some(daemon) => Some(cost(contender, daemon).await),
            None => None,
        });
    }
    let mut row = |name: &str, value: fn(&Cost) -> f64| {
        report.row(name, "KiB", costs.iter().map(|cost| cost.as_ref().map(value)));
    };
    row("daemon before the first of 30 pods, PSS", |cost| {
        kib(cost.daemon_alone)
    });
    row("daemon with 30 idle pods, PSS", |cost| kib(cost.daemon));
    row("monitors per idle pod, PSS", |cost| Cost::per_pod(cost.monitors));
    row("workload per idle pod, PSS", |cost| Cost::per_pod(cost.workloads));
    row("kernel memory per idle pod", |cost| Cost::per_pod(cost.kernel));
    row("all but the workload per idle pod", |cost| {
        Cost::per_pod(cost.monitors + cost.kernel + cost.daemon.saturating_sub(cost.daemon_alone))
    });
}

#[expect(clippy::cast_precision_loss, reason = "kibibytes of a small machine")]
fn kib(value: u64) -> f64 {
    value as f64
}

async fn cost(contender: &Contender, daemon: u32) -> Cost {
    let others: Vec<u32> = machine::descendants().iter().map(|process| process.pid).collect();
    let pss = |list: &[Resident], pid: u32| {
        list.iter()
            .find(|process| process.pid == pid)
            .map_or(0, |p| p.pss)
    };
    tokio::time::sleep(SETTLING).await;
    let mut cost = Cost {
        daemon_alone: pss(&machine::descendants(), daemon),
        ..Cost::default()
    };
    let kernel = machine::kernel_memory();
    let pods = raise(contender, "idle", PODS).await;
    tokio::time::sleep(SETTLING).await;
    cost.kernel = machine::kernel_memory().saturating_sub(kernel);
    let now = machine::descendants();
    cost.daemon = pss(&now, daemon);
    for process in now.iter().filter(|process| !others.contains(&process.pid)) {
        if process.command.ends_with(&format!("sleep {IDLE_SECONDS}")) {
            cost.workloads += process.pss;
        } else {
            cost.monitors += process.pss;
        }
    }
    lower(contender, pods).await;
    cost
}

/// From the daemon's exec to its first answer, with thirty pods running; the median of several kills.
pub(crate) async fn first_answer(contenders: &mut [Contender], report: &mut Report) {
    const KILLS: usize = 7;
    let mut cells = Vec::new();
    for contender in contenders.iter_mut() {
        let pods = raise(contender, "answer", PODS).await;
        let mut samples = Samples::default();
        for _ in 0..KILLS {
            if let Some(took) = contender.restart().await {
                samples.push(took);
            }
        }
        lower(contender, pods).await;
        let given = contender.daemon().is_none();
        cells.push((!given).then(|| samples.quantile(0.5).as_secs_f64() * 1000.0));
    }
    report.row("kill -9, then first answer, 30 pods running", "ms", cells);
}
