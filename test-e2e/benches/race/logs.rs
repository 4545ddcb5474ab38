//! What the way from a container's stdout to its log file carries.

use std::time::Duration;

use k8s_cri::v1::ContainerState;
use test_e2e::eventually::within;
use test_e2e::specs::Container;

use crate::contender::Contender;
use crate::report::Report;

/// Some write a gibibyte at less than 50 MB/s.
const PATIENCE: Duration = Duration::from_secs(300);

/// (row, bytes per write, bytes in all).
const LOADS: [(&str, &str, u64); 2] = [
    ("log, 64 KiB a write", "65536", 1 << 30),
    ("log, one write per 100-byte line", "100", 200 << 20),
];

/// One container writes lines of 100 bytes as fast as its pipe takes them; from its start to its end.
pub(crate) async fn measure(contenders: &mut [Contender], report: &mut Report) {
    for (name, write, total) in LOADS {
        let mut cells = Vec::new();
        for contender in contenders.iter() {
            cells.push(Some(Box::pin(rate(contender, write, total)).await));
        }
        report.row(name, "MB/s", cells);
    }
}

async fn rate(contender: &Contender, write: &str, total: u64) -> f64 {
    let client = contender.client();
    let pod = contender.pod(&format!("log-{write}")).0;
    let log = std::path::PathBuf::from(&pod.log_directory).join("lines.log");
    let lines = Container::new("lines", &contender.probe).args(&["lines", write, &total.to_string()]);
    let id = client.run_pod(&pod).await.expect("a pod");
    let container = client.create(&id, &pod, &lines.0).await.expect("a container");
    client.start(&container).await.expect("it starts");
    let ended = within(PATIENCE, "the last line is written", || async {
        let status = client.container_status(&container).await.expect("it is known");
        (status.state() == ContainerState::ContainerExited).then_some(status)
    })
    .await;
    let took = ended.finished_at.saturating_sub(ended.started_at);
    client.remove(&container).await.expect("it goes");
    client.stop_pod(&id).await.expect("the pod stops");
    client.remove_pod(&id).await.expect("the pod goes");
    let written = std::fs::metadata(&log).map_or(0, |file| file.len());
    assert!(
        written > total,
        "{}: the log holds {written} of more than {total} bytes",
        contender.name()
    );
    std::fs::remove_file(&log).expect("the log is ours");
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = total as f64 / took.max(1) as f64 * 1000.0;
    rate
}
