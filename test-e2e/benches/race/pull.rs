//! Images from a registry on loopback: time, peak memory, and removal.

use std::time::{Duration, Instant};

use test_e2e::images::{Image, busybox_builder};
use test_e2e::layers::Layer;

use crate::contender::Contender;
use crate::machine;
use crate::report::Report;
use crate::sample::Samples;

const ROUNDS: usize = 3;

#[derive(Default)]
struct Column {
    pull: Samples,
    remove: Samples,
    /// Peak resident set above the idle one, KiB.
    peak: u64,
}

/// Five large layers, then one layer of many small files.
pub(crate) async fn measure(contenders: &mut [Contender], report: &mut Report) {
    let cases = [
        ("pull 5 gzip layers of 60 MB", "large", five_large_layers()),
        ("pull one layer of 40,000 files", "files", many_small_files()),
    ];
    for (name, repository, image) in &cases {
        let mut columns = Vec::new();
        for contender in contenders.iter() {
            columns.push(Box::pin(rounds(contender, repository, image)).await);
        }
        let seconds = |samples: &Samples| Some(samples.quantile(0.5).as_secs_f64());
        report.row(name, "s", columns.iter().map(|column| seconds(&column.pull)));
        let removal = |column: &Column| Some(column.remove.quantile(0.5).as_secs_f64() * 1000.0);
        report.row(&format!("{name}: removal"), "ms", columns.iter().map(removal));
        #[expect(clippy::cast_precision_loss, reason = "mebibytes")]
        let peaks = columns.iter().map(|column| Some(column.peak as f64 / 1024.0));
        report.row(&format!("{name}: peak memory over idle"), "MiB", peaks);
    }
}

async fn rounds(contender: &Contender, repository: &str, image: &Image) -> Column {
    let client = contender.client();
    let reference = contender.publish(repository, image);
    let mut column = Column::default();
    for _ in 0..ROUNDS {
        if let Some(daemon) = contender.daemon() {
            machine::reset_peak(daemon);
        }
        let idle = contender.daemon().map_or(0, machine::peak);
        let begun = Instant::now();
        client.pull(&reference).await.expect("a pull from loopback");
        column.pull.push(begun.elapsed());
        let peak = contender.daemon().map_or(0, machine::peak);
        column.peak = column.peak.max(peak.saturating_sub(idle));
        let begun = Instant::now();
        client
            .remove_image(&reference)
            .await
            .expect("an image nobody uses");
        column.remove.push(begun.elapsed());
        // Deletion goes on behind the answer: not on the next pull's account.
        rustix::fs::sync();
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    column
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
