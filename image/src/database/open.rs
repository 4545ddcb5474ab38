//! Opening a database file: whose is it, is it sound, is it current?

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{DatabaseError, Durability, Opened, Schema, in_transaction};

/// How long a connection waits for another one's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens a file, setting a damaged one aside.
pub(super) fn open_or_rebuild(path: &Path, schema: &Schema) -> Result<(Connection, Opened), DatabaseError> {
    match open_checked(path, schema) {
        Ok(done) => Ok(done),
        Err(Unusable::Refused(error)) => Err(error),
        Err(Unusable::Damaged(damage)) => {
            let set_aside = set_aside(path)?;
            match open_checked(path, schema) {
                Ok((connection, _)) => Ok((connection, Opened::Rebuilt { set_aside, damage })),
                Err(Unusable::Refused(error)) => Err(error),
                Err(Unusable::Damaged(_)) => Err(DatabaseError::Io {
                    path: path.into(),
                    step: "a fresh database cannot be read back",
                    source: std::io::ErrorKind::InvalidData.into(),
                }),
            }
        }
    }
}

/// Why a file could not be used as it is.
enum Unusable {
    /// Its bytes are no database any more.
    Damaged(String),
    /// It must not be touched.
    Refused(DatabaseError),
}

fn open_checked(path: &Path, schema: &Schema) -> Result<(Connection, Opened), Unusable> {
    let sqlite = |step: &'static str| {
        move |source: rusqlite::Error| match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Unusable::Damaged(source.to_string())
            }
            _ => Unusable::Refused(DatabaseError::Sqlite {
                path: path.into(),
                step,
                source,
            }),
        }
    };
    let existed = match fs::metadata(path) {
        // SQLite would take an empty file for a new database, and the loss would go unseen.
        Ok(found) if found.len() == 0 => return Err(Unusable::Damaged("the file is empty".into())),
        Ok(_) => true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(source) => {
            return Err(Unusable::Refused(DatabaseError::Io {
                path: path.into(),
                step: "open",
                source,
            }));
        }
    };
    let mut connection = Connection::open(path).map_err(sqlite("open"))?;
    connection
        .busy_timeout(BUSY_TIMEOUT)
        .map_err(sqlite("set the busy timeout"))?;
    let (application_id, version) = identity(&connection).map_err(sqlite("read the header"))?;
    // Its maker was killed before it said whose it is: there is nothing in it.
    let unmade = existed
        && (application_id, version) == (0, 0)
        && is_bare(&connection).map_err(sqlite("list its tables"))?;
    let existed = existed && !unmade;
    if existed {
        check_identity(path, schema, application_id, version).map_err(Unusable::Refused)?;
        if let Some(damage) = damage(&connection).map_err(sqlite("check the file"))? {
            return Err(Unusable::Damaged(damage));
        }
    }
    configure(&connection, schema).map_err(sqlite("configure"))?;
    let opened = match (existed, version as usize == schema.migrations.len()) {
        (true, true) => Opened::Existing,
        (true, false) => {
            let copy = keep_copy(path, &connection, version).map_err(Unusable::Refused)?;
            Opened::Migrated { from: version, copy }
        }
        (false, _) => Opened::Created,
    };
    migrate(path, &mut connection, schema, version).map_err(Unusable::Refused)?;
    Ok((connection, opened))
}

pub(super) fn open_reading(path: &Path) -> Result<Connection, DatabaseError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        Ok(connection)
    };
    open().map_err(|source| DatabaseError::Sqlite {
        path: path.into(),
        step: "open for reading",
        source,
    })
}

fn is_bare(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))
}

pub(super) fn identity(connection: &Connection) -> rusqlite::Result<(i32, u32)> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get(0));
    let application_id = number("application_id")?;
    Ok((
        application_id,
        u32::try_from(number("user_version")?).unwrap_or(u32::MAX),
    ))
}

pub(super) fn check_identity(
    path: &Path,
    schema: &Schema,
    found: i32,
    version: u32,
) -> Result<(), DatabaseError> {
    if found != schema.application_id {
        return Err(DatabaseError::Foreign {
            path: path.into(),
            found,
        });
    }
    let known = known_version(schema);
    if version > known {
        return Err(DatabaseError::Newer {
            path: path.into(),
            found: version,
            known,
        });
    }
    Ok(())
}

pub(super) fn known_version(schema: &Schema) -> u32 {
    u32::try_from(schema.migrations.len()).unwrap_or(u32::MAX)
}

/// SQLite's own structural check; `None` means sound.
fn damage(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((verdict != "ok").then_some(verdict))
}

fn configure(connection: &Connection, schema: &Schema) -> rusqlite::Result<()> {
    let synchronous = match schema.durability {
        Durability::Normal => "NORMAL",
        Durability::Full => "FULL",
    };
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "foreign_keys", true)
}

/// Keeps the former content, so that an upgrade can be taken back.
fn keep_copy(path: &Path, connection: &Connection, version: u32) -> Result<PathBuf, DatabaseError> {
    let copy = beside(path, &format!(".v{version}"));
    match fs::remove_file(&copy) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(DatabaseError::Io {
                path: copy,
                step: "replace an older copy",
                source,
            });
        }
        _ => {}
    }
    connection
        .execute("VACUUM INTO ?1", [copy.to_string_lossy()])
        .map_err(|source| DatabaseError::Sqlite {
            path: path.into(),
            step: "keep a copy",
            source,
        })?;
    Ok(copy)
}

/// All outstanding migrations in one transaction: a crash leaves the old version, whole.
fn migrate(
    path: &Path,
    connection: &mut Connection,
    schema: &Schema,
    from: u32,
) -> Result<(), DatabaseError> {
    let to = known_version(schema);
    if from == to && from != 0 {
        return Ok(());
    }
    in_transaction(connection, |transaction| {
        for script in schema.migrations.iter().skip(from as usize) {
            transaction.execute_batch(script)?;
        }
        transaction.pragma_update(None, "application_id", schema.application_id)?;
        transaction.pragma_update(None, "user_version", to)
    })
    .map_err(|source| DatabaseError::Migration {
        path: path.into(),
        to,
        source,
    })
}

/// Renames the file and its journal; never deletes what a person may want to look at.
fn set_aside(path: &Path) -> Result<PathBuf, DatabaseError> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut target = beside(path, &format!(".damaged-{seconds}"));
    for attempt in 1.. {
        if !target.exists() {
            break;
        }
        target = beside(path, &format!(".damaged-{seconds}-{attempt}"));
    }
    for suffix in ["", "-wal", "-shm"] {
        match fs::rename(beside(path, suffix), beside(&target, suffix)) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(DatabaseError::Io {
                    path: path.into(),
                    step: "set aside",
                    source,
                });
            }
            _ => {}
        }
    }
    Ok(target)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
