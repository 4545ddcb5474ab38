//! Images to an archive: an OCI layout that `docker load` understands too.
//!
//! Compressed layers are not kept, so the layers are written as plain tars, made again from the
//! unpacked files by their recipes; each one's digest is verified against its diff id as it is
//! written. Configuration and image id are unchanged; the manifest is a new one.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::json;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::catalog::Stored;
use crate::digest::{Digest, Hasher};
use crate::error::Error;
use crate::layer::{ChainId, Lease};
use crate::manifest::media_type;
use crate::reference::Reference;
use crate::store::{Inner, Store, blocking};
use crate::unpack::recipe;

const PIECE: usize = 256 << 10;
const BLOCK: usize = 512;

/// An image to be written, its layers protected.
struct Chosen {
    stored: Arc<Stored>,
    names: BTreeSet<Reference>,
    /// Lowest first.
    layers: Vec<(Digest, Lease)>,
}

impl Store {
    /// Writes images as an archive. A name writes the image under that name; an id writes it
    /// under all its tags.
    ///
    /// # Errors
    /// No such image; [`Error::Irreproducible`] when a layer's files do not give its tar any
    /// more (what was written is then useless).
    pub async fn export<W>(&self, names: &[String], mut writer: W) -> Result<(), Error>
    where
        W: AsyncWrite + Send + Unpin,
    {
        let inner = self.inner.clone();
        let chosen = inner.choose(names)?;
        let (sink, mut pieces) = mpsc::channel::<Vec<u8>>(4);
        let written = blocking("export images", move || {
            let mut output = Output {
                sink,
                pending: Vec::with_capacity(PIECE),
            };
            write_archive(&inner, &chosen, &mut output)
        });
        let feed = async move {
            // Dropping the receiver on a failure stops the writing thread.
            while let Some(piece) = pieces.recv().await {
                writer.write_all(&piece).await?;
            }
            writer.shutdown().await
        };
        let (fed, written): (io::Result<()>, _) = tokio::join!(feed, written);
        fed.map_err(Error::io("write", std::path::Path::new("the archive")))?;
        written
    }
}

impl Inner {
    fn choose(&self, names: &[String]) -> Result<Vec<Chosen>, Error> {
        let mut chosen: Vec<Chosen> = Vec::new();
        for name in names {
            let (stored, named) = self.with_catalog(|catalog| catalog.find(name))?;
            let tags: BTreeSet<Reference> = match named {
                Some(named) => [named].into(),
                None => self.with_catalog(|catalog| catalog.names_of(&stored.id).cloned().collect()),
            };
            let tags = tags.into_iter().filter(|name| name.tag().is_some());
            if let Some(known) = chosen.iter_mut().find(|known| known.stored.id == stored.id) {
                known.names.extend(tags);
                continue;
            }
            let missing = || Error::NoSuchImage { name: name.clone() };
            let lease = |(diff_id, chain): (&Digest, &ChainId)| {
                let found = self.layers.find(chain);
                let lease = found.and_then(|(key, _)| self.layers.lease(&key));
                Ok((diff_id.clone(), lease.ok_or_else(missing)?))
            };
            let layers = stored
                .config()
                .diff_ids
                .iter()
                .zip(stored.chain.iter())
                .map(lease);
            let layers = layers.collect::<Result<_, Error>>()?;
            chosen.push(Chosen {
                names: tags.collect(),
                stored,
                layers,
            });
        }
        Ok(chosen)
    }
}

