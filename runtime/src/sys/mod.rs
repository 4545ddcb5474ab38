//! System calls without a safe wrapper elsewhere. The only module of the crate with unsafe code.
#![allow(unsafe_code)]

pub(crate) mod binary;
pub(crate) mod memfd;
pub(crate) mod proc;
pub(crate) mod scm;
