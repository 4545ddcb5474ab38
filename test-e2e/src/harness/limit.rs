//! The longest life of a server: a test that hangs says so, before whoever started the tests loses patience with all of
//! them.

use std::io::Write as _;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::eventually::stretched;
use crate::layout::Layout;

/// Many times what the longest test takes.
const LIMIT: Duration = Duration::from_secs(600);

/// Watches until it is dropped.
pub(super) struct Limit {
    _alive: Sender<()>,
}

impl Limit {
    /// Ends this process, with the server's log, unless the test on this thread is over in time.
    pub(super) fn begin(layout: &Layout) -> Self {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let log = layout.path("log");
        let (alive, over) = channel();
        std::thread::spawn(move || {
            if over.recv_timeout(stretched(LIMIT)) == Err(RecvTimeoutError::Timeout) {
                let log = std::fs::read(log).unwrap_or_default();
                // Past the capture of a test's output, which would be lost.
                let mut out = std::io::stderr().lock();
                let _ = writeln!(
                    out,
                    "{test} is not over after {:?}; crisp's log:",
                    stretched(LIMIT)
                );
                let _ = out.write_all(&log[log.len().saturating_sub(64 << 10)..]);
                std::process::exit(101);
            }
        });
        Self { _alive: alive }
    }
}
