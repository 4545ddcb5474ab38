//! Which writable layers there are, in memory and on disk.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{RECORD, SnapshotChoice, SnapshotMode, UPPER, WORK, probe};
use crate::error::Error;
use crate::image::ImageId;
use crate::layer::LayerKey;
use crate::trash::Trash;
use crate::unpack::whiteout::Style;

/// The writable layers of a store.
#[derive(Debug)]
pub(crate) struct Snapshots {
    pub(super) folder: PathBuf,
    pub(super) mode: SnapshotMode,
    trash: Arc<Trash>,
    known: Mutex<HashMap<String, Record>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) image: ImageId,
    /// Lowest first.
    pub(super) layers: Vec<LayerKey>,
}

impl Snapshots {
    /// Finds out what works here, and which snapshots there are.
    pub(crate) fn open(
        folder: &Path,
        layers: &Path,
        choice: SnapshotChoice,
        trash: Arc<Trash>,
    ) -> Result<(Style, Self), Error> {
        let style = probe::whiteout_style(layers)?;
        let mode = probe::mode(folder, layers, choice)?;
        let mut known = HashMap::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let path = entry.map_err(Error::io("read", folder))?.path();
            let key = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            match Record::read(&path.join(RECORD)) {
                Some(record) => drop(known.insert(key.to_owned(), record)),
                None => trash.discard(&path).map_err(Error::io("discard", &path))?,
            }
        }
        Ok((
            style,
            Self {
                folder: folder.into(),
                mode,
                trash,
                known: Mutex::new(known),
            },
        ))
    }

    pub(super) fn known(&self) -> MutexGuard<'_, HashMap<String, Record>> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn used_layers(&self) -> HashSet<LayerKey> {
        self.known()
            .values()
            .flat_map(|record| record.layers.iter().cloned())
            .collect()
    }

    pub(crate) fn mode(&self) -> SnapshotMode {
        self.mode
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn add(&self, key: &str, record: &Record) -> Result<(), Error> {
        {
            let mut known = self.known();
            if known.contains_key(key) {
                return Err(Error::SnapshotExists { key: key.into() });
            }
            known.insert(key.to_owned(), record.clone());
        }
        let folder = self.folder.join(key);
        let made = (|| {
            create_dir(&folder, 0o700)?;
            create_dir(&folder.join(UPPER), 0o755)?;
            create_dir(&folder.join(WORK), 0o700)?;
            record.write(&folder.join(RECORD))
        })();
        if made.is_err() {
            self.known().remove(key);
            if let Err(error) = self.trash.discard(&folder) {
                tracing::warn!(snapshot = key, %error, "cannot discard a snapshot that could not be made");
            }
        }
        made
    }

    /// The scratch directory as it was made; what it was goes to the trash.
    pub(super) fn renew_work(&self, key: &str) -> Result<(), Error> {
        let work = self.folder.join(key).join(WORK);
        self.trash.discard(&work).map_err(Error::io("discard", &work))?;
        create_dir(&work, 0o700)
    }

    /// The image it was on; `None` when there is no such snapshot.
    pub(super) fn remove(&self, key: &str) -> Result<Option<ImageId>, Error> {
        check(key)?;
        let folder = self.folder.join(key);
        self.trash
            .discard(&folder)
            .map_err(Error::io("discard", &folder))?;
        Ok(self.known().remove(key).map(|record| record.image))
    }
}

impl Record {
    fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let mut lines = text.lines();
        let image = lines.next()?.parse().ok()?;
        let layers = lines.map(LayerKey::parse).collect::<Option<_>>()?;
        // The last line ends in a newline, or the file was cut.
        text.ends_with('\n').then_some(Self { image, layers })
    }

    fn write(&self, path: &Path) -> Result<(), Error> {
        let mut text = format!("{}\n", self.image);
        for layer in &self.layers {
            text.push_str(layer.as_str());
            text.push('\n');
        }
        std::fs::write(path, text).map_err(Error::io("write", path))
    }
}

pub(super) fn check(key: &str) -> Result<(), Error> {
    let fine = !key.is_empty()
        && key.len() <= 128
        && !key.starts_with('.')
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if fine {
        Ok(())
    } else {
        Err(Error::SnapshotKey {
            key: key.chars().take(140).collect(),
        })
    }
}

pub(super) fn create_dir(path: &Path, mode: u32) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        .map_err(Error::io("create", path))
}
