//! Manifests and indexes: OCI image-spec 1.1 and Docker image manifest schema 2.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::Digest;
use crate::document::{self, DocumentError};
use crate::platform::Platform;

/// overlayfs stacks at most this many lower directories.
pub const MOST_LAYERS: usize = 500;
/// An index of indexes is legal, a chain of them is not sensible.
pub(crate) const DEEPEST_INDEX: usize = 3;

/// `Content-Type`s of what is understood.
pub mod media_type {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, not compressed.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Docker schema 2 manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// What a client offers to take when it asks for a manifest.
    pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
        application/vnd.oci.image.manifest.v1+json, \
        application/vnd.docker.distribution.manifest.list.v2+json, \
        application/vnd.docker.distribution.manifest.v2+json";

    /// Whether a layer of this type is a tar, however compressed. (How it is compressed is
    /// told by its first bytes: registries are full of wrong labels.)
    #[must_use]
    pub fn is_layer(media_type: &str) -> bool {
        matches!(
            media_type,
            "application/vnd.oci.image.layer.v1.tar"
                | "application/vnd.oci.image.layer.v1.tar+gzip"
                | "application/vnd.oci.image.layer.v1.tar+zstd"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
                | "application/vnd.docker.image.rootfs.diff.tar"
                | "application/vnd.docker.image.rootfs.diff.tar.gzip"
                | "application/vnd.docker.image.rootfs.diff.tar.zstd"
                | "application/vnd.docker.image.rootfs.foreign.diff.tar"
                | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        )
    }
}

/// Points at content. `urls` are never followed: they lead credentials and traffic elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// In an index: where it runs.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// Names in the index of a layout, among others.
    #[serde(default, deserialize_with = "document::nullable")]
    pub annotations: BTreeMap<String, String>,
}

/// One image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image's configuration.
    pub config: Descriptor,
    /// Its layers, lowest first; at most [`MOST_LAYERS`].
    pub layers: Vec<Descriptor>,
}

/// The images of one name for several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Manifests, or further indexes.
    pub manifests: Vec<Descriptor>,
}

/// What a registry answers for a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several to choose from.
    Index(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default, rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Parses a manifest or index.
    ///
    /// `announced` is the media type of the descriptor or of the HTTP answer; where the
    /// document names its own type too, both must be the same (CVE-2021-41190).
    ///
    /// # Errors
    /// [`DocumentError`]; nothing ambiguous is accepted.
    pub fn parse(bytes: &[u8], announced: Option<&str>) -> Result<Self, DocumentError> {
        let raw: Raw = document::parse(bytes)?;
        if raw.schema_version != 2 || raw.fs_layers.is_some() {
            return Err(DocumentError::Unsupported("manifest schema 1".into()));
        }
        if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
            return Err(DocumentError::Ambiguous);
        }
        let announced = announced.filter(|media_type| is_specific(media_type));
        let own = raw
            .media_type
            .as_deref()
            .filter(|media_type| !media_type.is_empty());
        if let (Some(announced), Some(own)) = (announced, own)
            && announced != own
        {
            return Err(DocumentError::MediaType {
                announced: announced.into(),
                found: own.into(),
            });
        }
        let found = if raw.manifests.is_some() {
            "an index"
        } else {
            "a manifest"
        };
        match own.or(announced) {
            Some(media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST) if raw.manifests.is_none() => {}
            Some(media_type::OCI_INDEX | media_type::DOCKER_INDEX) if raw.manifests.is_some() => {}
            None => {}
            Some(
                mismatch @ (media_type::OCI_MANIFEST
                | media_type::DOCKER_MANIFEST
                | media_type::OCI_INDEX
                | media_type::DOCKER_INDEX),
            ) => {
                return Err(DocumentError::MediaType {
                    announced: mismatch.into(),
                    found: found.into(),
                });
            }
            Some(other) => return Err(DocumentError::Unsupported(other.chars().take(100).collect())),
        }
        match (raw.manifests, raw.config) {
            (Some(manifests), _) => Ok(Self::Index(Index { manifests })),
            (None, Some(config)) => Manifest::new(config, raw.layers.unwrap_or_default()).map(Self::Manifest),
            (None, None) => Err(DocumentError::Malformed("neither a config nor manifests".into())),
        }
    }
}

/// A type that says something; servers answer `text/plain` or nothing for what they do not know.
fn is_specific(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.")
}

