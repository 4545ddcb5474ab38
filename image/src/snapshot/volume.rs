//! Volumes of a container's own, for the paths that its image declares: directories beside its writable layer, which
//! come and go with it. Whoever launches the container fills them, from the root that it then has.

use std::path::PathBuf;

use super::{check, create_dir};
use crate::error::Error;
use crate::store::{Store, blocking};

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
    pub async fn make_volumes(&self, key: &str, count: usize) -> Result<(), Error> {
        check(key)?;
        if count == 0 {
            return Ok(());
        }
        let paths: Vec<_> = (0..count).map(|number| self.volume_path(key, number)).collect();
        blocking("make volumes", move || {
            paths.iter().try_for_each(|path| create_dir(path, 0o755))
        })
        .await
    }
}
