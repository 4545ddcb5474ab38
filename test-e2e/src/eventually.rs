//! Waiting for a condition: polled quickly, bounded, and loud about what never came.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long a condition may take before the test fails. Generous: a loaded machine with two cores
/// must not make a test flaky, and a true failure ends the test anyway.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks. Short enough not to be felt, long enough to leave the CPU to the server.
const PACE: Duration = Duration::from_millis(10);

/// `bound`, stretched by `CRISP_TEST_PATIENCE` (a factor) where the machine is an emulated one.
///
/// # Panics
/// When the variable is no positive number.
pub fn stretched(bound: Duration) -> Duration {
    std::env::var("CRISP_TEST_PATIENCE").map_or(bound, |factor| {
        let times: u32 = factor.parse().unwrap_or_default();
        assert!(
            times > 0,
            "CRISP_TEST_PATIENCE={factor}: a positive number is needed"
        );
        bound * times
    })
}

/// Waits until `look` finds something, for at most [`PATIENCE`].
///
/// # Panics
/// When it does not; `what` says what was awaited.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl FnMut() -> F) -> T {
    within(PATIENCE, what, look).await
}

/// Waits until `look` finds something, for at most `bound`.
///
/// # Panics
/// When it does not; `what` says what was awaited.
pub async fn within<T, F: Future<Output = Option<T>>>(
    bound: Duration,
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + stretched(bound);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {bound:?} in vain: {what}");
        tokio::time::sleep(PACE).await;
    }
}

/// Waits until `holds` says yes, for at most [`PATIENCE`].
///
/// # Panics
/// When it never does; `what` says what was awaited.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let () = eventually(what, || {
        let held = holds();
        async move { held.then_some(()) }
    })
    .await;
}
