//! The demo's output: one line a step, with what it took.

use std::pin::Pin;
use std::time::{Duration, Instant};

use super::super::{Result, output};

/// Durations so far.
pub(super) struct Timeline {
    total: Duration,
    /// A step's line is begun, and its remark is still to come.
    open: bool,
}

impl Timeline {
    pub(super) fn new() -> Self {
        Self {
            total: Duration::ZERO,
            open: false,
        }
    }

    /// Does a step, and begins its line when it has succeeded. Boxed: a call with a whole pod in it is large.
    pub(super) fn step<'a, T: 'a>(
        &'a mut self,
        name: &'a str,
        work: impl Future<Output = Result<T>> + 'a,
    ) -> Pin<Box<dyn Future<Output = Result<T>> + 'a>> {
        Box::pin(async move {
            self.end_line()?;
            let began = Instant::now();
            let done = work.await?;
            let took = began.elapsed();
            self.total += took;
            output::print(&format!("{:>9.1} ms  {name:<18}", took.as_secs_f64() * 1000.0))?;
            self.open = true;
            Ok(done)
        })
    }

    /// A remark on the last step.
    pub(super) fn note(&mut self, remark: &str) -> Result<()> {
        output::print(&format!(" {remark}"))?;
        self.end_line()
    }

    pub(super) fn end_line(&mut self) -> Result<()> {
        if std::mem::take(&mut self.open) {
            output::print("\n")
        } else {
            Ok(())
        }
    }

    pub(super) fn print_total(&mut self) -> Result<()> {
        self.end_line()?;
        output::print(&format!(
            "{:>9.1} ms  in all\n",
            self.total.as_secs_f64() * 1000.0
        ))
    }
}
