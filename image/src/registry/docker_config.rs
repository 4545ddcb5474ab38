//! Docker's `config.json`: who may log in where. Written by `docker login`, `skopeo login` and the
//! like; secrets in it, or in the keeping of helper programs (`docker-credential-NAME`).
//!
//! Asked in this order: the helper of just this registry (`credHelpers`), the helper of all
//! (`credsStore`), the file itself (`auths`). A key of `auths` may name a host, a URL, or a host with
//! the beginning of a repository's name; the longest that fits counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::RegistryError;
use super::credentials::{AuthFields, Credentials, same_host};
use crate::document;
use crate::external::{Program, inherited, one_line};
use crate::reference::Reference;

/// Under which Docker Hub's credentials are kept by everyone.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// The user name that marks a secret as an identity token.
const TOKEN_USER: &str = "<token>";
const LARGEST_FILE: u64 = 1 << 20;
/// A helper may have to ask a cloud, not a person.
pub(super) const HELPER_LIMIT: Duration = Duration::from_secs(30);

/// A `config.json` that was read.
#[derive(Deserialize)]
pub struct DockerConfig {
    #[serde(skip)]
    file: PathBuf,
    #[serde(skip)]
    folder: Option<PathBuf>,
    #[serde(skip, default = "helper_limit")]
    limit: Duration,
    #[serde(default, deserialize_with = "document::nullable")]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
    #[serde(default, rename = "credHelpers", deserialize_with = "document::nullable")]
    helpers: BTreeMap<String, String>,
}

fn helper_limit() -> Duration {
    HELPER_LIMIT
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What a helper answers to `get`.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

impl std::fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerConfig")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl DockerConfig {
    /// Reads the file; `None` when there is none. Blocks.
    ///
    /// # Errors
    /// [`RegistryError::Config`] for a file that cannot be read or is no such configuration.
    pub fn read(file: &Path) -> Result<Option<Self>, RegistryError> {
        let wrong = |problem: String| RegistryError::Config {
            file: file.into(),
            problem,
        };
        let bytes = match std::fs::metadata(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Ok(metadata) if metadata.len() > LARGEST_FILE => return Err(wrong("it is too large".into())),
            _ => std::fs::read(file).map_err(|error| wrong(error.to_string()))?,
        };
        let mut config: Self = serde_json::from_slice(&bytes)
            // The parser's text may quote what it found: that is a secret here.
            .map_err(|error| wrong(format!("malformed at line {}", error.line())))?;
        config.file = file.into();
        Ok(Some(config))
    }

    /// Takes helpers from this folder, not from PATH, and gives each so much time.
    #[must_use]
    pub fn helpers(mut self, folder: Option<&Path>, limit: Duration) -> Self {
        self.folder = folder.map(Path::to_owned);
        self.limit = limit;
        self
    }

    /// The credentials for `reference` at `host` (`docker.io`, or the host of a mirror).
    ///
    /// # Errors
    /// A helper that fails, or a malformed entry.
    pub async fn credentials(&self, host: &str, reference: &Reference) -> Result<Credentials, RegistryError> {
        let own = self.helpers.iter().find(|(key, _)| same_host(key, host));
        if let Some(helper) = own.map(|(_, helper)| helper).or(self.store.as_ref())
            && let Some(found) = self.ask(helper, host).await?
        {
            return Ok(found);
        }
        let repository = reference.repository();
        let fitting = self
            .auths
            .iter()
            .filter_map(|(key, entry)| Some((fits(key, host, repository)?, entry)))
            .max_by_key(|(length, _)| *length);
        let Some((_, entry)) = fitting else {
            return Ok(Credentials::Anonymous);
        };
        let entry = entry.clone();
        let fields = AuthFields {
            username: entry.username,
            password: entry.password,
            auth: entry.auth,
            identity_token: entry.identitytoken,
            registry_token: entry.registrytoken,
            ..AuthFields::default()
        };
        Credentials::from_fields(fields, host).map_err(|error| RegistryError::Config {
            file: self.file.clone(),
            problem: format!("auths of {host:?}: {error}"),
        })
    }

    /// `None` when the helper knows nothing of the host.
    async fn ask(&self, helper: &str, host: &str) -> Result<Option<Credentials>, RegistryError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if helper.is_empty() || !helper.bytes().all(plain) {
            return Err(RegistryError::Config {
                file: self.file.clone(),
                problem: format!("{helper:?} is no name of a credential helper"),
            });
        }
        let name = PathBuf::from(format!("docker-credential-{helper}"));
        let name = self
            .folder
            .as_ref()
            .map_or(name.clone(), |folder| folder.join(&name));
        let failed = |problem: String| RegistryError::Helper {
            registry: host.into(),
            helper: helper.into(),
            problem,
        };
        let server = if host == "docker.io" { DOCKER_HUB } else { host };
        // Helpers keep secrets in the home directory or in the session's key ring.
        let environment = ["HOME", "USER", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"];
        let program = Program {
            name: &name,
            arguments: vec!["get".into()],
            environment: environment.into_iter().filter_map(inherited).collect(),
            input: format!("{server}\n").into_bytes(),
            limit: self.limit,
        };
        let said = program.run().await.map_err(|error| failed(error.to_string()))?;
        if !said.success {
            let words = one_line(&said.output);
            // The text is the protocol: helpers know no other way to say so.
            if words.contains("credentials not found") {
                return Ok(None);
            }
            return Err(failed(format!("refused: {}", redacted(&words, &said.complaint))));
        }
        let answer: Answer =
            serde_json::from_slice(&said.output).map_err(|_| failed("answers nonsense".into()))?;
        let fields = if answer.username == TOKEN_USER {
            AuthFields {
                identity_token: answer.secret,
                ..AuthFields::default()
            }
        } else {
            AuthFields {
                username: answer.username,
                password: answer.secret,
                ..AuthFields::default()
            }
        };
        let credentials =
            Credentials::from_fields(fields, host).map_err(|error| failed(error.to_string()))?;
        Ok((credentials != Credentials::Anonymous).then_some(credentials))
    }
}

