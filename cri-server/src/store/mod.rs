//! The records of pods and containers: what must outlive the daemon.
//!
//! ```text
//!   pods        id │ name (unique) │ record (immutable) │ phase │ network
//!   containers  id │ pod │ name (unique in its pod) │ record (immutable) │ state
//!   updates     id of either │ resources as last updated
//! ```
//!
//! A record is written once and never rewritten, so that keys which only a newer version knows stay
//! in it; what changes is small and beside it. Blobs are CBOR behind one byte that tells their
//! version. A write is answered when it is safe from the death of the process; after a power loss the
//! newest ones may be missing, which a reboot makes void anyway.

mod codec;

use std::path::Path;

use image::database::{Database, DatabaseError, Durability, Opened, Schema, rusqlite};
use rusqlite::Row;

pub use codec::{addresses, environment, strings};
use codec::{decode, encode};

use crate::container::{ContainerRecord, ContainerState, Resources};
use crate::ids::{ContainerId, PodId};
use crate::pod::{PodLimits, PodNetwork, PodPhase, PodRecord};

/// "crsp", in the header of the file.
const APPLICATION_ID: i32 = 0x6372_7370;

const SCHEMA: Schema = Schema {
    application_id: APPLICATION_ID,
    migrations: &[
        "
        CREATE TABLE pods (
            id      TEXT PRIMARY KEY,
            name    TEXT NOT NULL UNIQUE,
            record  BLOB NOT NULL,
            phase   BLOB NOT NULL,
            network BLOB NOT NULL
        ) WITHOUT ROWID, STRICT;
        CREATE TABLE containers (
            id      TEXT PRIMARY KEY,
            pod     TEXT NOT NULL,
            name    TEXT NOT NULL,
            record  BLOB NOT NULL,
            state   BLOB NOT NULL,
            UNIQUE (pod, name)
        ) WITHOUT ROWID, STRICT;
    ",
        "
        CREATE TABLE updates (
            object    TEXT PRIMARY KEY,
            resources BLOB NOT NULL
        ) WITHOUT ROWID, STRICT;
    ",
    ],
    durability: Durability::Normal,
};

/// A pod as it was last recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPod {
    /// What never changes.
    pub record: PodRecord,
    /// Where it was.
    pub phase: PodPhase,
    /// What CNI gave it.
    pub network: PodNetwork,
    /// What it may use, when that was updated.
    pub limits: Option<PodLimits>,
}

/// A container as it was last recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredContainer {
    /// What never changes.
    pub record: ContainerRecord,
    /// Where it was.
    pub state: ContainerState,
    /// What it may use, when that was updated.
    pub resources: Option<Resources>,
}

/// Everything that is recorded.
#[derive(Debug, Default)]
pub struct Stored {
    /// All pods.
    pub pods: Vec<StoredPod>,
    /// All containers.
    pub containers: Vec<StoredContainer>,
    /// Ids of rows whose blob could not be read; they are left as they are.
    pub unreadable: Vec<String>,
}

/// `pods.db`.
pub struct Store {
    database: Database,
}

type Result<T> = std::result::Result<T, DatabaseError>;

impl Store {
    /// Opens or creates the records.
    ///
    /// # Errors
    /// A file of a newer version or of another program, or the file system's refusal.
    pub fn open(path: &Path) -> Result<Self> {
        let (database, opened) = Database::open(path, &SCHEMA)?;
        match opened {
            Opened::Created | Opened::Existing => {}
            Opened::Migrated { from, copy } => {
                tracing::info!(from, copy = %copy.display(), "records brought forward");
            }
            Opened::Rebuilt { set_aside, damage } => {
                tracing::error!(set_aside = %set_aside.display(), damage, "records were damaged and set aside");
            }
        }
        Ok(Self { database })
    }

    /// Reads everything.
    ///
    /// # Errors
    /// What SQLite answers. An unreadable row is no error: it is reported and skipped.
    pub async fn load(&self) -> Result<Stored> {
        self.database
            .read(|connection| {
                let mut stored = Stored::default();
                let mut pods = connection.prepare(
                    "SELECT id, record, phase, network, resources FROM pods LEFT JOIN updates ON object = id",
                )?;
                for row in pods.query_map([], pod_row)? {
                    match row? {
                        Ok(pod) => stored.pods.push(pod),
                        Err(id) => stored.unreadable.push(id),
                    }
                }
                let mut containers = connection.prepare(
                    "SELECT id, record, state, resources FROM containers LEFT JOIN updates ON object = id",
                )?;
                for row in containers.query_map([], container_row)? {
                    match row? {
                        Ok(container) => stored.containers.push(container),
                        Err(id) => stored.unreadable.push(id),
                    }
                }
                Ok(stored)
            })
            .await
    }

    /// Records that a pod is about to be made: from this call on, after whatever is to be recorded already.
    ///
    /// # Errors
    /// What SQLite answers, also when a pod of that name is recorded already.
    pub fn insert_pod(&self, pod: &PodRecord) -> impl Future<Output = Result<()>> + Send + use<> {
        let name = &pod.config.name;
        let row = (
            pod.id.to_string(),
            format!("{}/{}/{}/{}", name.namespace, name.name, name.uid, name.attempt),
            encode(pod),
            encode(&PodPhase::Intent),
            encode(&PodNetwork::default()),
        );
        self.execute(
            "INSERT INTO pods (id, name, record, phase, network) VALUES (?, ?, ?, ?, ?)",
            row,
        )
    }

