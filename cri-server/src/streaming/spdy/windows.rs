//! How much the peer is willing to receive (SPDY/3.1, section 2.6.8): per stream, and for the connection as a whole.
//!
//! `moby/spdystream`, which kubelet and crictl use, never grows a window and sends without looking at ours. A server
//! that waited for it would stop for ever after 64 KiB. So the windows are counted from the beginning, but hold only
//! once the peer has shown that it has flow control: by a WINDOW_UPDATE, or a setting of the initial window. A peer
//! without it is slowed down by TCP alone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::streaming::channel::Disconnected;

/// The windows of one connection.
pub struct Windows {
    state: Mutex<WindowState>,
    grown: Notify,
}

struct WindowState {
    held: bool,
    closed: bool,
    initial: i64,
    connection: i64,
    streams: HashMap<u32, i64>,
}

/// What windows begin with.
const INITIAL_WINDOW: i64 = 64 << 10;

impl Default for Windows {
    fn default() -> Self {
        Self {
            state: Mutex::new(WindowState {
                held: false,
                closed: false,
                initial: INITIAL_WINDOW,
                connection: INITIAL_WINDOW,
                streams: HashMap::new(),
            }),
            grown: Notify::new(),
        }
    }
}

impl Windows {
    /// A new stream.
    pub fn open(&self, stream: u32) {
        let mut state = self.state();
        let initial = state.initial;
        state.streams.insert(stream, initial);
    }

    /// How many streams there are on which we may still send.
    pub fn open_streams(&self) -> usize {
        self.state().streams.len()
    }

    /// A stream on which nothing is sent any more.
    pub fn forget(&self, stream: u32) {
        self.state().streams.remove(&stream);
        self.grown.notify_waiters();
    }

    /// The peer grows a window. False when it grows beyond what the protocol can count.
    pub fn grow(&self, stream: u32, delta: u32) -> bool {
        let mut state = self.state();
        state.held = true;
        let window = match stream {
            0 => Some(&mut state.connection),
            stream => state.streams.get_mut(&stream),
        };
        let fits = window.is_none_or(|window| {
            *window += i64::from(delta);
            *window <= i64::from(i32::MAX)
        });
        drop(state);
        self.grown.notify_waiters();
        fits
    }

    /// The peer sets what streams begin with; those that are open change by the difference.
    pub fn set_initial(&self, initial: u32) {
        let mut state = self.state();
        state.held = true;
        let difference = i64::from(initial) - state.initial;
        state.initial = i64::from(initial);
        state
            .streams
            .values_mut()
            .for_each(|window| *window += difference);
        drop(state);
        self.grown.notify_waiters();
    }

    /// The connection has ended: who waits for room gets none.
    pub fn close(&self) {
        self.state().closed = true;
        self.grown.notify_waiters();
    }

    /// Takes room for up to `wanted` bytes; waits for at least one, unless none is wanted.
    ///
    /// # Errors
    /// [`Disconnected`] when the stream or the connection has ended.
    pub async fn take(&self, stream: u32, wanted: usize) -> Result<usize, Disconnected> {
        loop {
            let grown = self.grown.notified();
            let mut grown = std::pin::pin!(grown);
            grown.as_mut().enable();
            {
                let mut state = self.state();
                let Some(&window) = state.streams.get(&stream) else {
                    return Err(Disconnected);
                };
                if state.closed {
                    return Err(Disconnected);
                }
                let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
                let room = match state.held {
                    true => window.min(state.connection).clamp(0, wanted),
                    false => wanted,
                };
                if room > 0 || wanted == 0 {
                    state.connection -= room;
                    state.streams.entry(stream).and_modify(|window| *window -= room);
                    return Ok(usize::try_from(room).unwrap_or(0));
                }
            }
            grown.await;
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, WindowState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn windows_hold_once_the_peer_has_shown_that_it_has_them() {
        let windows = Windows::default();
        windows.open(1);
        // A peer without flow control: far beyond any window.
        assert_eq!(windows.take(1, 1 << 20).await, Ok(1 << 20));
        // All of it counts from the first update on.
        assert!(windows.grow(1, 1 << 20));
        assert!(windows.grow(0, 1 << 20));
        assert_eq!(windows.take(1, 1 << 20).await, Ok(64 << 10));
        assert!(windows.take(1, 1).now_or_never().is_none(), "no room");
        let (taken, _) = tokio::join!(windows.take(1, 10), async {
            windows.grow(1, 5);
            windows.grow(0, 7);
        });
        assert_eq!(taken, Ok(5));
        assert_eq!(windows.take(1, 0).await, Ok(0), "an end needs no room");
    }

    #[tokio::test]
    async fn a_setting_moves_open_windows() {
        let windows = Windows::default();
        windows.open(1);
        windows.set_initial(10);
        assert_eq!(windows.take(1, 100).await, Ok(10));
        windows.set_initial(0);
        assert!(windows.take(1, 1).now_or_never().is_none(), "below zero");
        assert!(
            !windows.grow(1, i32::MAX as u32) || !windows.grow(1, 100),
            "no overflow"
        );
        windows.close();
        assert_eq!(windows.take(1, 1).await, Err(Disconnected));
    }
}