fn redacted(words: &str, complaint: &[u8]) -> String {
    let text = if words.is_empty() {
        one_line(complaint)
    } else {
        words.into()
    };
    super::answer::without_secrets(&text)
}

/// How much of the repository's name a key of `auths` fits; `None` when it is for something else.
fn fits(key: &str, host: &str, repository: &str) -> Option<usize> {
    if !same_host(key, host) {
        return None;
    }
    let path = key.split_once("://").map_or(key, |(_, rest)| rest);
    let path = path
        .split_once('/')
        .map_or("", |(_, path)| path)
        .trim_matches('/');
    match path {
        "" | "v1" | "v2" => Some(0),
        _ => {
            let rest = repository.strip_prefix(path)?;
            (rest.is_empty() || rest.starts_with('/')).then_some(path.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(json: &str, reference: &str) -> Result<Credentials, RegistryError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, json).unwrap();
        let reference: Reference = reference.parse().unwrap();
        let config = DockerConfig::read(&file)?.unwrap();
        config.credentials(reference.registry(), &reference).await
    }

    fn basic(username: &str, password: &str) -> Credentials {
        Credentials::Basic {
            username: username.into(),
            password: password.into(),
        }
    }

    #[tokio::test]
    async fn the_longest_fitting_entry_counts() {
        // u:p, t:p and d:p.
        let json = r#"{"auths":{
            "quay.io":{"auth":"dTpw"}, "quay.io/team":{"auth":"dDpw"},
            "https://index.docker.io/v1/":{"auth":"ZDpw"},
            "ghcr.io":{"identitytoken":"refresh"}, "gcr.io":{}
        },"HttpHeaders":{"x":"y"}}"#;
        let is = async |reference, expected| assert_eq!(found(json, reference).await.unwrap(), expected);
        is("quay.io/other/app", basic("u", "p")).await;
        is("quay.io/team/app", basic("t", "p")).await;
        is("quay.io/teams/app", basic("u", "p")).await;
        is("busybox", basic("d", "p")).await;
        is("ghcr.io/a", Credentials::IdentityToken("refresh".into())).await;
        is("gcr.io/a", Credentials::Anonymous).await;
        is("quay.io:8443/a", Credentials::Anonymous).await;
        is("quay.io.evil.example/a", Credentials::Anonymous).await;
    }

    #[tokio::test]
    async fn a_malformed_file_is_named_without_its_content() {
        let error = found("{\"auths\":{\"a.io\":{\"auth\": secret}}}", "a.io/a")
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("config.json") && !text.contains("secret"), "{text}");
        let error = found(r#"{"credsStore":"../evil"}"#, "a.io/a").await.unwrap_err();
        assert!(error.to_string().contains("no name of a credential helper"));
        let nowhere = DockerConfig::read(Path::new("/nonexistent/config.json")).unwrap();
        assert!(nowhere.is_none());
    }
}
