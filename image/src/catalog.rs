//! The images and names of a store, in memory: look-ups never touch the disk.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::{Image, ImageId};
use crate::layer::{ChainId, LayerFormat, LayerInfo, LayerKey, Layers};
use crate::manifest::Document;
use crate::records::{ImageRecord, NameRecord, Records};
use crate::reference::Reference;

/// An image without its names.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) id: Digest,
    pub(crate) record: ImageRecord,
    config: Arc<ImageConfig>,
    config_json: Arc<[u8]>,
    manifest_json: Arc<[u8]>,
    pub(crate) chain: Arc<[ChainId]>,
    size: u64,
}

impl Stored {
    pub(crate) fn new<'a>(
        id: Digest,
        record: ImageRecord,
        config: ImageConfig,
        layers: impl Iterator<Item = &'a LayerInfo>,
    ) -> Self {
        let documents = (record.config.len() + record.manifest.len()) as u64;
        Self {
            id,
            config_json: record.config.as_slice().into(),
            manifest_json: record.manifest.as_slice().into(),
            chain: ChainId::of(&config.diff_ids).into(),
            size: documents + layers.map(|layer| layer.usage.bytes).sum::<u64>(),
            config: Arc::new(config),
            record,
        }
    }

    pub(crate) fn config(&self) -> &ImageConfig {
        &self.config
    }
}

#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) images: BTreeMap<Digest, Arc<Stored>>,
    pub(crate) names: BTreeMap<Reference, NameRecord>,
}

/// What the records name but the disk does not have any more.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    pub(crate) images: Vec<Digest>,
    pub(crate) names: Vec<Reference>,
    /// Rows that could not be read.
    damaged: usize,
}

impl Lost {
    /// For people: names, and ids.
    pub(crate) fn describe(&self) -> Vec<String> {
        let names = self.names.iter().map(ToString::to_string);
        let ids = self.images.iter().map(ToString::to_string);
        let damaged = (self.damaged > 0).then(|| format!("{} damaged records", self.damaged));
        names.chain(ids).chain(damaged).collect()
    }
}

impl Catalog {
    /// From the records; what is not whole is left out and told.
    pub(crate) fn build(records: Records, layers: &Layers) -> (Self, Lost) {
        let mut catalog = Self::default();
        let mut lost = Lost {
            damaged: records.damaged,
            ..Lost::default()
        };
        for (id, record) in records.images {
            match whole(&id, record, layers) {
                Some(stored) => drop(catalog.images.insert(id, Arc::new(stored))),
                None => lost.images.push(id),
            }
        }
        for (name, record) in records.names {
            if catalog.images.contains_key(&record.image) {
                catalog.names.insert(name, record);
            } else {
                lost.names.push(name);
            }
        }
        (catalog, lost)
    }

    pub(crate) fn list(&self, pins: &[String]) -> Vec<Image> {
        let mut names: BTreeMap<&Digest, Vec<&Reference>> = BTreeMap::new();
        for (name, record) in &self.names {
            names.entry(&record.image).or_default().push(name);
        }
        let none = Vec::new();
        self.images
            .values()
            .map(|stored| compose(stored, names.get(&stored.id).unwrap_or(&none), pins))
            .collect()
    }

    pub(crate) fn image(&self, stored: &Stored, pins: &[String]) -> Image {
        let names: Vec<&Reference> = self.names_of(&stored.id).collect();
        compose(stored, &names, pins)
    }

    pub(crate) fn names_of<'a>(&'a self, id: &'a Digest) -> impl Iterator<Item = &'a Reference> {
        self.names
            .iter()
            .filter(move |(_, record)| record.image == *id)
            .map(|(name, _)| name)
    }

