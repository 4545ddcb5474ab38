//! The image configuration (image-spec, config.md): what a container of it runs by default, and
//! the digests of its unpacked layers. Its own digest is the image's id.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::digest::Digest;
use crate::document::{self, DocumentError};
use crate::manifest::MOST_LAYERS;
use crate::platform::Platform;

/// The parts of an image's configuration that a runtime uses. Every text of it is the word of a
/// stranger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// Where it runs.
    pub platform: Platform,
    /// RFC 3339, as the builder wrote it.
    pub created: Option<String>,
    /// What a container runs by default.
    pub process: ProcessDefaults,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

/// The `config` object of an image configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProcessDefaults {
    /// `user`, `uid`, `user:group`, `uid:gid`, ... as written.
    #[serde(deserialize_with = "document::nullable")]
    pub user: String,
    /// `NAME=value`.
    #[serde(deserialize_with = "document::nullable")]
    pub env: Vec<String>,
    /// The first words of the command line.
    #[serde(deserialize_with = "document::nullable")]
    pub entrypoint: Vec<String>,
    /// Its arguments, or the whole command line.
    #[serde(deserialize_with = "document::nullable")]
    pub cmd: Vec<String>,
    /// The directory to start in.
    #[serde(deserialize_with = "document::nullable")]
    pub working_dir: String,
    /// Paths that want a volume of their own.
    #[serde(deserialize_with = "keys")]
    pub volumes: BTreeSet<String>,
    /// `80/tcp`.
    #[serde(deserialize_with = "keys")]
    pub exposed_ports: BTreeSet<String>,
    /// Remarks. They never reach the control plane.
    #[serde(deserialize_with = "document::nullable")]
    pub labels: BTreeMap<String, String>,
    /// `SIGTERM`, `15`.
    #[serde(deserialize_with = "document::nullable")]
    pub stop_signal: Option<String>,
}

/// A set written the way Go does: `{"name": {}}`.
fn keys<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    let map: BTreeMap<String, serde::de::IgnoredAny> = document::nullable(deserializer)?;
    Ok(map.into_keys().collect())
}

/// Whom the processes of an image run as when nobody says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageUser {
    /// A number; what is all digits never falls back to being a name.
    Uid(u32),
    /// A name to look up in the image's `/etc/passwd`.
    Name(String),
}

#[derive(Deserialize)]
struct Raw {
    architecture: String,
    os: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default, deserialize_with = "document::nullable")]
    config: ProcessDefaults,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "document::nullable")]
    diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Parses a configuration document.
    ///
    /// # Errors
    /// [`DocumentError`] when it is malformed, has too many layers, or a root that is not made
    /// of layers.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let raw: Raw = document::parse(bytes)?;
        if raw.rootfs.kind != "layers" {
            let kind: String = raw.rootfs.kind.chars().take(40).collect();
            return Err(DocumentError::Unsupported(format!("rootfs of type {kind:?}")));
        }
        if raw.rootfs.diff_ids.len() > MOST_LAYERS {
            return Err(DocumentError::TooManyLayers {
                found: raw.rootfs.diff_ids.len(),
            });
        }
        let platform = Platform {
            os: raw.os,
            architecture: raw.architecture,
            variant: raw.variant,
        };
        Ok(Self {
            platform,
            created: raw.created,
            process: raw.config,
            diff_ids: raw.rootfs.diff_ids,
        })
    }

    /// The default user, `None` for root by default or for a number that no kernel has.
    #[must_use]
    pub fn user(&self) -> Option<ImageUser> {
        let user = self.process.user.split(':').next().unwrap_or_default();
        if user.is_empty() {
            return None;
        }
        if user.bytes().all(|b| b.is_ascii_digit()) {
            return user.parse().ok().filter(|uid| *uid < 1 << 31).map(ImageUser::Uid);
        }
        Some(ImageUser::Name(user.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_user(user: &str) -> Option<ImageUser> {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"User":"{user}","Env":null,
                "Volumes":{{"/data":{{}}}}}},"rootfs":{{"type":"layers","diff_ids":null}}}}"#
        );
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert!(config.process.volumes.contains("/data"));
        config.user()
    }

    #[test]
    fn numeric_users_stay_numbers() {
        assert_eq!(with_user(""), None);
        assert_eq!(with_user("1000:1000"), Some(ImageUser::Uid(1000)));
        assert_eq!(with_user("2147483647"), Some(ImageUser::Uid(2_147_483_647)));
        for absurd in ["2147483648", "4294967296", "18446744073709551616"] {
            assert_eq!(with_user(absurd), None);
        }
        assert_eq!(with_user("nobody:1"), Some(ImageUser::Name("nobody".into())));
        assert_eq!(with_user("0x0"), Some(ImageUser::Name("0x0".into())));
    }

    #[test]
    fn config_may_be_null_but_not_the_root() {
        let minimal = r#"{"architecture":"amd64","os":"linux","config":null,"rootfs":{"type":"layers"}}"#;
        let config = ImageConfig::parse(minimal.as_bytes()).unwrap();
        assert!(config.diff_ids.is_empty());
        let rootless = r#"{"architecture":"amd64","os":"linux"}"#;
        assert!(matches!(
            ImageConfig::parse(rootless.as_bytes()),
            Err(DocumentError::Malformed(_))
        ));
    }
}
