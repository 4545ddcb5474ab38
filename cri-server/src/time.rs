//! Wall-clock time as CRI counts it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970 UTC; zero stands for "never", as in CRI.
pub type Nanos = i64;

/// Now.
pub fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
