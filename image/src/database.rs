//! A small versioned SQLite file with one writer thread.
//!
//! ```text
//!   async callers ──write(|tx| ..)──► queue ──► writer thread ─┐
//!                 ──read(|conn| ..)─► queue ──► reader thread ─┴─► file.db (+ -wal, -shm)
//!   command line  ──ReadOnlyDatabase::open──────────────────────►
//! ```
//!
//! The file says whose it is (`application_id`) and which shape it has (`user_version`, the
//! number of migrations applied). At open:
//!
//! | found | done |
//! |---|---|
//! | nothing | created, all migrations applied |
//! | an older version | a copy is kept beside it, then migrated forward in one transaction |
//! | a newer version | refused: an older program must not guess |
//! | another program's file | refused |
//! | damage (truncated, flipped, empty) | set aside under a new name, a fresh file is made, and the caller is told to rebuild |
//!
//! A write is one immediate transaction; when the closure fails, nothing of it stays. A
//! caller that goes away does not cancel its write: either all of it is on disk or nothing.

mod error;
mod open;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

pub use self::error::DatabaseError;
pub use rusqlite;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use self::open::{check_identity, identity, known_version, open_or_rebuild, open_reading};

/// What a caller expects the file to be.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Marks the file as ours (SQLite header, offset 68); must not be zero.
    pub application_id: i32,
    /// SQL scripts; the file's `user_version` is how many of them have run.
    pub migrations: &'static [&'static str],
    /// What a commit survives.
    pub durability: Durability,
}

/// What a committed transaction survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of the process; a power loss may take the newest commits (never the file's
    /// consistency). No fsync per commit.
    Normal,
    /// Power loss too: one fsync per commit.
    Full,
}

/// What [`Database::open`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// There was no file.
    Created,
    /// A file of the current version.
    Existing,
    /// An older file was brought forward; its former content is in `copy`.
    Migrated {
        /// The version found.
        from: u32,
        /// The former content.
        copy: PathBuf,
    },
    /// A damaged file was set aside and an empty one made: the caller rebuilds what it can.
    Rebuilt {
        /// Where the damaged file is now.
        set_aside: PathBuf,
        /// What was wrong with it.
        damage: String,
    },
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// An open database; cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    writer: Option<mpsc::Sender<Job>>,
    reader: mpsc::Sender<Job>,
    /// Joined on drop, so that every queued write is on disk when the value is gone.
    writer_thread: Option<thread::JoinHandle<()>>,
}

impl Database {
    /// Opens or creates the file. Blocks for as long as the checks and migrations take
    /// (milliseconds); call it at start.
    ///
    /// # Errors
    /// A newer or foreign file, a failed migration, or the operating system's refusal. Damage
    /// is no error: it is reported as [`Opened::Rebuilt`].
    pub fn open(path: &Path, schema: &Schema) -> Result<(Self, Opened), DatabaseError> {
        let (connection, opened) = open_or_rebuild(path, schema)?;
        let reading = open_reading(path)?;
        let (writer, writer_thread) = serve(path, "db-writer", connection)?;
        let (reader, _) = serve(path, "db-reader", reading)?;
        let database = Self {
            path: path.into(),
            writer: Some(writer),
            reader,
            writer_thread: Some(writer_thread),
        };
        Ok((database, opened))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `change` in one transaction on the writer thread and commits it.
    ///
    /// The change happens whole or not at all, after those of earlier calls, whether or not the caller stays to hear of it.
    ///
    /// # Errors
    /// What `change` returned, or what the commit met; nothing was changed then.
    pub fn write<T, F>(&self, change: F) -> impl Future<Output = Result<T, DatabaseError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let outcome = in_transaction(connection, change);
            // The caller may have been cancelled; the commit stands either way.
            let _ = answer.send(outcome);
        });
        // Without a writer the answer's other end is dropped here.
        let _ = self.writer.as_ref().map(|writer| writer.send(job));
        let path = self.path.clone();
        async move {
            match result.await {
                Ok(Ok(outcome)) => Ok(outcome),
                Ok(Err(source)) => Err(DatabaseError::Sqlite {
                    path,
                    step: "write",
                    source,
                }),
                Err(_) => Err(DatabaseError::Closed { path }),
            }
        }
    }

    /// Runs `query` on the reader thread, seeing every write that was answered before.
    ///
    /// # Errors
    /// What `query` returned.
    pub async fn read<T, F>(&self, query: F) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let _ = answer.send(query(connection));
        });
        let closed = || DatabaseError::Closed {
            path: self.path.clone(),
        };
        self.reader.send(job).map_err(|_| closed())?;
        result
            .await
            .map_err(|_| closed())?
            .map_err(|source| self.sqlite("read", source))
    }

    fn sqlite(&self, step: &'static str, source: rusqlite::Error) -> DatabaseError {
        DatabaseError::Sqlite {
            path: self.path.clone(),
            step,
            source,
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        drop(self.writer.take());
        if let Some(thread) = self.writer_thread.take() {
            // A panic of a closure has been answered with `Closed` already.
            let _ = thread.join();
        }
    }
}

/// A database opened for looking only: for the command line, beside or without the daemon.
#[derive(Debug)]
pub struct ReadOnlyDatabase {
    path: PathBuf,
    connection: Connection,
}

impl ReadOnlyDatabase {
    /// Opens an existing file without changing it.
    ///
    /// # Errors
    /// A missing, damaged, foreign, newer or older file (an older one is migrated by the
    /// daemon, not by a reader).
    pub fn open(path: &Path, schema: &Schema) -> Result<Self, DatabaseError> {
        let connection = open_reading(path)?;
        let sqlite = |step| {
            move |source| DatabaseError::Sqlite {
                path: path.into(),
                step,
                source,
            }
        };
        let (application_id, version) = identity(&connection).map_err(sqlite("read the header"))?;
        check_identity(path, schema, application_id, version)?;
        if version as usize != schema.migrations.len() {
            return Err(DatabaseError::Migration {
                path: path.into(),
                to: known_version(schema),
                source: rusqlite::Error::InvalidQuery,
            });
        }
        Ok(Self {
            path: path.into(),
            connection,
        })
    }

    /// Runs a query.
    ///
    /// # Errors
    /// What `query` returned.
    pub fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        query(&self.connection).map_err(|source| DatabaseError::Sqlite {
            path: self.path.clone(),
            step: "read",
            source,
        })
    }
}

fn in_transaction<T>(
    connection: &mut Connection,
    change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let value = change(&transaction)?;
    transaction.commit()?;
    Ok(value)
}

fn serve(
    path: &Path,
    name: &str,
    mut connection: Connection,
) -> Result<(mpsc::Sender<Job>, thread::JoinHandle<()>), DatabaseError> {
    let (sender, jobs) = mpsc::channel::<Job>();
    let thread = thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            for job in jobs {
                job(&mut connection);
            }
        })
        .map_err(|source| DatabaseError::Io {
            path: path.into(),
            step: "start the thread",
            source,
        })?;
    Ok((sender, thread))
}

#[cfg(test)]
mod tests;
