//! Where etcd is and how it is spoken to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::EtcdError;

/// Most endpoints that may be named; etcd advises against more than seven members.
pub const ENDPOINTS_MAX: usize = 16;
const PORT: u16 = 2379;

/// Settings of an [`EtcdStore`](super::EtcdStore).
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// URLs of members, `https://HOST:PORT` or `http://HOST:PORT`. When one does not answer, the next is asked.
    pub endpoints: Vec<String>,
    /// Certificates (PEM) that the members' are checked against; needed for `https`.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate and its key (PEM), if the members ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Begins every key; several clusters may share one etcd.
    pub prefix: String,
    /// Largest value in bytes.
    pub max_value_bytes: usize,
    /// How long connecting to one member may take.
    pub dial_timeout: Duration,
    /// How long a call may take, attempts at other members included.
    pub call_timeout: Duration,
}

impl EtcdConfig {
    /// Settings with defaults for what is not given.
    pub fn new(endpoints: Vec<String>, prefix: &str) -> Self {
        EtcdConfig {
            endpoints,
            ca_file: None,
            identity: None,
            prefix: prefix.to_owned(),
            max_value_bytes: crate::DEFAULT_MAX_VALUE_BYTES,
            dial_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(20),
        }
    }

    /// The endpoints, parsed.
    pub(super) fn parsed(&self) -> Result<Vec<Endpoint>, EtcdError> {
        if self.endpoints.is_empty() || self.endpoints.len() > ENDPOINTS_MAX {
            return Err(EtcdError::Endpoints(self.endpoints.len()));
        }
        self.endpoints.iter().map(|url| Endpoint::parse(url)).collect()
    }

    /// The prefix without a slash at its end, so that `/windlass` and `/windlass/` are the same place.
    pub(super) fn prefix(&self) -> Result<&str, EtcdError> {
        let prefix = self.prefix.trim_end_matches('/');
        if !prefix.starts_with('/') || prefix.len() > crate::MAX_KEY_BYTES / 8 {
            return Err(EtcdError::Prefix(self.prefix.clone()));
        }
        Ok(prefix)
    }

    /// What TLS is done with; `None` when no endpoint wants it.
    pub(super) fn tls(&self, endpoints: &[Endpoint]) -> Result<Option<Tls>, EtcdError> {
        let Some(secure) = endpoints.iter().find(|e| e.https) else { return Ok(None) };
        let Some(ca_file) = &self.ca_file else { return Err(EtcdError::NoCa(secure.url.clone())) };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca_file)? {
            roots.add(certificate).map_err(|_| EtcdError::Pem { path: ca_file.clone(), what: "certificate" })?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(EtcdError::Tls)?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            Some((cert_file, key_file)) => {
                let key = read(key_file)?;
                let key = PrivateKeyDer::from_pem_slice(&key)
                    .map_err(|_| EtcdError::Pem { path: key_file.clone(), what: "private key" })?;
                builder.with_client_auth_cert(certificates(cert_file)?, key).map_err(EtcdError::Tls)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Some(Tls(Arc::new(config))))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, EtcdError> {
    std::fs::read(path).map_err(|source| EtcdError::File { path: path.to_path_buf(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, EtcdError> {
    let malformed = || EtcdError::Pem { path: path.to_path_buf(), what: "certificate" };
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(|_| malformed())?;
    if found.is_empty() { Err(malformed()) } else { Ok(found) }
}

/// What TLS is done with.
pub struct Tls(pub Arc<ClientConfig>);

/// One member.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// As it is shown, and what requests are addressed to: scheme, host and port.
    pub url: String,
    /// Name or address; an IPv6 address in brackets, as in a URL.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// With TLS.
    pub https: bool,
    /// What the member's certificate must be for.
    pub server_name: ServerName<'static>,
}

impl Endpoint {
    fn parse(url: &str) -> Result<Self, EtcdError> {
        let bad = || EtcdError::Endpoint(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad());
        }
        let (host, port) = (authority.host().to_owned(), authority.port_u16().unwrap_or(PORT));
        let server_name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| bad())?;
        let scheme = if https { "https" } else { "http" };
        Ok(Endpoint { url: format!("{scheme}://{host}:{port}"), host, port, https, server_name })
    }

    /// Whether it is on this host.
    pub fn is_local(&self) -> bool {
        let host = self.dial_host();
        host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    }

    /// The host as the resolver wants it.
    pub fn dial_host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_of_a_host_and_nothing_more() {
        for (given, wanted) in [
            ("https://etcd-1.example:2379", "https://etcd-1.example:2379"),
            ("http://127.0.0.1", "http://127.0.0.1:2379"),
            ("https://[::1]:23790/", "https://[::1]:23790"),
        ] {
            assert_eq!(Endpoint::parse(given).unwrap().url, wanted);
        }
        assert_eq!(Endpoint::parse("https://[::1]:1").unwrap().dial_host(), "::1");
        let local = |url: &str| Endpoint::parse(url).unwrap().is_local();
        assert!(local("http://[::1]") && local("http://127.0.0.1") && local("http://localhost"));
        assert!(!local("http://10.0.0.1") && !local("http://etcd"));
        for given in ["", "127.0.0.1:2379", "ftp://a:1", "https://", "https://u:p@a:1", "https://a:1/x", "http://a?x=1"]
        {
            assert!(Endpoint::parse(given).is_err(), "{given}");
        }
    }

    #[test]
    fn a_prefix_begins_with_a_slash_and_loses_the_last() {
        let with = |prefix: &str| EtcdConfig::new(vec![], prefix).prefix().map(str::to_owned).ok();
        assert_eq!(with("/windlass/"), Some("/windlass".into()));
        assert_eq!(with("/a/b"), Some("/a/b".into()));
        for bad in ["", "/", "windlass"] {
            assert_eq!(with(bad), None, "{bad}");
        }
    }

    #[test]
    fn tls_without_an_authority_is_refused() {
        let config = EtcdConfig::new(vec!["https://etcd:2379".into()], "/w");
        let error = config.tls(&config.parsed().unwrap()).err().unwrap();
        assert!(matches!(error, EtcdError::NoCa(_)), "{error}");
    }
}
