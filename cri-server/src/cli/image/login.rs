//! The credentials of whoever types the command: what `docker login`, `podman login` or `skopeo login`
//! wrote down, in the first of
//!
//! | file | when |
//! |---|---|
//! | `$REGISTRY_AUTH_FILE` | it is set |
//! | `$DOCKER_CONFIG/config.json` | it is set |
//! | `$XDG_RUNTIME_DIR/containers/auth.json` | there is one |
//! | `~/.docker/config.json` | there is one |
//!
//! that knows the registry.

use std::env::var_os;
use std::path::PathBuf;

use cri_api::admin::Login;
use image::{Credentials, DockerConfig, Reference};

use super::super::{CliError, Result};

/// What to log in with; `None` is anonymous.
pub(super) async fn login(reference: &Reference) -> Result<Option<Login>> {
    for file in files() {
        let failed = |error: image::RegistryError| CliError::Login(error.to_string());
        let Some(config) = DockerConfig::read(&file).map_err(failed)? else {
            continue;
        };
        let found = config
            .credentials(reference.registry(), reference)
            .await
            .map_err(failed)?;
        let login = match found {
            Credentials::Anonymous => continue,
            Credentials::Basic { username, password } => Login {
                username,
                password,
                ..Login::default()
            },
            Credentials::IdentityToken(identity_token) => Login {
                identity_token,
                ..Login::default()
            },
            Credentials::RegistryToken(registry_token) => Login {
                registry_token,
                ..Login::default()
            },
        };
        return Ok(Some(login));
    }
    Ok(None)
}

fn files() -> Vec<PathBuf> {
    if let Some(file) = var_os("REGISTRY_AUTH_FILE") {
        return vec![file.into()];
    }
    if let Some(folder) = var_os("DOCKER_CONFIG") {
        return vec![PathBuf::from(folder).join("config.json")];
    }
    let below = |variable: &str, path: &str| var_os(variable).map(|folder| PathBuf::from(folder).join(path));
    [
        below("XDG_RUNTIME_DIR", "containers/auth.json"),
        below("HOME", ".docker/config.json"),
    ]
    .into_iter()
    .flatten()
    .collect()
}
