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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore};
    use tokio_rustls::TlsConnector;

    use super::*;

    /// Keys that guard nothing: made for these tests, for the name `localhost`.
    const ONE: [&str; 2] = [include_str!("fixtures/one.crt"), include_str!("fixtures/one.key")];
    const TWO: [&str; 2] = [include_str!("fixtures/two.crt"), include_str!("fixtures/two.key")];

    fn certificate(pair: [&str; 2]) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pair[0].as_bytes()).expect("a certificate")
    }

    /// What a client is shown that trusts both.
    async fn shown(tls: &Tls) -> CertificateDer<'static> {
        let mut roots = RootCertStore::empty();
        for pair in [ONE, TWO] {
            roots.add(certificate(pair)).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (near, far) = tokio::io::duplex(1 << 16);
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = TlsConnector::from(Arc::new(config));
        let (client, server) = tokio::join!(connector.connect(name, near), tls.acceptor().accept(far));
        server.expect("the server's side");
        let client = client.expect("the client's side");
        let shown = client.get_ref().1.peer_certificates().expect("it was shown one");
        shown[0].clone().into_owned()
    }

    fn write(directory: &Path, name: &str, text: &str) {
        // Replaced as tools do it: a new file under the old name.
        let fresh = directory.join("fresh");
        fs::write(&fresh, text).expect("written");
        fs::rename(fresh, directory.join(name)).expect("renamed");
    }

    #[tokio::test]
    async fn files_are_read_again_when_they_change() {
        let directory = tempfile::tempdir().expect("a directory");
        let put = |name, text| write(directory.path(), name, text);
        let files = TlsFiles {
            certificate: directory.path().join("crt"),
            key: directory.path().join("key"),
        };
        let problem = Tls::load(&files)
            .map(drop)
            .expect_err("nothing there")
            .to_string();
        assert!(problem.contains("tls_certificate"), "{problem}");
        put("crt", ONE[0]);
        put("key", ONE[1]);
        let tls = Tls::load(&files).expect("a pair");
        assert_eq!(shown(&tls).await, certificate(ONE));
        put("crt", TWO[0]);
        assert_eq!(shown(&tls).await, certificate(ONE), "while the two do not fit");
        put("key", TWO[1]);
        assert_eq!(shown(&tls).await, certificate(TWO));
        fs::remove_file(&files.key).expect("removed");
        assert_eq!(
            shown(&tls).await,
            certificate(TWO),
            "as long as nothing better comes"
        );
    }
}
