//! Many pods at once: up, and down again.

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use tonic::Status;

use crate::contender::Contender;
use crate::report::Report;
use crate::sample::Samples;

const PODS: usize = 40;
const AT_ONCE: usize = 8;
const ROUNDS: usize = 5;

/// A pod that runs: its id and its container's.
pub(crate) struct Running {
    pod: String,
    container: String,
}

/// `PODS` pods, `AT_ONCE` at a time, several rounds; the median of up and of down.
pub(crate) async fn measure(contenders: &mut [Contender], report: &mut Report) {
    let mut up = vec![Samples::default(); contenders.len()];
    let mut down = vec![Samples::default(); contenders.len()];
    for round in 0..ROUNDS {
        for (index, contender) in contenders.iter().enumerate() {
            let begun = Instant::now();
            let pods = raise(contender, &format!("crowd-{round}"), PODS).await;
            up[index].push(begun.elapsed());
            let begun = Instant::now();
            lower(contender, pods).await;
            down[index].push(begun.elapsed());
        }
    }
    let seconds = |took: &Samples| Some(took.quantile(0.5).as_secs_f64());
    report.row("40 pods up, 8 at once", "s", up.iter().map(seconds));
    report.row("40 pods down, 8 at once", "s", down.iter().map(seconds));
    // The kernel takes namespaces and links apart in the background: not on the next part's account.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// Runs `count` pods with one idle container each.
pub(crate) async fn raise(contender: &Contender, prefix: &str, count: usize) -> Vec<Running> {
    let made = stream::iter(0..count)
        .map(|number| one_up(contender, format!("{prefix}-{number}")))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await;
    made.unwrap_or_else(|status| panic!("{}: {status}", contender.name()))
}

/// Stops and removes them.
pub(crate) async fn lower(contender: &Contender, pods: Vec<Running>) {
    let gone: Result<(), Status> = stream::iter(pods)
        .map(|running| one_down(contender, running))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await;
    gone.unwrap_or_else(|status| panic!("{}: {status}", contender.name()));
}

async fn one_up(contender: &Contender, name: String) -> Result<Running, Status> {
    let client = contender.client();
    let config = contender.pod(&name).0;
    let pod = client.run_pod(&config).await?;
    let container = client.create(&pod, &config, &contender.idle().0).await?;
    client.start(&container).await?;
    Ok(Running { pod, container })
}

async fn one_down(contender: &Contender, running: Running) -> Result<(), Status> {
    let client = contender.client();
    client.stop(&running.container, 0).await?;
    client.remove(&running.container).await?;
    client.stop_pod(&running.pod).await?;
    client.remove_pod(&running.pod).await
}
