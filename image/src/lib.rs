//! From an image reference to a mounted root. (The chapter grows with the crate.)

pub mod config;
pub mod database;
pub mod digest;
pub mod document;
pub mod manifest;
pub mod platform;
pub mod reference;
mod trash;
pub mod unpack;
