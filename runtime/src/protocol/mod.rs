//! Frames and messages between the daemon and a supervisor.
