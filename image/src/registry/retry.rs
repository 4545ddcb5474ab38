//! When to try again, and how long to wait before.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

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
    fn fractions_differ() {
        let fractions: Vec<f64> = (0..20).map(|_| random_fraction()).collect();
        assert!(fractions.iter().all(|f| (0.0..1.0).contains(f)));
        assert!(fractions.iter().any(|f| *f != fractions[0]));
    }
}
