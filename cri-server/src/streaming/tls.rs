//! TLS for streaming clients, from files that may be replaced while the daemon runs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;
use crate::{Error, Result};

/// A certificate and its key, as they are on disk now.
pub struct Tls {
    files: TlsFiles,
    current: Mutex<(Stamp, TlsAcceptor)>,
}

/// Tells one state of the two files from another: device, inode, size and time of each. Followed through symbolic links,
/// since secrets are replaced by turning one.
type Stamp = [Option<(u64, u64, u64, i64, i64)>; 2];

impl Tls {
    /// Loads both files.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the file and what is wrong with it.
    pub fn load(files: &TlsFiles) -> Result<Self> {
        let stamp = stamp(files);
        Ok(Self {
            current: Mutex::new((stamp, acceptor(files)?)),
            files: files.clone(),
        })
    }

    /// For the next connection: what the files hold now, or what they held when they last fitted together.
    pub fn acceptor(&self) -> TlsAcceptor {
        let now = stamp(&self.files);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != now {
            match acceptor(&self.files) {
                Ok(fresh) => *current = (now, fresh),
                // Between the replacement of the one and of the other they do not fit: the next connection tries again.
                Err(error) => tracing::warn!(%error, "streaming goes on with the certificate it has"),
            }
        }
        current.1.clone()
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    [&files.certificate, &files.key].map(|path| {
        let file = fs::metadata(path).ok()?;
        Some((
            file.dev(),
            file.ino(),
            file.size(),
            file.mtime(),
            file.mtime_nsec(),
        ))
    })
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor> {
    let wrong = |key: &str, problem: String| Error::invalid(format!("streaming.{key}"), problem);
    let certificates = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| {
            wrong(
                "tls_certificate",
                format!("{}: {error}", files.certificate.display()),
            )
        })?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| wrong("tls_key", format!("{}: {error}", files.key.display())))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_no_client_auth())
        .and_then(|builder| builder.with_single_cert(certificates, key))
        .map_err(|error| wrong("tls_certificate", format!("does not fit the key: {error}")))?;
    // Upgrades exist in HTTP/1.1 only.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
