//! From an image reference to a mounted root. (The chapter grows with the crate.)

pub mod database;
