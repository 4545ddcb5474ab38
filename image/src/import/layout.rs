//! OCI image layouts (image-spec, image-layout.md).

use std::collections::BTreeMap;

use super::archive::Archive;
use super::{ArchiveProblem, Candidate};
use crate::assemble::{Origin, Part};
use crate::digest::Digest;
use crate::document::DocumentError;
use crate::error::Error;
use crate::layer::ChainId;
use crate::layer::stream::Expected;
use crate::manifest::{DEEPEST_INDEX, Descriptor, Document, Index, Manifest};
use crate::platform::Platform;
use crate::pull::parse_config;
use crate::reference::Reference;

/// Where the full name of an image is written; the specification has only a place for the tag.
const FULL_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub(super) fn candidates(archive: &Archive, platform: &Platform) -> Result<Vec<Candidate>, Error> {
    let refused = |problem| Error::Document {
        what: "index.json".into(),
        problem,
    };
    let document = Document::parse(&archive.document("index.json")?, None).map_err(refused)?;
    let Document::Index(index) = document else {
        return Err(refused(DocumentError::Unsupported(
            "a manifest in the place of the index".into(),
        )));
    };
    let mut groups: BTreeMap<Option<Reference>, Vec<Descriptor>> = BTreeMap::new();
    for descriptor in index.manifests {
        groups.entry(name_of(&descriptor)?).or_default().push(descriptor);
    }
    let mut candidates: Vec<Candidate> = Vec::new();
    for (name, manifests) in groups {
        // Entries of one name, or several without any, are builds of one image for several
        // platforms.
        let index = Index { manifests };
        let top = index.choose(platform).map_err(refused)?;
        let mut found = candidate(archive, top, platform)?;
        let names = name
            .into_iter()
            .flat_map(|name| [(name.at(top.digest.clone()), true), (name, false)]);
        found.names.extend(names);
        match candidates.iter_mut().find(|known| known.id == found.id) {
            Some(known) => known.names.append(&mut found.names),
            None => candidates.push(found),
        }
    }
    Ok(candidates)
}

/// A bare tag (`latest`) is no name; what has a repository is.
fn name_of(descriptor: &Descriptor) -> Result<Option<Reference>, Error> {
    let full = descriptor.annotations.get(FULL_NAME);
    let reference = descriptor
        .annotations
        .get(REF_NAME)
        .filter(|name| name.contains(['/', ':']));
    let Some(name) = full.or(reference) else {
        return Ok(None);
    };
    let parsed = name
        .parse::<Reference>()
        .map_err(|error| ArchiveProblem::Name(error.to_string()))?;
    Ok(Some(parsed.canonical()))
}

fn candidate(archive: &Archive, top: &Descriptor, platform: &Platform) -> Result<Candidate, Error> {
    let (manifest, bytes) = manifest(archive, top, platform)?;
    let id = manifest.config.digest.clone();
    let json = blob(archive, &manifest.config)?;
    let config = parse_config(&id, &json, &manifest)?;
    let mut parts = Vec::new();
    for (layer, (diff_id, chain)) in manifest
        .layers
        .iter()
        .zip(config.diff_ids.iter().zip(ChainId::of(&config.diff_ids)))
    {
        parts.push(part(archive, layer, diff_id, chain)?);
    }
    Ok(Candidate {
        names: Vec::new(),
        manifest: bytes,
        config: json,
        id,
        parts,
    })
}

fn manifest(archive: &Archive, top: &Descriptor, platform: &Platform) -> Result<(Manifest, Vec<u8>), Error> {
    let mut descriptor = top.clone();
    for _ in 0..=DEEPEST_INDEX {
        let bytes = blob(archive, &descriptor)?;
        let refused = |problem| Error::Document {
            what: descriptor.digest.to_string(),
            problem,
        };
        match Document::parse(&bytes, Some(&descriptor.media_type)).map_err(refused)? {
            Document::Manifest(manifest) => return Ok((manifest, bytes)),
            Document::Index(index) => descriptor = index.choose(platform).map_err(refused)?.clone(),
        }
    }
    Err(Error::Document {
        what: "index.json".into(),
        problem: DocumentError::NestedIndexes,
    })
}

fn path_of(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// A document of the layout, verified.
fn blob(archive: &Archive, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    let digest = &descriptor.digest;
    let bytes = archive.document(&path_of(digest))?;
    let found = bytes.len() as u64;
    let problem = if found != descriptor.size {
        DocumentError::WrongSize {
            wanted: descriptor.size,
            found,
        }
    } else if !digest.matches(&bytes) {
        DocumentError::WrongDigest {
            wanted: digest.clone(),
            found: Digest::sha256(&bytes),
        }
    } else {
        return Ok(bytes);
    };
    Err(Error::Document {
        what: digest.to_string(),
        problem,
    })
}

fn part(archive: &Archive, layer: &Descriptor, diff_id: &Digest, chain: ChainId) -> Result<Part, Error> {
    let (offset, size) = archive.find(&path_of(&layer.digest))?;
    if size != layer.size {
        let problem = DocumentError::WrongSize {
            wanted: layer.size,
            found: size,
        };
        return Err(Error::Document {
            what: layer.digest.to_string(),
            problem,
        });
    }
    let expected = Expected {
        compressed: Some(layer.digest.clone()),
        diff_id: diff_id.clone(),
        size,
    };
    Ok(Part {
        chain,
        expected,
        origin: Origin::Archive {
            file: archive.file.clone(),
            offset,
        },
    })
}
