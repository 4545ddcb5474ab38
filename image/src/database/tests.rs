use std::fs;

use super::*;

const V1: Schema = Schema {
    application_id: 0x7465_7374,
    migrations: &["CREATE TABLE word (text TEXT PRIMARY KEY) STRICT"],
    durability: Durability::Full,
};
const V2: Schema = Schema {
    migrations: &[
        "CREATE TABLE word (text TEXT PRIMARY KEY) STRICT",
        "ALTER TABLE word ADD COLUMN length INTEGER; UPDATE word SET length = length(text)",
    ],
    ..V1
};

async fn add(database: &Database, word: &'static str) -> Result<(), DatabaseError> {
    database
        .write(move |tx| {
            tx.execute("INSERT INTO word (text) VALUES (?1)", [word])
                .map(|_| ())
        })
        .await
}

async fn count(database: &Database) -> i64 {
    database
        .read(|c| c.query_row("SELECT count(*) FROM word", [], |row| row.get(0)))
        .await
        .unwrap()
}

#[tokio::test]
async fn keeps_what_was_written_and_nothing_of_a_failed_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("words.db");
    let (database, opened) = Database::open(&path, &V1).unwrap();
    assert_eq!(opened, Opened::Created);
    add(&database, "one").await.unwrap();
    let failed = database
        .write(|tx| {
            tx.execute("INSERT INTO word VALUES ('two')", [])?;
            tx.execute("INSERT INTO word VALUES ('one')", [])
        })
        .await;
    assert!(matches!(failed, Err(DatabaseError::Sqlite { step: "write", .. })));
    assert_eq!(count(&database).await, 1);
    drop(database);
    let (database, opened) = Database::open(&path, &V1).unwrap();
    assert_eq!(opened, Opened::Existing);
    assert_eq!(count(&database).await, 1);
    let looking = ReadOnlyDatabase::open(&path, &V1).unwrap();
    let seen: String = looking
        .read(|c| c.query_row("SELECT text FROM word", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(seen, "one");
}

#[tokio::test]
async fn a_write_survives_a_caller_that_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("words.db");
    let (database, _) = Database::open(&path, &V1).unwrap();
    // The writer is busy until the caller has left.
    let (leave, left) = std::sync::mpsc::channel();
    let busy = database.write(move |_| {
        left.recv().expect("somebody leaves");
        Ok(())
    });
    let mut abandoned = Box::pin(add(&database, "kept"));
    assert!(futures::poll!(&mut abandoned).is_pending());
    drop(abandoned);
    leave.send(()).unwrap();
    busy.await.unwrap();
    drop(database);
    let (database, _) = Database::open(&path, &V1).unwrap();
    assert_eq!(count(&database).await, 1);
}

#[tokio::test]
async fn migrates_forward_keeping_a_copy_and_refuses_the_future() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("words.db");
    let (database, _) = Database::open(&path, &V1).unwrap();
    add(&database, "four").await.unwrap();
    drop(database);
    let (database, opened) = Database::open(&path, &V2).unwrap();
    let Opened::Migrated { from: 1, copy } = opened else {
        panic!("{opened:?}")
    };
    let length: i64 = database
        .read(|c| c.query_row("SELECT length FROM word", [], |row| row.get(0)))
        .await
        .unwrap();
    assert_eq!(length, 4);
    drop(database);
    let refused = Database::open(&path, &V1).unwrap_err();
    assert!(matches!(
        refused,
        DatabaseError::Newer {
            found: 2,
            known: 1,
            ..
        }
    ));
    assert!(refused.to_string().contains("words.db"));
    assert!(ReadOnlyDatabase::open(&copy, &V1).is_ok());
}

#[tokio::test]
async fn sets_damage_aside_but_leaves_a_strangers_file_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("words.db");
    for damage in ["", "this is no database at all, but a text of some length"] {
        fs::write(&path, damage).unwrap();
        let (database, opened) = Database::open(&path, &V1).unwrap();
        let Opened::Rebuilt { set_aside, .. } = opened else {
            panic!("{opened:?}")
        };
        assert_eq!(fs::read_to_string(set_aside).unwrap(), damage);
        add(&database, "again").await.unwrap();
        drop(database);
        fs::remove_file(&path).unwrap();
    }
    let stranger = Schema {
        application_id: 7,
        ..V1
    };
    drop(Database::open(&path, &stranger).unwrap());
    let refused = Database::open(&path, &V1).unwrap_err();
    assert!(matches!(refused, DatabaseError::Foreign { found: 7, .. }));
    assert!(Database::open(&path, &stranger).is_ok());
}

#[tokio::test]
async fn finds_flipped_bytes_inside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("words.db");
    drop(Database::open(&path, &V1).unwrap());
    let mut bytes = fs::read(&path).unwrap();
    let page = bytes.len() - 4096;
    bytes[page..page + 64].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let (_, opened) = Database::open(&path, &V1).unwrap();
    assert!(matches!(opened, Opened::Rebuilt { .. }), "{opened:?}");
}
