//! One HTTP client per way of trusting.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once, OnceLock};

use reqwest::{Certificate, Client, Identity, redirect};

use super::names::Names;
use super::{RegistryConfig, RegistryError};

/// How an endpoint proves itself, and we to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Tls {
    /// Any certificate will do.
    pub(super) skip_verify: bool,
    /// PEM files of further authorities.
    pub(super) authorities: Vec<PathBuf>,
    /// PEM files of our certificate and its key (the same file may hold both).
    pub(super) client: Option<(PathBuf, PathBuf)>,
    /// The endpoint is this machine: no proxy lies between.
    pub(super) direct: bool,
    /// The endpoint speaks plain http.
    pub(super) none: bool,
}

/// The system's authorities, read once.
fn system_authorities() -> &'static [Certificate] {
    static AUTHORITIES: OnceLock<Vec<Certificate>> = OnceLock::new();
    AUTHORITIES.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in found.errors {
            tracing::warn!(%error, "cannot read some of the system's certificate authorities");
        }
        found
            .certs
            .iter()
            .filter_map(|der| Certificate::from_der(der).ok())
            .collect()
    })
}

impl Tls {
    /// A client that follows no redirects (the caller decides what goes where) and resolves
    /// names itself: a static binary cannot use the system's resolver modules.
    pub(super) fn client(
        &self,
        config: &RegistryConfig,
        names: &Names,
        registry: &str,
    ) -> Result<Client, RegistryError> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // Fails when the program chose a provider already, which is just as well.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let mut builder = Client::builder()
            .redirect(redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("crisp/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(config.connect_timeout)
            .dns_resolver(Arc::new(names.clone()));
        if self.direct {
            builder = builder.no_proxy();
        }
        let mut authorities = if self.none {
            Vec::new()
        } else {
            system_authorities().to_vec()
        };
        for file in &self.authorities {
            let found = Certificate::from_pem_bundle(&read(file)?)
                .map_err(|_| config_error(file, "no PEM certificates"))?;
            authorities.extend(found);
        }
        builder = builder
            .tls_certs_only(authorities)
            .tls_danger_accept_invalid_certs(self.skip_verify);
        if let Some((certificate, key)) = &self.client {
            let mut pem = read(certificate)?;
            if key != certificate {
                pem.push(b'\n');
                pem.extend(read(key)?);
            }
            let identity = Identity::from_pem(&pem)
                .map_err(|_| config_error(certificate, "no PEM certificate and key"))?;
            builder = builder.identity(identity);
        }
        builder.build().map_err(|error| RegistryError::Unavailable {
            registry: registry.into(),
            detail: format!("cannot set up a client: {}", super::answer::cause(&error)),
        })
    }
}

fn read(file: &Path) -> Result<Vec<u8>, RegistryError> {
    std::fs::read(file).map_err(|error| config_error(file, &error.to_string()))
}

fn config_error(file: &Path, problem: &str) -> RegistryError {
    RegistryError::Config {
        file: file.into(),
        problem: problem.into(),
    }
}
