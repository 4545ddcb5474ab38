//! The durable records: which images there are, what they are called, which layers are whole.
//!
//! | table | key | value |
//! |---|---|---|
//! | `image` | id | [`ImageRecord`]: the documents as they came, pin, time |
//! | `name` | reference | the image's id; whether the name was asked for or came along |
//! | `layer` | directory | [`LayerRecord`]: chain id, usage |
//!
//! A record is CBOR with integer keys of our own, so that fields can be added: a reader skips
//! keys it does not know. The layers of an image are computed from its configuration.

use std::collections::{BTreeMap, HashMap};

use minicbor::{Decode, Encode};
use rusqlite::{Connection, Transaction, params};

use crate::database::{Durability, Schema};
use crate::digest::Digest;
use crate::layer::{ChainId, LayerFormat, LayerInfo, LayerKey};
use crate::reference::Reference;
use crate::unpack::DiskUsage;

/// The file `images.db`.
pub(crate) const SCHEMA: Schema = Schema {
    // "crsI"
    application_id: 0x6372_7349,
    migrations: &[
        "CREATE TABLE image (id TEXT PRIMARY KEY, record BLOB NOT NULL) STRICT;
         CREATE TABLE name (name TEXT PRIMARY KEY, image TEXT NOT NULL, implied INTEGER NOT NULL) STRICT;
         CREATE TABLE layer (key TEXT PRIMARY KEY, record BLOB NOT NULL) STRICT;",
    ],
    durability: Durability::Full,
};

/// An image as stored.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct ImageRecord {
    /// Empty for an image from an archive without one.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) manifest: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) config: Vec<u8>,
    #[n(2)]
    pub(crate) pinned: bool,
    /// Seconds since 1970.
    #[n(3)]
    pub(crate) stored_at: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct LayerRecord {
    #[n(0)]
    chain: String,
    #[n(1)]
    bytes: u64,
    #[n(2)]
    inodes: u64,
    #[n(3)]
    opaque_root: bool,
    #[n(4)]
    side_file: bool,
}

/// A name of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameRecord {
    pub(crate) image: Digest,
    /// A digest that was learned while pulling a tag; it goes with the last tag.
    pub(crate) implied: bool,
}

/// Everything, as read at start.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) images: BTreeMap<Digest, ImageRecord>,
    pub(crate) names: BTreeMap<Reference, NameRecord>,
    pub(crate) layers: HashMap<LayerKey, LayerInfo>,
    /// Rows that could not be read.
    pub(crate) damaged: usize,
}

impl Records {
    pub(crate) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let mut records = Self::default();
        let mut rows = connection.prepare("SELECT id, record FROM image")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (id, record): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
            match (id.parse(), minicbor::decode::<ImageRecord>(&record)) {
                (Ok(id), Ok(record)) => drop(records.images.insert(id, record)),
                _ => records.damaged += 1,
            }
        }
        let mut rows = connection.prepare("SELECT name, image, implied FROM name")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (name, image, implied): (String, String, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
            match (name.parse(), image.parse()) {
                (Ok(name), Ok(image)) => drop(records.names.insert(name, NameRecord { image, implied })),
                _ => records.damaged += 1,
            }
        }
        let mut rows = connection.prepare("SELECT key, record FROM layer")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (key, record): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
            match layer_of(&key, &record) {
                Some((key, info)) => drop(records.layers.insert(key, info)),
                None => records.damaged += 1,
            }
        }
        Ok(records)
    }
}

fn layer_of(key: &str, record: &[u8]) -> Option<(LayerKey, LayerInfo)> {
    let record: LayerRecord = minicbor::decode(record).ok()?;
    let chain = ChainId::from_digest(record.chain.parse().ok()?);
    // A directory of another format or unpacker has another name, and is not used.
    let key = LayerKey::parse(key)?;
    let format = LayerFormat::ALL
        .into_iter()
        .find(|format| chain.key(*format) == key)?;
    let usage = DiskUsage {
        bytes: record.bytes,
        inodes: record.inodes,
    };
    let LayerRecord {
        opaque_root,
        side_file,
        ..
    } = record;
    Some((
        key,
        LayerInfo {
            chain,
            format,
            usage,
            opaque_root,
            side_file,
        },
    ))
}

pub(crate) fn put_image(tx: &Transaction<'_>, id: &Digest, record: &ImageRecord) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT OR REPLACE INTO image VALUES (?1, ?2)",
        params![id.as_str(), encode(record)?],
    )?;
    Ok(())
}

pub(crate) fn put_name(tx: &Transaction<'_>, name: &Reference, record: &NameRecord) -> rusqlite::Result<()> {
    let values = params![name.to_string(), record.image.as_str(), record.implied];
    tx.execute("INSERT OR REPLACE INTO name VALUES (?1, ?2, ?3)", values)?;
    Ok(())
}

pub(crate) fn put_layer(tx: &Transaction<'_>, key: &LayerKey, info: &LayerInfo) -> rusqlite::Result<()> {
    let record = LayerRecord {
        chain: info.chain.to_string(),
        bytes: info.usage.bytes,
        inodes: info.usage.inodes,
        opaque_root: info.opaque_root,
        side_file: info.side_file,
    };
    tx.execute(
        "INSERT OR REPLACE INTO layer VALUES (?1, ?2)",
        params![key.as_str(), encode(&record)?],
    )?;
    Ok(())
}

pub(crate) fn delete_image(tx: &Transaction<'_>, id: &Digest) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM image WHERE id = ?1", [id.as_str()])?;
    tx.execute("DELETE FROM name WHERE image = ?1", [id.as_str()])?;
    Ok(())
}

pub(crate) fn delete_name(tx: &Transaction<'_>, name: &Reference) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM name WHERE name = ?1", [name.to_string()])?;
    Ok(())
}

pub(crate) fn delete_layer(tx: &Transaction<'_>, key: &LayerKey) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM layer WHERE key = ?1", [key.as_str()])?;
    Ok(())
}

fn encode(record: &impl Encode<()>) -> rusqlite::Result<Vec<u8>> {
    minicbor::to_vec(record)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.to_string().into()))
}
