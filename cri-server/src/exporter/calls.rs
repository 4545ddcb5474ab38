//! How often each call was made, how it ended, and how long it took.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::text::{Exposition, Kind};

/// Upper ends of the buckets, in seconds: from a listing to a pod whose plugins take their time.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];
/// Names of calls come from clients. CRI and the admin service have far fewer.
const MOST_CALLS: usize = 128;

#[derive(Debug, Default)]
struct Call {
    /// By gRPC code.
    ended: BTreeMap<String, u64>,
    /// How many took at most so long, bucket by bucket; what took longer is only in the count.
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

/// All calls since the daemon was started.
#[derive(Debug, Default)]
pub struct Calls(Mutex<BTreeMap<String, Call>>);

impl Calls {
    /// A call has ended with a gRPC code, `0` for success.
    pub fn ended(&self, call: &str, code: &str, took: Duration) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() >= MOST_CALLS && !calls.contains_key(call) {
            return;
        }
        let call = calls.entry(call.to_owned()).or_default();
        let seconds = took.as_secs_f64();
        *call.ended.entry(code.to_owned()).or_default() += 1;
        if let Some(bucket) = BUCKETS.iter().position(|end| seconds <= *end) {
            call.buckets[bucket] += 1;
        }
        call.count += 1;
        call.seconds += seconds;
    }

    pub(super) fn render(&self, text: &mut Exposition) {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.family(
            "crisp_calls_total",
            "Calls that have ended, by gRPC code",
            Kind::Counter,
        );
        for (name, call) in calls.iter() {
            for (code, count) in &call.ended {
                text.sample(&[("call", name), ("code", code)], *count as f64);
            }
        }
        text.family("crisp_call_seconds", "How long calls took", Kind::Histogram);
        for (name, call) in calls.iter() {
            let mut so_far = 0;
            for (end, count) in BUCKETS.iter().zip(call.buckets) {
                so_far += count;
                text.sample_of(
                    "_bucket",
                    &[("call", name), ("le", &end.to_string())],
                    so_far as f64,
                );
            }
            text.sample_of("_bucket", &[("call", name), ("le", "+Inf")], call.count as f64);
            text.sample_of("_sum", &[("call", name)], call.seconds);
            text.sample_of("_count", &[("call", name)], call.count as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let calls = Calls::default();
        for (code, ms) in [("0", 1), ("0", 4), ("5", 4), ("0", 90_000)] {
            calls.ended("Status", code, Duration::from_millis(ms));
        }
        let mut text = Exposition::default();
        calls.render(&mut text);
        let text = text.finish();
        for line in [
            "crisp_calls_total{call=\"Status\",code=\"0\"} 3",
            "crisp_calls_total{call=\"Status\",code=\"5\"} 1",
            "crisp_call_seconds_bucket{call=\"Status\",le=\"0.001\"} 1",
            "crisp_call_seconds_bucket{call=\"Status\",le=\"0.005\"} 3",
            "crisp_call_seconds_bucket{call=\"Status\",le=\"60\"} 3",
            "crisp_call_seconds_bucket{call=\"Status\",le=\"+Inf\"} 4",
            "crisp_call_seconds_count{call=\"Status\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nin\n{text}");
        }
    }

    #[test]
    fn names_made_up_by_clients_are_bounded() {
        let calls = Calls::default();
        for number in 0..10 * MOST_CALLS {
            calls.ended(&format!("Call{number}"), "12", Duration::ZERO);
        }
        assert_eq!(calls.0.lock().unwrap().len(), MOST_CALLS);
    }
}
