//! Which of a container's streams are to be read, and when.
//!
//! ```text
//!            something to read             and again
//!   Still ────────────────────► Stirred ─────────────► Flowing ──┐ in sips: after a nap
//!     ▲▲─────── no more ───────────┘                     │ ▲─────┘
//!     └───────────────────── no more ────────────────────┘
//!   └──────────── watched ───────────┘                not watched
//! ```
//! Each write into a watched pipe calls the watcher, though he was told long ago: a fifth of what a short write costs. So a
//! stream that keeps flowing is watched again only when it is found empty.

use std::time::Duration;

use super::buffers::READ;
use super::slot::StreamName;

/// Pause before the next reads while all streams flow in sips: what comes meanwhile is read and written at once, and the
/// container need not wake anybody for each line. The kernel makes 0.1 ms of it; a pipe lasts longer.
pub(super) const NAP: Duration = Duration::from_micros(50);
/// Bytes brought by one turn below which it was a sip: where so many came during the last turn, the pipe would be full
/// before the end of a nap.
const SIP: usize = READ / 2;

/// How the streams of one container have been flowing.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pace: [Pace; 2],
    /// A stream has brought more than a sip since the last rest.
    gulped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pace {
    #[default]
    Still,
    Stirred,
    Flowing,
}

impl Flow {
    /// Whether there is nothing to do before somebody calls.
    pub(super) fn is_still(&self) -> bool {
        self.pace == [Pace::Still; 2]
    }

    /// A stream was looked at: `called` if it has something to read, as far as it is watched. True when it is not to be
    /// watched any more.
    pub(super) fn look(&mut self, name: StreamName, called: bool) -> bool {
        let pace = &mut self.pace[name as usize];
        let before = *pace;
        *pace = match (before, called) {
            (Pace::Still, true) => Pace::Stirred,
            (Pace::Stirred, true) | (Pace::Flowing, _) => Pace::Flowing,
            (Pace::Still | Pace::Stirred, false) => Pace::Still,
        };
        before != *pace && *pace == Pace::Flowing
    }

    /// Whether to rest before the next reads.
    pub(super) fn rests(&mut self) -> bool {
        !std::mem::take(&mut self.gulped) && self.pace.contains(&Pace::Flowing)
    }

    /// Whether a stream is to be read now.
    pub(super) fn moves(&self, name: StreamName) -> bool {
        self.pace[name as usize] != Pace::Still
    }

    /// Whether a stream is not watched.
    pub(super) fn is_unwatched(&self, name: StreamName) -> bool {
        self.pace[name as usize] == Pace::Flowing
    }

    /// A turn has brought so much.
    pub(super) fn brought(&mut self, bytes: usize) {
        self.gulped |= bytes >= SIP;
    }

    /// A stream has nothing more, and is watched.
    pub(super) fn stills(&mut self, name: StreamName) {
        self.pace[name as usize] = Pace::Still;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: StreamName = StreamName::Stdout;
    const ERR: StreamName = StreamName::Stderr;

    #[test]
    fn a_line_now_and_then_stays_watched_and_costs_no_nap() {
        let mut flow = Flow::default();
        for _ in 0..3 {
            assert!(flow.is_still());
            assert!(!flow.look(OUT, true) && !flow.look(ERR, false));
            assert!(!flow.rests() && flow.moves(OUT) && !flow.moves(ERR));
            flow.brought(100);
            assert!(!flow.look(OUT, false), "nobody called again");
        }
    }

    #[test]
    fn a_stream_of_lines_is_read_with_naps_and_unwatched_until_it_is_empty() {
        let mut flow = Flow::default();
        flow.look(OUT, true);
        flow.brought(100);
        assert!(flow.look(OUT, true), "to be unwatched, once");
        for _ in 0..3 {
            assert!(flow.rests() && flow.moves(OUT) && flow.is_unwatched(OUT));
            flow.brought(100);
            assert!(!flow.look(OUT, false), "it need not call");
        }
        flow.stills(OUT);
        assert!(flow.is_still());
    }

    #[test]
    fn who_brings_much_is_not_kept_waiting() {
        let mut flow = Flow::default();
        for _ in 0..2 {
            flow.look(OUT, true);
            flow.look(ERR, true);
            flow.brought(READ);
            flow.brought(100);
            assert!(!flow.rests());
        }
        assert!(flow.rests(), "once for each time");
    }
}
