//! TLS, and who may use the server: the API server and administrators, by client certificate.

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::access::User;
use super::{ServerConfig, ServerError};

const GROUP: &str = "system:masters";
const API_SERVER: &str = "windlass-apiserver";

/// What a client's certificate says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// It showed none.
    Nobody,
    /// It may use the server.
    Trusted,
    /// Somebody else, who may what the API server says.
    Stranger(User),
}

/// TLS settings.
///
/// # Errors
/// A certificate or key is unusable.
pub fn tls(config: &ServerConfig) -> Result<Arc<rustls::ServerConfig>, ServerError> {
    let chain = |what: &'static str, pem: &str| {
        CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| ServerError::Pem { what, source })
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for ca in chain("authority", &config.ca_pem)? {
        roots.add(ca)?;
    }
    // Without a certificate one may still ask for the server's health.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let key = PrivateKeyDer::from_pem_slice(config.key_pem.as_bytes())
        .map_err(|source| ServerError::Pem { what: "key", source })?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain("certificate", &config.cert_pem)?, key)?;
    // Upgrades need HTTP/1.1.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

/// Judges a certificate that the TLS handshake has verified.
pub fn identity(certificate: Option<&CertificateDer<'_>>) -> Identity {
    let Some(certificate) = certificate else { return Identity::Nobody };
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Identity::Nobody };
    let subject = parsed.subject();
    let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
    let groups: Vec<String> = subject.iter_organization().filter_map(|g| g.as_str().ok().map(str::to_owned)).collect();
    if groups.iter().any(|g| g == GROUP) || name == API_SERVER {
        return Identity::Trusted;
    }
    Identity::Stranger(User::of_certificate(name.to_owned(), groups))
}