fn write_archive(inner: &Inner, chosen: &[Chosen], output: &mut Output) -> Result<(), Error> {
    let closed = |_: io::Error| Error::Interrupted {
        operation: "export images",
    };
    output
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .map_err(closed)?;
    let (mut index, mut docker) = (Vec::new(), Vec::new());
    let mut written = BTreeSet::new();
    for image in chosen {
        let mut layers = Vec::new();
        for (diff_id, lease) in &image.layers {
            let size = measure(inner, diff_id, lease)?;
            layers.push(json!({ "mediaType": media_type::OCI_LAYER, "digest": diff_id, "size": size }));
            if written.insert(diff_id.clone()) {
                output.header(&path_of(diff_id), size).map_err(closed)?;
                write_layer(inner, diff_id, lease, output)?;
                output.pad(size).map_err(closed)?;
            }
        }
        let config = &image.stored.record.config;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": { "mediaType": media_type::OCI_CONFIG, "digest": image.stored.id, "size": config.len() },
            "layers": layers,
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = Digest::sha256(&manifest);
        for (digest, bytes) in [(&image.stored.id, config), (&digest, &manifest)] {
            if written.insert(digest.clone()) {
                output.file(&path_of(digest), bytes).map_err(closed)?;
            }
        }
        index.extend(index_entries(image, &digest, manifest.len()));
        docker.push(docker_entry(image));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": index });
    output
        .file("index.json", index.to_string().as_bytes())
        .map_err(closed)?;
    output
        .file("manifest.json", json!(docker).to_string().as_bytes())
        .map_err(closed)?;
    output
        .write_all(&[0; 2 * BLOCK])
        .and_then(|()| output.flush())
        .map_err(closed)
}

/// One entry per name, so that each name survives.
fn index_entries(image: &Chosen, digest: &Digest, size: usize) -> Vec<serde_json::Value> {
    let entry = |annotations: serde_json::Value| {
        let platform = &image.stored.config().platform;
        json!({
            "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": size,
            "platform": platform, "annotations": annotations,
        })
    };
    if image.names.is_empty() {
        return vec![entry(json!({}))];
    }
    let named = image.names.iter().map(|name| {
        entry(json!({
            "io.containerd.image.name": name.to_string(),
            "org.opencontainers.image.ref.name": name.tag().unwrap_or_default(),
        }))
    });
    named.collect()
}

fn docker_entry(image: &Chosen) -> serde_json::Value {
    let tags: Vec<String> = image.names.iter().map(ToString::to_string).collect();
    let layers: Vec<String> = image.layers.iter().map(|(diff_id, _)| path_of(diff_id)).collect();
    json!({ "Config": path_of(&image.stored.id), "RepoTags": tags, "Layers": layers })
}

fn path_of(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn measure(inner: &Inner, diff_id: &Digest, lease: &Lease) -> Result<u64, Error> {
    recipe::size(&inner.layers.recipe(&lease.key)).map_err(|error| {
        tracing::warn!(layer = %diff_id, %error, "cannot read a layer's recipe");
        Error::Irreproducible {
            diff_id: diff_id.clone(),
        }
    })
}

/// Writes a layer's tar, made again and verified. What is broken in `output` itself is `BrokenPipe`.
pub(crate) fn write_layer(
    inner: &Inner,
    diff_id: &Digest,
    lease: &Lease,
    output: &mut impl Write,
) -> Result<(), Error> {
    let recipe = inner.layers.recipe(&lease.key);
    let mut digesting = Digesting {
        hasher: Hasher::new(diff_id.algorithm()),
        output,
    };
    let mut root = inner.layers.root(&lease.key)?;
    let replayed = recipe::replay(&recipe, &mut root, &mut digesting);
    if let Err(error) = &replayed {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Err(Error::Interrupted {
                operation: "export images",
            });
        }
        tracing::warn!(layer = %diff_id, %error, "cannot make a layer's tar again");
    }
    let intact = replayed.is_ok() && digesting.hasher.finish() == *diff_id;
    if intact {
        Ok(())
    } else {
        Err(Error::Irreproducible {
            diff_id: diff_id.clone(),
        })
    }
}

/// Collects pieces for the async side.
struct Output {
    sink: mpsc::Sender<Vec<u8>>,
    pending: Vec<u8>,
}

impl Output {
    fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let size = bytes.len() as u64;
        self.header(name, size)?;
        self.write_all(bytes)?;
        self.pad(size)
    }

    /// A ustar header. Names here are short; only sizes may need more than octal digits.
    fn header(&mut self, name: &str, size: u64) -> io::Result<()> {
        let mut block = [0u8; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        for id in [108, 116] {
            block[id..id + 7].copy_from_slice(b"0000000");
        }
        if size < 1 << 33 {
            block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        } else {
            block[124] = 0x80;
            block[128..136].copy_from_slice(&size.to_be_bytes());
        }
        block[136..147].copy_from_slice(b"00000000000");
        block[148..156].fill(b' ');
        block[156] = b'0';
        block[257..265].copy_from_slice(b"ustar\x0000");
        let checksum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{checksum:06o}\0 ").as_bytes());
        self.write_all(&block)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = (size.wrapping_neg() % BLOCK as u64) as usize;
        self.write_all(&[0; BLOCK][..padding])
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.pending, Vec::with_capacity(PIECE));
        self.sink
            .blocking_send(piece)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

struct Digesting<'a, W> {
    hasher: Hasher,
    output: &'a mut W,
}

impl<W: Write> Write for Digesting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.output.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