    /// Records that namespaces and network stand.
    ///
    /// # Errors
    /// What SQLite answers.
    pub async fn pod_ready(&self, id: &PodId, network: &PodNetwork) -> Result<()> {
        let row = (encode(&PodPhase::Ready), encode(network), id.to_string());
        self.execute("UPDATE pods SET phase = ?, network = ? WHERE id = ?", row)
            .await
    }

    /// Records another phase of a pod: at once in the order of calls, whether or not the caller stays to hear of it.
    ///
    /// # Errors
    /// What SQLite answers.
    pub fn pod_phase(&self, id: &PodId, phase: PodPhase) -> impl Future<Output = Result<()>> + Send + use<> {
        self.execute(
            "UPDATE pods SET phase = ? WHERE id = ?",
            (encode(&phase), id.to_string()),
        )
    }

    /// Forgets a pod.
    ///
    /// # Errors
    /// What SQLite answers.
    pub async fn remove_pod(&self, id: &PodId) -> Result<()> {
        self.forget("DELETE FROM pods WHERE id = ?", id.as_str()).await
    }

    /// Records a container that is being made: from this call on, after whatever is to be recorded already.
    ///
    /// # Errors
    /// What SQLite answers, also when its pod has a container of that name already.
    pub fn insert_container(
        &self,
        container: &ContainerRecord,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let row = (
            container.id.to_string(),
            container.pod.to_string(),
            format!("{}/{}", container.config.name.name, container.config.name.attempt),
            encode(container),
            encode(&ContainerState::Created),
        );
        self.execute(
            "INSERT INTO containers (id, pod, name, record, state) VALUES (?, ?, ?, ?, ?)",
            row,
        )
    }

    /// Records a container's new state: from this call on, after whatever is to be recorded already.
    ///
    /// # Errors
    /// What SQLite answers.
    pub fn container_state(
        &self,
        id: &ContainerId,
        state: &ContainerState,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        self.execute(
            "UPDATE containers SET state = ? WHERE id = ?",
            (encode(state), id.to_string()),
        )
    }

    /// Forgets a container.
    ///
    /// # Errors
    /// What SQLite answers.
    pub async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        self.forget("DELETE FROM containers WHERE id = ?", id.as_str())
            .await
    }

    /// Records what a pod may use from now on.
    ///
    /// # Errors
    /// What SQLite answers.
    pub async fn update_pod(&self, id: &PodId, limits: &PodLimits) -> Result<()> {
        self.update(id.as_str(), encode(limits)).await
    }

    /// Records what a container may use from now on.
    ///
    /// # Errors
    /// What SQLite answers.
    pub async fn update_container(&self, id: &ContainerId, resources: &Resources) -> Result<()> {
        self.update(id.as_str(), encode(resources)).await
    }

    async fn update(&self, object: &str, resources: Vec<u8>) -> Result<()> {
        self.execute(
            "INSERT OR REPLACE INTO updates (object, resources) VALUES (?, ?)",
            (object.to_owned(), resources),
        )
        .await
    }

    /// Removes a row, and what was updated of it.
    async fn forget(&self, sql: &'static str, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.database
            .write(move |transaction| {
                transaction.execute("DELETE FROM updates WHERE object = ?", (&id,))?;
                transaction.execute(sql, (&id,)).map(|_| ())
            })
            .await
    }

    fn execute<P>(&self, sql: &'static str, row: P) -> impl Future<Output = Result<()>> + Send + use<P>
    where
        P: rusqlite::Params + Send + 'static,
    {
        self.database
            .write(move |transaction| transaction.execute(sql, row).map(|_| ()))
    }
}

fn pod_row(row: &Row<'_>) -> rusqlite::Result<std::result::Result<StoredPod, String>> {
    let id: String = row.get(0)?;
    let blobs: [Vec<u8>; 3] = [row.get(1)?, row.get(2)?, row.get(3)?];
    let update: Option<Vec<u8>> = row.get(4)?;
    let read = || {
        Some(StoredPod {
            record: decode(&blobs[0])?,
            phase: decode(&blobs[1])?,
            network: decode(&blobs[2])?,
            limits: update
                .as_deref()
                .map(|blob| decode(blob).ok_or(()))
                .transpose()
                .ok()?,
        })
    };
    Ok(read().filter(|pod| pod.record.id.as_str() == id).ok_or(id))
}

fn container_row(row: &Row<'_>) -> rusqlite::Result<std::result::Result<StoredContainer, String>> {
    let id: String = row.get(0)?;
    let blobs: [Vec<u8>; 2] = [row.get(1)?, row.get(2)?];
    let update: Option<Vec<u8>> = row.get(3)?;
    let read = || {
        Some(StoredContainer {
            record: decode(&blobs[0])?,
            state: decode(&blobs[1])?,
            resources: update
                .as_deref()
                .map(|blob| decode(blob).ok_or(()))
                .transpose()
                .ok()?,
        })
    };
    Ok(read()
        .filter(|container| container.record.id.as_str() == id)
        .ok_or(id))
}

#[cfg(test)]
mod tests;
