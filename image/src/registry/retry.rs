//! When to try again.

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;

/// Exponential back-off with jitter.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Tries in all, without progress in between.
    pub attempts: u32,
    /// The wait after the first failure; doubles with each.
    pub base: Duration,
    /// The longest wait of our own choice.
    pub longest: Duration,
    /// The longest wait a registry may ask for.
    pub longest_asked: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            base: Duration::from_millis(250),
            longest: Duration::from_secs(8),
            longest_asked: Duration::from_secs(60),
        }
    }
}

/// The clock that waits are measured by, and told from (`Retry-After` may be a date).
#[derive(Clone)]
pub struct Clock {
    /// What time it is.
    pub now: fn() -> SystemTime,
    /// Ends after so long.
    pub sleep: Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            now: SystemTime::now,
            sleep: Arc::new(|wait| Box::pin(tokio::time::sleep(wait))),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").finish_non_exhaustive()
    }
}

impl RetryPolicy {
    /// The wait after failure number `failures` (from 1); `None` when it was the last try.
    pub(super) fn wait(&self, failures: u32, asked: Option<Duration>) -> Option<Duration> {
        if failures >= self.attempts {
            return None;
        }
        if let Some(asked) = asked {
            return Some(asked.min(self.longest_asked));
        }
        let exponential = self
            .base
            .saturating_mul(1 << (failures - 1).min(16))
            .min(self.longest);
        // Half fixed, half random: a thousand nodes that failed together come back apart.
        Some(exponential / 2 + (exponential / 2).mul_f64(random_fraction()))
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
pub(super) fn asked_wait(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Good enough to spread retries; the standard library seeds each hasher from the system.
fn random_fraction() -> f64 {
    let bits = std::hash::RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_is_bounded_and_ends() {
        let policy = RetryPolicy {
            attempts: 10,
            ..RetryPolicy::default()
        };
        for failures in 1..10 {
            let wait = policy.wait(failures, None).unwrap();
            let full = (policy.base * (1 << (failures - 1))).min(policy.longest);
            assert!(wait >= full / 2 && wait <= full, "{failures}: {wait:?}");
        }
        assert_eq!(policy.wait(10, None), None);
        assert_eq!(
            policy.wait(1, Some(Duration::from_secs(3))),
            Some(Duration::from_secs(3))
        );
        assert_eq!(
            policy.wait(1, Some(Duration::from_secs(9999))),
            Some(policy.longest_asked)
        );
    }

    #[test]
    fn a_registry_may_name_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_767);
        let asked = |text| asked_wait(text, now);
        assert_eq!(asked(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(
            asked("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Duration::from_secs(10))
        );
        assert_eq!(
            asked("Sun, 06 Nov 1994 08:49:07 GMT"),
            Some(Duration::ZERO),
            "past"
        );
        assert_eq!(asked("soon"), None);
        assert_eq!(asked("-1"), None);
    }

    #[test]
    fn fractions_differ() {
        let fractions: Vec<f64> = (0..20).map(|_| random_fraction()).collect();
        assert!(fractions.iter().all(|f| (0.0..1.0).contains(f)));
        assert!(fractions.iter().any(|f| *f != fractions[0]));
    }
}
