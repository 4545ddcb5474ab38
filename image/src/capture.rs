//! A container's changes as an image: the layers it was made from, and one more.
//!
//! ```text
//!   rw/<container>/fs ─pack─► tar (spooled) ─► the same unpacking as any layer's
//!   the image's configuration + one diff id + one line of history = the new image's
//! ```

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::assemble::{Origin, Part, assemble};
use crate::catalog::Stored;
use crate::commit::NewImage;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::Image;
use crate::layer::stream::Expected;
use crate::layer::{ChainId, Lease};
use crate::manifest::MOST_LAYERS;
use crate::pack::pack;
use crate::progress::Watch;
use crate::records::ImageRecord;
use crate::reference::Reference;
use crate::snapshot::SnapshotRoot;
use crate::spool::Spool;
use crate::store::{Inner, Store, blocking};

/// What the new image is to be.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// What it is called.
    pub name: Reference,
    /// Who made it; may be empty.
    pub author: String,
    /// Why; may be empty.
    pub comment: String,
    /// Where the container has mounts, relative to its root: what is empty there is left out.
    pub mount_points: BTreeSet<PathBuf>,
}

impl Store {
    /// Makes an image of a snapshot: what its image has, and what was written since.
    ///
    /// # Errors
    /// No such snapshot, or its image is gone; [`Error::NoChanges`] where writable layers are full copies;
    /// otherwise as for an import.
    pub async fn capture(&self, key: &str, options: CaptureOptions) -> Result<Image, Error> {
        let missing = || Error::NoSuchSnapshot { key: key.into() };
        let snapshot = self.snapshot(key)?.ok_or_else(missing)?;
        let SnapshotRoot::Overlay { upper, .. } = snapshot.root else {
            return Err(Error::NoChanges { key: key.into() });
        };
        let inner = self.inner.clone();
        let (base, leases) = inner.leased(&snapshot.image.to_string())?;
        let (packer, mount_points) = (inner.clone(), options.mount_points.clone());
        let (file, size, diff_id) = blocking("archive a container's changes", move || {
            packer.spool_changes(&upper, &mount_points)
        })
        .await?;
        let config = extended(&base, &diff_id, &options, (inner.config.clock)())?;
        let id = Digest::sha256(&config);
        let watch = Arc::new(Watch::new(options.name.to_string(), (inner.config.clock)()));
        let assembled = assemble(&inner, parts(&base, &diff_id, file, size), &watch).await?;
        // The layers below were held until those of the new image are.
        drop(leases);
        let record = ImageRecord {
            manifest: Vec::new(),
            config,
            pinned: false,
            stored_at: inner.now(),
        };
        inner
            .commit(NewImage {
                id,
                record,
                names: vec![(options.name.canonical(), false)],
                leases: assembled,
            })
            .await
    }
}

impl Inner {
    /// An image with its layers protected, lowest first.
    pub(crate) fn leased(self: &Arc<Self>, name: &str) -> Result<(Arc<Stored>, Vec<Lease>), Error> {
        let (stored, _) = self.with_catalog(|catalog| catalog.find(name))?;
        let missing = || Error::NoSuchImage { name: name.into() };
        let lease = |chain: &ChainId| {
            let found = self.layers.find(chain);
            found
                .and_then(|(key, _)| self.layers.lease(&key))
                .ok_or_else(missing)
        };
        let leases = stored.chain.iter().map(lease).collect::<Result<_, Error>>()?;
        Ok((stored, leases))
    }

    fn spool_changes(
        &self,
        upper: &Path,
        mount_points: &BTreeSet<PathBuf>,
    ) -> Result<(File, u64, Digest), Error> {
        let mut spool = Spool::new(&self.blobs)?;
        let packed = pack(upper, mount_points, &mut spool).and_then(|()| spool.finish());
        packed.map_err(Error::io("archive", upper))
    }
}

/// The layers of the base, which are leased and so never fetched, and the new one from its spool.
fn parts(base: &Stored, diff_id: &Digest, file: File, size: u64) -> Vec<Part> {
    let file = Arc::new(file);
    let diff_ids: Vec<Digest> = base.config().diff_ids.iter().chain([diff_id]).cloned().collect();
    let part = |(diff_id, chain): (&Digest, ChainId)| Part {
        chain,
        expected: Expected {
            compressed: None,
            diff_id: diff_id.clone(),
            size,
        },
        origin: Origin::Archive {
            file: file.clone(),
            offset: 0,
        },
    };
    diff_ids.iter().zip(ChainId::of(&diff_ids)).map(part).collect()
}

/// The configuration with one more layer; whatever else is in it stays.
fn extended(
    base: &Stored,
    diff_id: &Digest,
    options: &CaptureOptions,
    now: SystemTime,
) -> Result<Vec<u8>, Error> {
    use crate::document::DocumentError;
    let refused = |problem| Error::Document {
        what: format!("configuration {}", base.id),
        problem,
    };
    let found = base.config().diff_ids.len() + 1;
    if found > MOST_LAYERS {
        return Err(refused(DocumentError::TooManyLayers { found }));
    }
    let mut config: Value = serde_json::from_slice(&base.record.config)
        .map_err(|error| refused(DocumentError::Malformed(error.to_string())))?;
    let created = rfc3339(now);
    let mut line = json!({ "created": created, "created_by": "crisp image commit" });
    for (key, text) in [("author", &options.author), ("comment", &options.comment)] {
        if !text.is_empty() {
            line[key] = json!(text);
        }
    }
    if !options.author.is_empty() {
        config["author"] = json!(options.author);
    }
    config["created"] = json!(created);
    push(&mut config["rootfs"]["diff_ids"], json!(diff_id));
    push(&mut config["history"], line);
    serde_json::to_vec(&config).map_err(|error| refused(DocumentError::Malformed(error.to_string())))
}

/// Go's encoders write `null` for an empty list.
fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

/// `2026-11-20T21:18:00Z`; before 1970 it is 1970.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years are counted from March, so that the leap day is the last of a year.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, (month + 2) % 12 + 1);
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z",
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(
                rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                text
            );
        }
    }
}
