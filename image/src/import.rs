//! Images from archives: OCI layouts and `docker save`, compressed or not.
//!
//! ```text
//!   reader ─► decompress ─► spool file (unlinked) ─► members ─► OCI index | docker manifest
//!                                                                  └─► the same assembly as a pull
//! ```
//!
//! The stream is spooled because both formats put what describes the layers anywhere in the
//! archive. A layout's digests are verified like a registry's; a docker archive has no digests
//! of its compressed layers, but the configuration's diff ids bind their content.

mod archive;
mod docker;
mod layout;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{mpsc, watch};

use self::archive::Archive;
use crate::assemble::{Part, assemble};
use crate::commit::NewImage;
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::Image;
use crate::platform::Platform;
use crate::progress::Watch;
use crate::records::ImageRecord;
use crate::reference::Reference;
use crate::registry::Piece;
use crate::store::{Inner, Store, blocking};

/// How much of the stream is read at once.
const PIECE: usize = 256 << 10;

/// Why an archive is no image archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveProblem {
    /// Neither of the two formats.
    #[error("neither an OCI layout (index.json) nor a docker archive (manifest.json)")]
    UnknownFormat,
    /// A file that the archive refers to is not in it.
    #[error("{0} is missing")]
    Missing(String),
    /// It cannot be decompressed or is no tar.
    #[error("{0}")]
    Unreadable(String),
    /// It describes no image.
    #[error("it holds no image")]
    Empty,
    /// A name inside is no reference.
    #[error("a name in it is malformed: {0}")]
    Name(String),
    /// Names were given for an archive with several images.
    #[error("it holds {0} images; names can only be given to one")]
    SeveralImages(usize),
}

/// What to do with the images of an archive.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Further names, for an archive with one image.
    pub names: Vec<Reference>,
    /// Keep garbage collectors away from the images.
    pub pin: bool,
}

/// An image found in an archive.
struct Candidate {
    /// Names, and whether each only came along.
    names: Vec<(Reference, bool)>,
    /// Empty for a docker archive.
    manifest: Vec<u8>,
    config: Vec<u8>,
    id: Digest,
    parts: Vec<Part>,
}

impl Store {
    /// Reads an archive and stores its images (those for this platform).
    ///
    /// # Errors
    /// [`Error::Archive`] when it is none, otherwise as for a pull.
    pub async fn import<R>(&self, reader: R, options: ImportOptions) -> Result<Vec<Image>, Error>
    where
        R: AsyncRead + Send + Unpin,
    {
        let inner = &self.inner;
        let archive = Arc::new(spool(inner, reader).await?);
        let platform = inner.config.platform.clone();
        let mut candidates =
            blocking("read an image archive", move || candidates(&archive, &platform)).await?;
        if !options.names.is_empty() {
            match candidates.as_mut_slice() {
                [only] => only
                    .names
                    .extend(options.names.iter().map(|name| (name.canonical(), false))),
                several => return Err(ArchiveProblem::SeveralImages(several.len()).into()),
            }
        }
        let mut images = Vec::new();
        for candidate in candidates {
            images.push(Box::pin(inner.adopt(candidate, options.pin)).await?);
        }
        Ok(images)
    }
}

impl From<ArchiveProblem> for Error {
    fn from(problem: ArchiveProblem) -> Self {
        Self::Archive { problem }
    }
}

/// Feeds the stream to a thread that decompresses it into a file.
async fn spool(inner: &Arc<Inner>, mut reader: impl AsyncRead + Send + Unpin) -> Result<Archive, Error> {
    let (sink, pieces) = mpsc::channel(4);
    let (large, mut is_large) = watch::channel(false);
    let spooler = inner.clone();
    let spooled = blocking("spool an image archive", move || {
        Archive::spool(&spooler, pieces, &large)
    });
    let patience = inner.registry().progress_timeout;
    let feed = async move {
        loop {
            let mut piece = vec![0; PIECE];
            let count = tokio::select! {
                count = reader.read(&mut piece) => count?,
                // The spooler went away, and has the reason.
                () = sink.closed() => return Ok(()),
                () = stalled(&mut is_large, patience) => return Err(std::io::ErrorKind::TimedOut.into()),
            };
            piece.truncate(count);
            let next = if count == 0 {
                Piece::End
            } else {
                Piece::Data(Bytes::from(piece))
            };
            if sink.send(next).await.is_err() || count == 0 {
                return Ok(());
            }
        }
    };
    let (fed, spooled): (std::io::Result<()>, _) = tokio::join!(feed, spooled);
    fed.map_err(|error| ArchiveProblem::Unreadable(format!("reading the archive: {error}")))?;
    spooled
}

/// Whoever sends an archive may take as long as he likes, but not while its window keeps others waiting.
async fn stalled(is_large: &mut watch::Receiver<bool>, patience: Duration) {
    if is_large.wait_for(|large| *large).await.is_err() {
        // The spooler has come to its end.
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(patience).await;
}

fn candidates(archive: &Archive, platform: &Platform) -> Result<Vec<Candidate>, Error> {
    let found = if archive.has("index.json") {
        layout::candidates(archive, platform)?
    } else if archive.has("manifest.json") {
        docker::candidates(archive)?
    } else {
        return Err(ArchiveProblem::UnknownFormat.into());
    };
    if found.is_empty() {
        Err(ArchiveProblem::Empty.into())
    } else {
        Ok(found)
    }
}

fn parse_config(id: &Digest, json: &[u8]) -> Result<ImageConfig, Error> {
    ImageConfig::parse(json).map_err(|problem| Error::Document {
        what: format!("configuration {id}"),
        problem,
    })
}

impl Inner {
    async fn adopt(self: &Arc<Self>, candidate: Candidate, pinned: bool) -> Result<Image, Error> {
        let watch = Arc::new(Watch::new(candidate.id.to_string(), (self.config.clock)()));
        let leases = assemble(self, candidate.parts, &watch).await?;
        let record = ImageRecord {
            manifest: candidate.manifest,
            config: candidate.config,
            pinned,
            stored_at: self.now(),
        };
        self.commit(NewImage {
            id: candidate.id,
            record,
            names: candidate.names,
            leases,
        })
        .await
    }
}
