//! The API on a port: only with TLS on both sides, since whoever may use it is root of this host.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why the port cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// A file has no usable certificate or key.
    #[error("no PEM {what} in {}", path.display())]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// The certificates of the authority cannot be used.
    #[error("the authority of the Docker API's clients cannot be used")]
    Authority(#[from] rustls::server::VerifierBuilderError),
    /// The certificate or its key cannot be used.
    #[error("the certificate of the Docker API cannot be used")]
    Tls(#[from] rustls::Error),
}

/// A port for clients that show a certificate of an authority (`docker --tlsverify`).
#[derive(Debug, Clone)]
pub struct Remote {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Arc<rustls::ServerConfig>,
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RemoteError> {
    let wrong = |source| RemoteError::Pem { what: "certificate", path: path.to_owned(), source };
    let all: Vec<_> = CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    match all.is_empty() {
        true => Err(wrong(rustls_pki_types::pem::Error::NoItemsFound)),
        false => Ok(all),
    }
}

impl Remote {
    /// Serves on `address` with the certificate and key of these files, for those whose certificates are of `authority`.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub fn read(address: SocketAddr, authority: &Path, certificate: &Path, key: &Path) -> Result<Self, RemoteError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        for one in certificates(authority)? {
            roots.add(one)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|source| RemoteError::Pem {
            what: "key",
            path: key.to_owned(),
            source,
        })?;
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(certificate)?, key)?;
        // Attached streams are upgrades of HTTP/1.1.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Remote { address, tls: Arc::new(tls) })
    }
}