impl Manifest {
    fn new(config: Descriptor, layers: Vec<Descriptor>) -> Result<Self, DocumentError> {
        if layers.len() > MOST_LAYERS {
            return Err(DocumentError::TooManyLayers { found: layers.len() });
        }
        if !matches!(
            config.media_type.as_str(),
            media_type::OCI_CONFIG | media_type::DOCKER_CONFIG
        ) {
            let what = format!(
                "an artifact of type {:?} (no container image)",
                shorten(&config.media_type)
            );
            return Err(DocumentError::Unsupported(what));
        }
        if let Some(other) = layers
            .iter()
            .find(|layer| !media_type::is_layer(&layer.media_type))
        {
            let what = format!("a layer of type {:?}", shorten(&other.media_type));
            return Err(DocumentError::Unsupported(what));
        }
        Ok(Self { config, layers })
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(100).collect()
}

impl Index {
    /// The entry that runs best on `platform`; the first of equals.
    ///
    /// # Errors
    /// Nothing fits; the error lists what there is.
    pub fn choose(&self, platform: &Platform) -> Result<&Descriptor, DocumentError> {
        let mut best: Option<(u32, &Descriptor)> = None;
        for entry in &self.manifests {
            let rank = match &entry.platform {
                Some(offer) => platform.rank(offer),
                // A single-platform index often leaves the platform out.
                None => Some(0),
            };
            if let Some(rank) = rank
                && best.is_none_or(|(so_far, _)| rank > so_far)
            {
                best = Some((rank, entry));
            }
        }
        let offered = || {
            self.manifests
                .iter()
                .filter_map(|entry| entry.platform.clone())
                .collect()
        };
        best.map(|(_, entry)| entry)
            .ok_or_else(|| DocumentError::NoPlatform {
                wanted: platform.clone(),
                offered: offered(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{DIGEST}","size":7}}"#)
    }

    fn manifest(fields: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{}]{fields}}}"#,
            descriptor(media_type::OCI_CONFIG),
            descriptor("application/vnd.oci.image.layer.v1.tar+gzip")
        )
    }

    #[test]
    fn reads_both_families() {
        let oci = Document::parse(manifest("").as_bytes(), Some(media_type::OCI_MANIFEST)).unwrap();
        assert!(matches!(oci, Document::Manifest(m) if m.layers.len() == 1));
        let docker = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#,
            media_type::DOCKER_INDEX
        );
        assert!(matches!(
            Document::parse(docker.as_bytes(), None).unwrap(),
            Document::Index(_)
        ));
    }

    #[test]
    fn refuses_what_two_readers_could_take_differently() {
        let parse = |text: &str, announced| Document::parse(text.as_bytes(), announced);
        assert_eq!(
            parse(&manifest(r#","manifests":[]"#), None),
            Err(DocumentError::Ambiguous)
        );
        assert!(matches!(
            parse(&manifest(r#","layers":[]"#), None),
            Err(DocumentError::Malformed(why)) if why.contains("duplicate")
        ));
        let own = format!(r#","mediaType":"{}""#, media_type::OCI_MANIFEST);
        assert!(matches!(
            parse(&manifest(&own), Some(media_type::DOCKER_MANIFEST)),
            Err(DocumentError::MediaType { .. })
        ));
        assert!(matches!(
            parse(&manifest(""), Some(media_type::OCI_INDEX)),
            Err(DocumentError::MediaType { .. })
        ));
        assert!(parse(&manifest(&own), Some("text/plain")).is_ok());
        let schema1 = r#"{"schemaVersion":1,"fsLayers":[]}"#;
        assert!(matches!(parse(schema1, None), Err(DocumentError::Unsupported(_))));
    }

    #[test]
    fn refuses_artifacts_foreign_layers_and_too_many() {
        let artifact = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
            descriptor("application/vnd.oci.empty.v1+json")
        );
        assert!(matches!(
            Document::parse(artifact.as_bytes(), None),
            Err(DocumentError::Unsupported(_))
        ));
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar");
        let many = |count: usize| {
            let layers = vec![layer.clone(); count].join(",");
            let config = descriptor(media_type::OCI_CONFIG);
            let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#);
            Document::parse(text.as_bytes(), None)
        };
        assert!(many(500).is_ok());
        assert_eq!(many(501), Err(DocumentError::TooManyLayers { found: 501 }));
    }

    #[test]
    fn chooses_by_platform_and_lists_what_there_is() {
        let entry = |platform: &str| {
            format!(
                r#"{{"mediaType":"{}","digest":"{DIGEST}","size":7,"platform":{platform}}}"#,
                media_type::OCI_MANIFEST
            )
        };
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{},{}]}}"#,
            entry(r#"{"os":"unknown","architecture":"unknown"}"#),
            entry(r#"{"os":"linux","architecture":"arm","variant":"v6"}"#),
            entry(r#"{"os":"linux","architecture":"arm","variant":"v7"}"#),
        );
        let Document::Index(index) = Document::parse(text.as_bytes(), None).unwrap() else {
            panic!()
        };
        let arm = |variant: &str| Platform {
            os: "linux".into(),
            architecture: "arm".into(),
            variant: Some(variant.into()),
        };
        let chosen = index.choose(&arm("v7")).unwrap().platform.clone().unwrap();
        assert_eq!(chosen.variant.as_deref(), Some("v7"));
        let refused = index.choose(&arm("v5")).unwrap_err();
        assert!(refused.to_string().contains("linux/arm/v6"));
    }
}
