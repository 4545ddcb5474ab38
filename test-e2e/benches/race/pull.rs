//! Images from a registry on loopback: time, peak memory, and removal. crisp with either format of layers.

use std::path::Path;
use std::time::{Duration, Instant};

use test_e2e::client::Client;
use test_e2e::harness::Server;
use test_e2e::images::{Image, busybox_builder};
use test_e2e::layers::Layer;
use test_e2e::layout::Settings;

use crate::contender::Contender;
use crate::report::Report;
use crate::sample::Samples;
use crate::{limit_pull, machine};

const ROUNDS: usize = 3;

#[derive(Default)]
struct Column {
    pull: Samples,
    remove: Samples,
    /// Peak resident set above the idle one, KiB.
    peak: u64,
}

/// Who pulls what.
struct Runner {
    client: Client,
    reference: String,
    daemon: Option<u32>,
}

/// Five large layers, then one layer of many small files.
pub(crate) async fn measure(contenders: &mut [Contender], scratch: &Path, report: &mut Report) {
    let cases = [
        ("pull 5 gzip layers of 60 MB", "large", five_large_layers()),
        ("pull one layer of 40,000 files", "files", many_small_files()),
    ];
    for (name, repository, image) in &cases {
        let limit = limit(image, scratch);
        let mut columns = Vec::new();
        for contender in contenders.iter() {
            let runner = Runner {
                client: contender.client(),
                reference: contender.publish(repository, image),
                daemon: contender.daemon(),
            };
            columns.push(Some(Box::pin(runner.rounds()).await));
        }
        rows(report, name, &columns, limit);
        // The formats beside each other, in crisp's column.
        for format in ["directory", "erofs"] {
            let mut columns = vec![Some(
                Box::pin(crisp_with(format, scratch, repository, image)).await,
            )];
            columns.resize_with(contenders.len(), || None);
            rows(report, &format!("{name}, as {format}"), &columns, limit);
        }
    }
}

fn rows(report: &mut Report, name: &str, columns: &[Option<Column>], limit: Option<f64>) {
    let figures = |figure: &dyn Fn(&Column) -> f64| -> Vec<Option<f64>> {
        columns.iter().map(|column| column.as_ref().map(figure)).collect()
    };
    let seconds = |column: &Column| column.pull.quantile(0.5).as_secs_f64();
    report.row_beside(name, "s", figures(&seconds), limit);
    let removal = |column: &Column| column.remove.quantile(0.5).as_secs_f64() * 1000.0;
    report.row(&format!("{name}: removal"), "ms", figures(&removal));
    #[expect(clippy::cast_precision_loss, reason = "mebibytes")]
    let peak = |column: &Column| column.peak as f64 / 1024.0;
    report.row(&format!("{name}: peak memory over idle"), "MiB", figures(&peak));
}

/// The median of as many rounds as the contenders have, in seconds.
fn limit(image: &Image, scratch: &Path) -> Option<f64> {
    let mut samples = Samples::default();
    for _ in 0..ROUNDS {
        match limit_pull::measure(image, scratch) {
            Ok(elapsed) => samples.push(elapsed),
            Err(error) => {
                eprintln!("race: no limit for pulls: {error}");
                return None;
            }
        }
    }
    Some(samples.quantile(0.5).as_secs_f64())
}

async fn crisp_with(format: &str, scratch: &Path, repository: &str, image: &Image) -> Column {
    let settings = Settings {
        config: format!("[image]\nlayer_format = \"{format}\"\n"),
        base: Some(scratch.to_owned()),
        ..Settings::default()
    };
    let server: Server = settings.start().await;
    let runner = Runner {
        client: server.client.clone(),
        reference: server.registry.publish(repository, "bench", image),
        daemon: Some(server.pid()),
    };
    let column = runner.rounds().await;
    Box::pin(server.close()).await;
    column
}

impl Runner {
    async fn rounds(self) -> Column {
        let mut column = Column::default();
        for _ in 0..ROUNDS {
            if let Some(daemon) = self.daemon {
                machine::reset_peak(daemon);
            }
            let idle = self.daemon.map_or(0, machine::peak);
            let begun = Instant::now();
            self.client
                .pull(&self.reference)
                .await
                .expect("a pull from loopback");
            column.pull.push(begun.elapsed());
            let peak = self.daemon.map_or(0, machine::peak);
            column.peak = column.peak.max(peak.saturating_sub(idle));
            let begun = Instant::now();
            self.client
                .remove_image(&self.reference)
                .await
                .expect("an image nobody uses");
            column.remove.push(begun.elapsed());
            // Deletion goes on behind the answer: not on the next pull's account.
            rustix::fs::sync();
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        column
    }
}

fn five_large_layers() -> Image {
    let mut image = busybox_builder();
    for number in 0..5_u64 {
        image = image.layer(Layer::new().file(
            &format!("large-{number}"),
            0o644,
            program_like(number, 60_000_000),
        ));
    }
    image.build()
}

fn many_small_files() -> Image {
    let mut layer = Layer::new().directory("files", 0o755);
    for directory in 0..200 {
        layer = layer.directory(&format!("files/{directory}"), 0o755);
        for file in 0..200_u64 {
            let size = 200 + (file * 37 + directory * 101) % 4000;
            let content = program_like(directory * 200 + file, size);
            layer = layer.file(&format!("files/{directory}/{file}"), 0o644, content);
        }
    }
    busybox_builder().layer(layer).build()
}

/// Bytes that compress about as programs do: words of a small vocabulary between random ones.
fn program_like(seed: u64, size: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let size = usize::try_from(size).expect("sizes of a test");
    let mut bytes = Vec::with_capacity(size + 16);
    while bytes.len() < size {
        let random = next();
        if random.is_multiple_of(3) {
            bytes.extend_from_slice(&random.to_le_bytes());
        } else {
            let word = (random >> 32) % 500;
            bytes.extend_from_slice(&(word * 0x0101_0203).to_le_bytes());
        }
    }
    bytes.truncate(size);
    bytes
}
