//! System calls without a safe wrapper elsewhere. The only module of the crate with unsafe code.
#![allow(unsafe_code)]
