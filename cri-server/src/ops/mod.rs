//! What each call means: one file per verb, readable from top to bottom.
//!
//! A mutating verb runs as a task of its own under a key (see [`crate::inflight`]): its caller may go
//! away, and a caller that repeats it joins. Everything is checked before anything is changed; what
//! was changed is undone in reverse when a later step fails (see [`crate::undo`]).
//!
//! | Verb | Steps |
//! |---|---|
//! | [`run_pod`] | record intent, supervisor and namespaces → cgroup, files and network → record ready |
//! | [`stop_pod`] | stop containers → network, supervisor, files' mounts and cgroup; behind the answer the record |
//! | [`remove_pod`] | stop → remove containers → files → record |
//! | [`create`] | image → specification → writable layer (then, also behind the answer, the cgroup) → record; no process |
//! | [`start`] | cgroup → launch plan → log → one message to the supervisor → record |
//! | [`stop`] | signal → grace → kill the cgroup; a further stop only shortens the grace |
//! | [`remove`] | stop → writable layer and cgroup → record |
//! | [`exec`], [`attach`], [`port_forward`] | check → token → URL; the session itself is [`crate::streaming`]'s |
//! | [`exits`] | exit of a container: record → publish → clean up |
//! | [`events`] | what all of these tell a kubelet that listens |

pub mod attach;
pub mod commit;
pub mod create;
pub mod events;
pub mod exec;
pub mod exec_sync;
pub mod exits;
pub mod images;
pub mod inspect;
pub mod metrics;
pub mod port_forward;
pub mod prune;
pub mod pull_watched;
pub mod push;
pub mod remove;
pub mod remove_pod;
pub mod reopen_log;
pub mod report;
pub mod run_pod;
pub mod start;
pub mod stats;
pub mod status;
pub mod stop;
pub mod stop_pod;
pub mod update_config;
pub mod update_container;
pub mod update_pod;
pub mod volumes;