    /// The image, and the name by which it was found (none for an id).
    pub(crate) fn find(&self, text: &str) -> Result<(Arc<Stored>, Option<Reference>), Error> {
        let missing = || Error::NoSuchImage {
            name: text.chars().take(300).collect(),
        };
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = !hex.is_empty() && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex && hex.len() == 64 {
            let id: Option<Digest> = format!("sha256:{hex}").parse().ok();
            return id
                .and_then(|id| self.images.get(&id))
                .map(|stored| (stored.clone(), None))
                .ok_or_else(missing);
        }
        let named = match text.parse::<Reference>() {
            Ok(reference) => {
                let name = reference.canonical();
                let found = self
                    .names
                    .get(&name)
                    .and_then(|record| self.images.get(&record.image));
                found.map(|stored| (stored.clone(), Some(name)))
            }
            Err(error) if !is_hex => return Err(error.into()),
            Err(_) => None,
        };
        if let Some(found) = named {
            return Ok(found);
        }
        if !is_hex {
            return Err(missing());
        }
        let mut matching = self
            .images
            .values()
            .filter(|stored| stored.id.hex().starts_with(hex));
        let Some(first) = matching.next() else {
            return Err(missing());
        };
        match matching.count() {
            0 => Ok((first.clone(), None)),
            more => Err(Error::AmbiguousId {
                prefix: text.into(),
                matches: more + 1,
            }),
        }
    }

    /// The names that are removed with `named`: itself, and with the last tag of a repository
    /// the digests that came along with it.
    pub(crate) fn goes_with(&self, named: &Reference, id: &Digest) -> Vec<Reference> {
        let mut names = vec![named.clone()];
        let same = |name: &&Reference| {
            name.registry() == named.registry() && name.repository() == named.repository() && *name != named
        };
        let others: Vec<&Reference> = self.names_of(id).filter(same).collect();
        if named.tag().is_some() && others.iter().all(|name| name.tag().is_none()) {
            let implied = |name: &&&Reference| self.names.get(**name).is_some_and(|record| record.implied);
            names.extend(others.iter().filter(implied).map(|name| (*name).clone()));
        }
        names
    }

    /// Of the layers of all images, in whichever format they are there.
    pub(crate) fn used_layers(&self) -> impl Iterator<Item = LayerKey> {
        let chains = self.images.values().flat_map(|stored| stored.chain.iter());
        chains.flat_map(|chain| LayerFormat::ALL.map(|format| chain.key(format)))
    }

    /// The compressed layers of all images.
    pub(crate) fn used_blobs(&self) -> HashSet<Digest> {
        let mut used = HashSet::new();
        for stored in self.images.values() {
            if let Ok(Document::Manifest(manifest)) = Document::parse(&stored.manifest_json, None) {
                used.extend(manifest.layers.into_iter().map(|layer| layer.digest));
            }
        }
        used
    }
}

/// The image of a record, if its documents are unharmed and all its layers there.
fn whole(id: &Digest, record: ImageRecord, layers: &Layers) -> Option<Stored> {
    if !id.matches(&record.config) {
        return None;
    }
    let config = ImageConfig::parse(&record.config).ok()?;
    let infos: Option<Vec<LayerInfo>> = ChainId::of(&config.diff_ids)
        .iter()
        .map(|chain| Some(layers.find(chain)?.1))
        .collect();
    Some(Stored::new(id.clone(), record, config, infos?.iter()))
}

fn compose(stored: &Stored, names: &[&Reference], pins: &[String]) -> Image {
    let spelled = |tagged: bool| -> Vec<String> {
        let mut names: Vec<String> = names
            .iter()
            .filter(|name| name.tag().is_some() == tagged)
            .map(ToString::to_string)
            .collect();
        names.sort();
        names
    };
    let pinned = |name: &&Reference| {
        let name = name.to_string();
        pins.iter().any(|pin| match pin.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *pin,
        })
    };
    Image {
        id: ImageId(stored.id.clone()),
        repo_tags: spelled(true),
        repo_digests: spelled(false),
        size: stored.size,
        pinned: stored.record.pinned || names.iter().any(pinned),
        stored_at: UNIX_EPOCH + Duration::from_secs(stored.record.stored_at),
        config: stored.config.clone(),
        config_json: stored.config_json.clone(),
        manifest_json: stored.manifest_json.clone(),
        chain: stored.chain.clone(),
    }
}
