//! `docker save` archives: `manifest.json` lists configurations, names and layer files.

use serde::Deserialize;

use super::archive::Archive;
use super::{ArchiveProblem, Candidate, parse_config};
use crate::assemble::{Origin, Part};
use crate::digest::Digest;
use crate::document::{self, DocumentError};
use crate::error::Error;
use crate::layer::ChainId;
use crate::layer::stream::Expected;
use crate::reference::Reference;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default, deserialize_with = "document::nullable")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "document::nullable")]
    layers: Vec<String>,
}

pub(super) fn candidates(archive: &Archive) -> Result<Vec<Candidate>, Error> {
    let bytes = archive.document("manifest.json")?;
    let items: Vec<Item> = document::parse(&bytes).map_err(|problem| Error::Document {
        what: "manifest.json".into(),
        problem,
    })?;
    items.into_iter().map(|item| candidate(archive, &item)).collect()
}

fn candidate(archive: &Archive, item: &Item) -> Result<Candidate, Error> {
    let json = archive.document(&item.config)?;
    let id = Digest::sha256(&json);
    let config = parse_config(&id, &json)?;
    if config.diff_ids.len() != item.layers.len() {
        let problem = DocumentError::LayerCount {
            manifest: item.layers.len(),
            config: config.diff_ids.len(),
        };
        return Err(Error::Document {
            what: "manifest.json".into(),
            problem,
        });
    }
    let mut names = Vec::new();
    for tag in &item.repo_tags {
        let name: Reference = tag
            .parse()
            .map_err(|error| ArchiveProblem::Name(format!("{error}")))?;
        names.push((name.canonical(), false));
    }
    let mut parts = Vec::new();
    for (layer, (diff_id, chain)) in item
        .layers
        .iter()
        .zip(config.diff_ids.iter().zip(ChainId::of(&config.diff_ids)))
    {
        let (offset, size) = archive.find(layer)?;
        let expected = Expected {
            compressed: None,
            diff_id: diff_id.clone(),
            size,
        };
        parts.push(Part {
            chain,
            expected,
            origin: Origin::Archive {
                file: archive.file.clone(),
                offset,
            },
        });
    }
    Ok(Candidate {
        names,
        manifest: Vec::new(),
        config: json,
        id,
        parts,
    })
}
