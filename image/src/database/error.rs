//! What can go wrong.

use std::path::PathBuf;

/// What can go wrong with a database file.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The file was written by a newer version of this program.
    #[error("{}: written by a newer version (schema {found}, this program knows up to {known}); upgrade, or move the file away", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The file belongs to another program.
    #[error("{}: a database of another program (application id {found:#x}); move it away", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The application id found.
        found: i32,
    },
    /// A migration failed; the file is as it was.
    #[error("{}: migration to schema {to} failed: {source}", path.display())]
    Migration {
        /// The file.
        path: PathBuf,
        /// The version that could not be reached.
        to: u32,
        /// Why.
        source: rusqlite::Error,
    },
    /// SQLite refused an operation.
    #[error("{}: {step}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: rusqlite::Error,
    },
    /// The file system refused an operation.
    #[error("{}: {step}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The database's thread is gone (it panicked in a closure, or the process is ending).
    #[error("{}: the database is closed", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
}
