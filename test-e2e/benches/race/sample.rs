//! Durations of one call, and what one says of them.

use std::time::Duration;

/// Durations of the same thing, one per round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// One more.
    pub(crate) fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// The value below which `share` (0 to 1) of the samples lie; zero when there are none.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index of a short list"
        )]
        let index = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
        sorted.get(index).copied().unwrap_or_default()
    }

    /// `p50 / p95 / max` in milliseconds.
    pub(crate) fn spread(&self) -> String {
        format!(
            "{} / {} / {}",
            milliseconds(self.quantile(0.5)),
            milliseconds(self.quantile(0.95)),
            milliseconds(self.quantile(1.0)),
        )
    }
}

/// Milliseconds with as many digits as are worth reading.
pub(crate) fn milliseconds(took: Duration) -> String {
    let value = took.as_secs_f64() * 1000.0;
    match value {
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}
