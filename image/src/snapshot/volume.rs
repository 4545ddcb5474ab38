//! Volumes of a container's own, for the paths that its image declares: directories beside its writable layer, which
//! come and go with it. Whoever launches the container fills them, from the root that it then has.

use std::path::PathBuf;

use super::create_dir;
use crate::error::Error;
use crate::store::Store;

impl Store {
    /// Where the volume with this number of a snapshot is, made or not.
    #[must_use]
    pub fn volume_path(&self, key: &str, number: usize) -> PathBuf {
        self.inner.snapshots.folder.join(key).join(format!("v{number}"))
    }

    /// Makes the volumes of a snapshot: empty, owned by root, with mode 0755.
    ///
    /// # Errors
    /// The file system's refusal.
    pub(super) fn make_volumes(&self, key: &str, count: usize) -> Result<(), Error> {
        (0..count).try_for_each(|number| create_dir(&self.volume_path(key, number), 0o755))
    }
}
