//! Compressed layers that are kept after unpacking, when the configuration asks for it.
//!
//! A blob is written beside its final name and renamed when its digest was verified; its name is
//! made from a [`Digest`] alone.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::Digest;
use crate::error::Error;
use crate::trash::Trash;
use crate::unpack::DiskUsage;

const UNFINISHED: &str = ".new-";

#[derive(Debug)]
pub(crate) struct Blobs {
    folder: PathBuf,
    trash: Arc<Trash>,
    counter: AtomicU64,
}

/// A blob being written; deleted on drop unless committed.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    path: PathBuf,
    committed: bool,
}

impl Blobs {
    /// Takes over the folder; what is unfinished in it is deleted.
    pub(crate) fn open(folder: &Path, trash: Arc<Trash>) -> Result<Self, Error> {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let blobs = Self {
            folder: folder.into(),
            trash,
            counter: AtomicU64::new(1),
        };
        for (name, path) in blobs.entries()? {
            if parse(&name).is_none() {
                blobs.trash.discard(&path).map_err(Error::io("discard", &path))?;
            }
        }
        Ok(blobs)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        // A colon in a file name is legal but a nuisance to people.
        self.folder.join(digest.as_str().replace(':', "-"))
    }

    fn entries(&self) -> Result<Vec<(String, PathBuf)>, Error> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(Error::io("read", &self.folder))? {
            let entry = entry.map_err(Error::io("read", &self.folder))?;
            entries.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
        Ok(entries)
    }

    /// A kept blob and its size, if there is one.
    pub(crate) fn find(&self, digest: &Digest) -> Option<(File, u64)> {
        let file = File::open(self.path(digest)).ok()?;
        let size = file.metadata().ok()?.len();
        Some((file, size))
    }

    /// A file for a new blob.
    pub(crate) fn writer(&self) -> Result<(BlobWriter, File), Error> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{UNFINISHED}{number}"));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(Error::io("create", &path))?;
        Ok((
            BlobWriter {
                path,
                committed: false,
            },
            file,
        ))
    }

    /// Gives a blob its name; the caller has verified the digest.
    pub(crate) fn commit(&self, mut writer: BlobWriter, digest: &Digest) -> Result<(), Error> {
        let path = self.path(digest);
        std::fs::rename(&writer.path, &path).map_err(Error::io("rename to", &path))?;
        writer.committed = true;
        Ok(())
    }

    /// Discards every blob that `used` does not name.
    pub(crate) fn collect(&self, used: &HashSet<Digest>) -> Result<(), Error> {
        for (name, path) in self.entries()? {
            if parse(&name).is_some_and(|digest| !used.contains(&digest)) {
                self.trash.discard(&path).map_err(Error::io("discard", &path))?;
            }
        }
        Ok(())
    }

    /// What the blobs take on disk.
    pub(crate) fn usage(&self) -> Result<DiskUsage, Error> {
        crate::usage::measure(&self.folder)
    }
}

fn parse(name: &str) -> Option<Digest> {
    name.replacen('-', ":", 1).parse().ok()
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot delete an unfinished blob");
        }
    }
}
