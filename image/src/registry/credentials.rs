//! The secrets of one pull request. They are never printed, never shared between requests, and
//! only offered to the host they are for.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// How a pull proves who it is.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub enum Credentials {
    /// It does not.
    #[default]
    Anonymous,
    /// User and password.
    Basic {
        /// User.
        username: String,
        /// Password.
        password: String,
    },
    /// An OAuth2 refresh token, exchanged at the registry's token service.
    IdentityToken(String),
    /// A bearer token for the registry itself.
    RegistryToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic(..)",
            Self::IdentityToken(_) => "IdentityToken(..)",
            Self::RegistryToken(_) => "RegistryToken(..)",
        })
    }
}

/// The fields clients send (CRI's AuthConfig, Docker's config.json); empty means absent.
#[derive(Clone, Default)]
pub struct AuthFields {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// base64 of `user:password`.
    pub auth: String,
    /// The registry these are for, as host or URL; empty means the one that is pulled from.
    pub server_address: String,
    /// See [`Credentials::IdentityToken`].
    pub identity_token: String,
    /// See [`Credentials::RegistryToken`].
    pub registry_token: String,
}

impl fmt::Debug for AuthFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFields")
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// Why the fields make no credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// `auth` cannot be decoded.
    #[error("auth.auth: must be base64 of user:password")]
    Auth,
    /// A line break would end the header it is sent in.
    #[error("auth: credentials must not contain control characters")]
    Control,
}

impl Credentials {
    /// The credentials for a pull from `registry` (as in its reference).
    ///
    /// Fields meant for another server are not used.
    ///
    /// # Errors
    /// Malformed fields.
    pub fn from_fields(fields: AuthFields, registry: &str) -> Result<Self, CredentialsError> {
        if !fields.server_address.is_empty() && !same_host(&fields.server_address, registry) {
            return Ok(Self::Anonymous);
        }
        let credentials = if !fields.registry_token.is_empty() {
            Self::RegistryToken(fields.registry_token)
        } else if !fields.identity_token.is_empty() {
            Self::IdentityToken(fields.identity_token)
        } else if !fields.username.is_empty() || !fields.password.is_empty() {
            Self::Basic {
                username: fields.username,
                password: fields.password,
            }
        } else if !fields.auth.is_empty() {
            decode(&fields.auth)?
        } else {
            Self::Anonymous
        };
        let clean = |text: &str| !text.chars().any(char::is_control);
        let fine = match &credentials {
            Self::Anonymous => true,
            Self::Basic { username, password } => clean(username) && clean(password),
            Self::IdentityToken(token) | Self::RegistryToken(token) => clean(token),
        };
        if fine {
            Ok(credentials)
        } else {
            Err(CredentialsError::Control)
        }
    }
}

fn decode(auth: &str) -> Result<Credentials, CredentialsError> {
    let bytes = STANDARD.decode(auth.trim()).map_err(|_| CredentialsError::Auth)?;
    let text = String::from_utf8(bytes).map_err(|_| CredentialsError::Auth)?;
    let (username, password) = text.split_once(':').ok_or(CredentialsError::Auth)?;
    // Some writers pad the password with NULs.
    let password = password.trim_end_matches('\0');
    Ok(Credentials::Basic {
        username: username.into(),
        password: password.into(),
    })
}

/// `https://index.docker.io/v1/` and `docker.io` are the same server.
pub(super) fn same_host(server: &str, registry: &str) -> bool {
    let host = |text: &str| {
        let text = text.split_once("://").map_or(text, |(_, rest)| rest);
        let host = text.split('/').next().unwrap_or_default().to_ascii_lowercase();
        match host.as_str() {
            "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
            _ => host,
        }
    };
    host(server) == host(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Credentials {
        Credentials::Basic {
            username: username.into(),
            password: password.into(),
        }
    }

    #[test]
    fn reads_every_form() {
        let from = |fields| Credentials::from_fields(fields, "quay.io").unwrap();
        assert_eq!(from(AuthFields::default()), Credentials::Anonymous);
        let plain = AuthFields {
            username: "u".into(),
            password: "p".into(),
            ..AuthFields::default()
        };
        assert_eq!(from(plain), basic("u", "p"));
        let coded = AuthFields {
            auth: STANDARD.encode("u:p:q"),
            ..AuthFields::default()
        };
        assert_eq!(from(coded), basic("u", "p:q"));
        let bad = AuthFields {
            auth: "!".into(),
            ..AuthFields::default()
        };
        assert_eq!(
            Credentials::from_fields(bad, "quay.io"),
            Err(CredentialsError::Auth)
        );
        let split = AuthFields {
            registry_token: "a\r\nHost: b".into(),
            ..AuthFields::default()
        };
        assert_eq!(
            Credentials::from_fields(split, "quay.io"),
            Err(CredentialsError::Control)
        );
    }

    #[test]
    fn are_not_used_for_another_server() {
        let fields = |server: &str| AuthFields {
            username: "u".into(),
            server_address: server.into(),
            ..AuthFields::default()
        };
        let used = |server, registry| Credentials::from_fields(fields(server), registry).unwrap();
        assert_eq!(used("https://index.docker.io/v1/", "docker.io"), basic("u", ""));
        assert_eq!(used("quay.io", "quay.io"), basic("u", ""));
        assert_eq!(used("quay.io", "quay.io.evil.example"), Credentials::Anonymous);
        assert_eq!(used("localhost:5000", "localhost:5001"), Credentials::Anonymous);
    }

    #[test]
    fn never_show() {
        let shown = format!("{:?}", basic("name", "secret"));
        assert!(!shown.contains("secret") && !shown.contains("name"));
    }
}
