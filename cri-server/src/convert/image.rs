//! Images: from the store's view of them to CRI's, and who logs in to a registry.

use cri_api::{admin, v1};
use image::config::ImageUser;
use image::{AuthFields, Credentials, Image, Reference};

use crate::{Error, Result};

/// The row of a listing, and the status.
pub fn listed(image: &Image) -> v1::Image {
    let (uid, username) = match image.config.user() {
        Some(ImageUser::Uid(uid)) => (
            Some(v1::Int64Value {
                value: i64::from(uid),
            }),
            String::new(),
        ),
        Some(ImageUser::Name(name)) => (None, name),
        None => (None, String::new()),
    };
    v1::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid,
        username,
        spec: Some(v1::ImageSpec {
            image: image.id.to_string(),
            ..v1::ImageSpec::default()
        }),
        pinned: image.pinned,
    }
}

/// The credentials of a CRI call for a registry.
///
/// # Errors
/// [`Error::Invalid`] for fields that are malformed.
pub fn credentials(auth: Option<v1::AuthConfig>, registry: &str) -> Result<Credentials> {
    let Some(auth) = auth else {
        return Ok(Credentials::Anonymous);
    };
    let fields = AuthFields {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    };
    Credentials::from_fields(fields, registry).map_err(|error| Error::invalid("auth", error.to_string()))
}

/// What an admin call names at a registry, and as whom.
///
/// # Errors
/// [`Error::Image`] for a malformed name, [`Error::Invalid`] for malformed credentials.
pub fn target(name: &str, login: Option<admin::Login>) -> Result<(Reference, Credentials)> {
    let reference: Reference = name.parse().map_err(image::Error::from)?;
    let auth = login.map(|login| v1::AuthConfig {
        username: login.username,
        password: login.password,
        identity_token: login.identity_token,
        registry_token: login.registry_token,
        ..v1::AuthConfig::default()
    });
    let credentials = credentials(auth, reference.registry())?;
    Ok((reference, credentials))
}
