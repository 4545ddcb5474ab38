//! One pod's life, call by call; contenders take turns cycle by cycle.

use std::path::Path;
use std::time::{Duration, Instant};

use test_e2e::client::Client;
use tokio::runtime::Builder;
use tonic::Status;

use crate::contender::Contender;
use crate::limit;
use crate::machine;
use crate::report::Report;
use crate::sample::Samples;

/// The calls of a cycle, in their order.
const CALLS: [&str; 8] = [
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "ExecSync",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];

/// Sums that the targets are written in: a name and the calls it adds.
const SUMS: [(&str, &[usize]); 4] = [
    ("Create + Start", &[1, 2]),
    ("Stop + RemoveContainer", &[4, 5]),
    ("Stop + RemovePodSandbox", &[6, 7]),
    ("whole cycle", &[0, 1, 2, 3, 4, 5, 6, 7]),
];

/// Rounds that are not counted: caches fill, the first pages are touched.
const WARM_UP: usize = 5;

/// The machine rests when it has done next to nothing for so long.
const REST: Duration = Duration::from_millis(30);
/// A machine that never rests is not waited for.
const PATIENCE: Duration = Duration::from_millis(600);

#[derive(Clone, Default)]
struct Column {
    calls: [Samples; CALLS.len()],
    sums: [Samples; SUMS.len()],
    busy: Duration,
}

/// Measures `cycles` lives per contender, interleaved, and the bare system calls among them.
///
/// One thread makes the calls: several would hand each request and each answer on to one another, and to wake a thread on
/// a processor that sleeps takes as long as a part of the call itself.
pub(crate) fn measure(contenders: &[Contender], cycles: usize, scratch: &Path, report: &mut Report) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let connections = contenders.iter().map(|one| runtime.block_on(one.connect()));
    let connections: Vec<Client> = connections.collect();
    let mut columns = vec![Column::default(); contenders.len()];
    let mut bare = limit::Bench::new(scratch);
    for round in 0..WARM_UP + cycles {
        // Nobody bears what another has left to be done, and should it last, that changes from round to round.
        for turn in 0..contenders.len() {
            let whose = (round + turn) % contenders.len();
            let (contender, client) = (&contenders[whose], &connections[whose]);
            let column = &mut columns[whose];
            let busy = machine::busy();
            let took = runtime
                .block_on(Box::pin(life(contender, client, round)))
                .unwrap_or_else(|status| panic!("{}: {status}", contender.name()));
            await_rest();
            if round >= WARM_UP {
                column.add(&took);
                column.busy += machine::busy().saturating_sub(busy);
            }
        }
        bare.round(round >= WARM_UP);
        await_rest();
    }
    for (call, name) in CALLS.iter().enumerate() {
        let cells = columns.iter().map(|column| &column.calls[call]);
        report.spread(name, cells, bare.of(name));
    }
    for (sum, (name, _)) in SUMS.iter().enumerate() {
        let cells = columns.iter().map(|column| &column.sums[sum]);
        report.spread(name, cells, bare.of(name));
    }
    let per_cycle = columns.iter().map(|column| {
        let cycles = u32::try_from(cycles).unwrap_or(u32::MAX);
        Some((column.busy / cycles).as_secs_f64() * 1000.0)
    });
    report.row("machine's CPU per cycle", "ms", per_cycle);
}

/// Waits for what a cycle has left to be done behind it: namespaces and cgroups to be freed, a sandbox to be begun in
/// advance. It is part of what the cycle costs, and not of what the next one does.
fn await_rest() {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let busy = machine::busy();
        std::thread::sleep(REST);
        if machine::busy() == busy {
            break;
        }
    }
}

impl Column {
    fn add(&mut self, took: &[Duration; CALLS.len()]) {
        for (samples, took) in self.calls.iter_mut().zip(took) {
            samples.push(*took);
        }
        for (samples, (_, calls)) in self.sums.iter_mut().zip(SUMS) {
            samples.push(calls.iter().map(|call| took[*call]).sum());
        }
    }
}

async fn life(
    contender: &Contender,
    client: &Client,
    round: usize,
) -> Result<[Duration; CALLS.len()], Status> {
    let pod = contender.pod(&format!("cycle-{round}")).0;
    let container = contender.idle().0;
    let mut took = [Duration::ZERO; CALLS.len()];
    let mut at = Instant::now();
    let mut lap = |call: usize| {
        let now = Instant::now();
        took[call] = now - at;
        at = now;
    };
    let id = client.run_pod(&pod).await?;
    lap(0);
    let main = client.create(&id, &pod, &container).await?;
    lap(1);
    client.start(&main).await?;
    lap(2);
    client.exec(&main, &["/bin/true"], 10).await?;
    lap(3);
    client.stop(&main, 0).await?;
    lap(4);
    client.remove(&main).await?;
    lap(5);
    client.stop_pod(&id).await?;
    lap(6);
    client.remove_pod(&id).await?;
    lap(7);
    Ok(took)
}
