//! The real `crisp-pod`, spoken to over its socket.

mod attach;
mod container;
mod exec;
mod exit;
mod life;
mod log;
mod pod;
mod reexec;
