//! Named steps of an operation that are taken back when a later one fails.
//!
//! ```text
//!  step 1 ── step 2 ── step 3 ✗
//!     undo 1 ◄── undo 2 ◄──┘        in reverse; a failed undo is reported and does not stop the rest
//! ```

use std::future::Future;
use std::pin::Pin;

type Step = Pin<Box<dyn Future<Output = Result<(), crate::Error>> + Send>>;

/// The way back from where an operation stands.
///
/// It must be either [committed](Undo::commit) or [run](Undo::run): dropping it forgets the steps,
/// which is what a killed daemon does too, and what recovery at the next start is for.
#[derive(Default)]
#[must_use = "commit it or run it"]
pub struct Undo {
    steps: Vec<(&'static str, Step)>,
}

impl Undo {
    /// Records how to take back the step just done.
    pub fn push(
        &mut self,
        name: &'static str,
        step: impl Future<Output = Result<(), crate::Error>> + Send + 'static,
    ) {
        self.steps.push((name, Box::pin(step)));
    }

    /// The operation succeeded: nothing is to be taken back.
    pub fn commit(self) {}

    /// Takes everything back, last step first, going on past failures, each of which is logged.
    pub async fn run(self) {
        for (name, step) in self.steps.into_iter().rev() {
            if let Err(error) = step.await {
                tracing::warn!(step = name, %error, "could not undo");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn runs_in_reverse_and_past_failures() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for (name, fails) in [("first", false), ("second", true), ("third", false)] {
            let seen = seen.clone();
            undo.push(name, async move {
                seen.lock().unwrap().push(name);
                if fails {
                    Err(crate::Error::invalid("x", "y"))
                } else {
                    Ok(())
                }
            });
        }
        undo.run().await;
        assert_eq!(*seen.lock().unwrap(), ["third", "second", "first"]);
    }
}
