//! One pod's cycle: run → create → start → exec → stop → remove, as a whole and call by call.
//!
//! `make bench` builds both programs optimised and runs this. The figures are of one client calling
//! one after the other, on an otherwise idle daemon; the image is there before the first call.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use test_e2e::client::Client;
use test_e2e::harness::Server;
use test_e2e::specs::Container;
use tokio::runtime::{Builder, Runtime};

/// What one cycle took, call by call.
#[derive(Default, Clone, Copy)]
struct Cycle {
    run: Duration,
    create: Duration,
    start: Duration,
    exec: Duration,
    stop: Duration,
    remove: Duration,
}

impl Cycle {
    fn whole(&self) -> Duration {
        self.run + self.create + self.start + self.exec + self.stop + self.remove
    }
}

async fn timed<T>(into: &mut Duration, call: impl Future<Output = Result<T, tonic::Status>>) -> T {
    let begun = Instant::now();
    let answer = call.await.expect("the runtime answers");
    *into = begun.elapsed();
    black_box(answer)
}

async fn cycle(server: &Server, client: &Client, image: &str, number: u64) -> Cycle {
    let mut took = Cycle::default();
    let pod = server.pod(&format!("bench-{number}"));
    let container = Container::new("main", image).command(&["/bin/sleep", "100000"]);
    let id = timed(&mut took.run, Box::pin(client.run_pod(&pod.0))).await;
    let main = timed(
        &mut took.create,
        Box::pin(client.create(&id, &pod.0, &container.0)),
    )
    .await;
    timed(&mut took.start, client.start(&main)).await;
    timed(&mut took.exec, client.exec(&main, &["/bin/true"], 0)).await;
    timed(&mut took.stop, client.stop(&main, 0)).await;
    let begun = Instant::now();
    client.remove(&main).await.expect("the container goes");
    client.stop_pod(&id).await.expect("the pod stops");
    client.remove_pod(&id).await.expect("the pod goes");
    took.remove = begun.elapsed();
    took
}

/// A part of a cycle, by name.
type Part = (&'static str, fn(&Cycle) -> Duration);

const PARTS: [Part; 7] = [
    ("whole", Cycle::whole),
    ("run", |cycle| cycle.run),
    ("create", |cycle| cycle.create),
    ("start", |cycle| cycle.start),
    ("exec", |cycle| cycle.exec),
    ("stop", |cycle| cycle.stop),
    ("remove", |cycle| cycle.remove),
];

fn bench(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let (server, image) = runtime.block_on(async {
        let server = Server::start().await;
        let image = server.busybox().await;
        (server, image)
    });
    // As in `race`: the threads of a client are not to be measured.
    let calls = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let client = calls
        .block_on(Client::connect(&server.socket()))
        .expect("it has just answered");
    let mut number = 0;
    let mut group = criterion.benchmark_group("cycle");
    group
        .sample_size(20)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(300));
    for (name, part) in PARTS {
        // Every round is a whole cycle, whichever part of it counts: few rounds for the parts.
        let whole = name == "whole";
        group.measurement_time(if whole {
            Duration::from_secs(5)
        } else {
            Duration::from_millis(100)
        });
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                calls.block_on(async {
                    let mut total = Duration::ZERO;
                    for _ in 0..rounds {
                        number += 1;
                        total += part(&Box::pin(cycle(&server, &client, &image, number)).await);
                    }
                    total
                })
            });
        });
    }
    group.finish();
    drop((client, calls));
    runtime.block_on(server.close());
}

criterion_group!(benches, bench);
criterion_main!(benches);
