//! Certificates by server name.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::route::{CertificateError, CertificatePem, RouteTable};
use crate::state::Current;

/// The loaded certificates of a table.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    loaded: Vec<(CertificatePem, Arc<CertifiedKey>)>,
    by_host: HashMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Loads the certificates of the table, those that are the same from `previous`. One that cannot be loaded is left
    /// out, with its host, for the log.
    pub fn load(table: &RouteTable, previous: &Certificates) -> (Self, Vec<(String, CertificateError)>) {
        let mut now = Certificates::default();
        let mut bad = Vec::new();
        for (host, pem) in &table.certificates {
            match now.get_or_load(pem, previous) {
                Ok(key) => drop(now.by_host.insert(host.clone(), key)),
                Err(error) => bad.push((host.clone(), error)),
            }
        }
        if let Some(pem) = &table.default_certificate {
            match now.get_or_load(pem, previous) {
                Ok(key) => now.default = Some(key),
                Err(error) => bad.push((String::new(), error)),
            }
        }
        (now, bad)
    }

    fn get_or_load(&mut self, pem: &CertificatePem, previous: &Self) -> Result<Arc<CertifiedKey>, CertificateError> {
        let known = |list: &[(CertificatePem, Arc<CertifiedKey>)]| {
            list.iter().find(|(p, _)| p == pem).map(|(_, key)| key.clone())
        };
        if let Some(key) = known(&self.loaded) {
            return Ok(key);
        }
        let key = match known(&previous.loaded) {
            Some(key) => key,
            None => Arc::new(load(pem)?),
        };
        self.loaded.push((pem.clone(), key.clone()));
        Ok(key)
    }

    /// The certificate for a name: its own, that of the wildcard one label up, or the default.
    pub fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            self.by_host.get(&name).or_else(|| {
                let (_, rest) = name.split_once('.')?;
                self.by_host.get(&format!("*.{rest}"))
            })
        });
        named.or(self.default.as_ref()).cloned()
    }
}

/// Reads a chain and its key.
pub(crate) fn load(pem: &CertificatePem) -> Result<CertifiedKey, CertificateError> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&pem.chain).collect::<Result<_, _>>().map_err(|_| CertificateError::BadChain)?;
    if chain.is_empty() {
        return Err(CertificateError::BadChain);
    }
    let key = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|_| CertificateError::BadKey)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|e| CertificateError::KeyMismatch(e.to_string()))
}

fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// Looks into the state in force at each handshake.
#[derive(Debug)]
struct Resolver(Current);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().certificates.find(hello.server_name())
    }
}

/// HTTP/2 and HTTP/1.1 over TLS 1.2 and 1.3.
pub(crate) fn server_config(state: Current) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver(state)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(names: &[&str]) -> CertificatePem {
        let made = rcgen::generate_simple_self_signed(names.iter().map(ToString::to_string).collect::<Vec<_>>())
            .expect("a certificate");
        CertificatePem {
            chain: made.cert.pem().into_bytes().into(),
            key: made.signing_key.serialize_pem().into_bytes().into(),
        }
    }

    #[test]
    fn a_name_finds_its_certificate_then_the_wildcard_then_the_default() {
        let (own, wild, default) = (pem(&["a.example"]), pem(&["*.example"]), pem(&["default"]));
        let mut table = RouteTable::default();
        table.certificates.insert("a.example".into(), own.clone());
        table.certificates.insert("*.example".into(), wild.clone());
        table.default_certificate = Some(default.clone());
        let (certificates, bad) = Certificates::load(&table, &Certificates::default());
        assert_eq!(bad, []);
        let chain = |pem: &CertificatePem| load(pem).expect("loads").cert;
        for (name, pem) in
            [(Some("A.example"), &own), (Some("b.example"), &wild), (Some("x.b.example"), &default), (None, &default)]
        {
            assert_eq!(certificates.find(name).expect("one").cert, chain(pem), "{name:?}");
        }
        let (again, _) = Certificates::load(&table, &certificates);
        assert!(
            Arc::ptr_eq(&again.find(None).expect("one"), &certificates.find(None).expect("one")),
            "not loaded twice"
        );
    }

    #[test]
    fn a_bad_certificate_spoils_only_its_host() {
        let (good, other) = (pem(&["good"]), pem(&["other"]));
        let mut table = RouteTable::default();
        table.certificates.insert("good".into(), good.clone());
        let bad = [
            (
                "text",
                CertificatePem { chain: b"hello".as_slice().into(), key: good.key.clone() },
                CertificateError::BadChain,
            ),
            (
                "keyless",
                CertificatePem { chain: good.chain.clone(), key: b"".as_slice().into() },
                CertificateError::BadKey,
            ),
        ];
        for (host, pem, _) in &bad {
            table.certificates.insert((*host).into(), pem.clone());
        }
        let mixed = CertificatePem { chain: good.chain.clone(), key: other.key };
        table.certificates.insert("mixed".into(), mixed);
        let (certificates, found) = Certificates::load(&table, &Certificates::default());
        assert!(certificates.find(Some("good")).is_some());
        assert!(certificates.find(Some("text")).is_none());
        for (host, _, error) in bad {
            assert!(found.contains(&(host.to_owned(), error)), "{host}: {found:?}");
        }
        assert!(found.iter().any(|(host, e)| host == "mixed" && matches!(e, CertificateError::KeyMismatch(_))));
    }
}
