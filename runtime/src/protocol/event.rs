//! What a supervisor tells unasked.

use minicbor::{Decode, Encode};

use super::frame::{Frame, Kind, ProtocolError};
use super::id::ContainerId;
use super::value::{ExitStatus, Process, Target};

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A container's init or an exec ended. A container's exit record is already on disk.
    Exited(Exited),
    /// A log file could not be written.
    LogFault(LogFault),
}

/// A process ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Exited {
    /// Which.
    #[n(0)]
    pub target: Target,
    /// The process that it was.
    #[n(1)]
    pub process: Process,
    /// How it ended.
    #[n(2)]
    pub status: ExitStatus,
}

/// The first failed write since the log was opened; told once per file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogFault {
    /// Whose log.
    #[n(0)]
    pub container: ContainerId,
    /// What the write answered.
    #[n(1)]
    pub errno: i32,
}

const EXITED: Kind = Kind(Kind::EVENT | 1);
const LOG_FAULT: Kind = Kind(Kind::EVENT | 2);

impl Event {
    /// The frame that carries this event.
    pub fn into_frame(self) -> Frame {
        match self {
            Event::Exited(exited) => Frame::new(EXITED, 0, &exited, vec![]),
            Event::LogFault(fault) => Frame::new(LOG_FAULT, 0, &fault, vec![]),
        }
    }

    /// Reads an event.
    ///
    /// # Errors
    /// [`ProtocolError::UnknownKind`] for an event of a later version (to be ignored), [`ProtocolError::Body`].
    pub fn from_frame(frame: &Frame) -> Result<Event, ProtocolError> {
        match frame.kind {
            EXITED => Ok(Event::Exited(frame.body()?)),
            LOG_FAULT => Ok(Event::LogFault(frame.body()?)),
            kind => Err(ProtocolError::UnknownKind(kind)),
        }
    }
}
