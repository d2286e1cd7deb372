//! The route table: which backend a host and path lead to. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

/// A certificate chain with its key, as a `kubernetes.io/tls` Secret has them.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificatePem {
    /// `tls.crt`: the certificate first, then those that lead to its root.
    pub chain: Arc<[u8]>,
    /// `tls.key`.
    pub key: Arc<[u8]>,
}

impl std::fmt::Debug for CertificatePem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CertificatePem({} bytes, key withheld)", self.chain.len())
    }
}

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CertificateError {
    /// No certificate in the PEM text, or one that cannot be read.
    #[error("the certificate is not valid PEM")]
    BadChain,
    /// No private key in the PEM text, or one that cannot be read.
    #[error("the private key is not valid PEM")]
    BadKey,
    /// A key of a kind that is not supported, or one that belongs to another certificate.
    #[error("the private key does not fit: {0}")]
    KeyMismatch(String),
}

/// Something in an Ingress that is not served as it says. For events and logs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Namespace of the Ingress.
    pub namespace: String,
    /// Name of the Ingress.
    pub name: String,
    /// What is wrong, in words.
    pub message: String,
}

/// Where requests can go: the endpoints of one port of one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// `namespace/service:port`, for logs.
    pub name: String,
    /// Sorted, without duplicates. Empty when none is fit.
    pub endpoints: Vec<SocketAddr>,
}

/// Index of a backend in its table.
pub(crate) type BackendIndex = usize;

/// Everything the server needs to know.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    pub(crate) backends: Vec<Backend>,
    pub(crate) exact_hosts: HashMap<String, HostRoutes>,
    /// By what follows the `*.`; the star stands for one label.
    pub(crate) wildcard_hosts: HashMap<String, HostRoutes>,
    pub(crate) any_host: HostRoutes,
    /// By host as in the Ingress, `*.example.com` included.
    pub(crate) certificates: BTreeMap<String, CertificatePem>,
    /// For clients that name no host, or one without a certificate.
    pub(crate) default_certificate: Option<CertificatePem>,
    pub(crate) problems: Vec<Problem>,
}

/// Paths of one host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct HostRoutes {
    pub exact: HashMap<String, BackendIndex>,
    /// Without a slash at the end, so that `/` is empty; longest first.
    pub prefixes: Vec<(String, BackendIndex)>,
    pub default: Option<BackendIndex>,
}

impl HostRoutes {
    /// An exact path is never shorter than a prefix of it, and wins when they are the same: so it is looked at first.
    fn find(&self, path: &str) -> Option<BackendIndex> {
        if let Some(backend) = self.exact.get(path) {
            return Some(*backend);
        }
        let fits = |prefix: &str| match path.strip_prefix(prefix) {
            Some(rest) => rest.is_empty() || rest.starts_with('/'),
            None => false,
        };
        self.prefixes.iter().find(|(prefix, _)| fits(prefix)).map(|(_, backend)| *backend)
    }
}

impl RouteTable {
    /// What an Ingress says that is not served.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// All backends with their endpoints.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// The backend for a host (lower-case, without port) and path. Rules of the very host come first, then those of a
    /// wildcard, then those without a host; then the default backends in the same order.
    pub fn route(&self, host: &str, path: &str) -> Option<&Backend> {
        self.route_index(host, path).map(|i| &self.backends[i])
    }

    pub(crate) fn route_index(&self, host: &str, path: &str) -> Option<BackendIndex> {
        let exact = self.exact_hosts.get(host);
        let wildcard = host
            .split_once('.')
            .and_then(|(label, rest)| if label.is_empty() { None } else { self.wildcard_hosts.get(rest) });
        let candidates = [exact, wildcard, Some(&self.any_host)];
        let rule = candidates.iter().flatten().find_map(|routes| routes.find(path));
        rule.or_else(|| candidates.iter().flatten().find_map(|routes| routes.default))
    }
}

/// The host of a `Host` header or authority: lower-case, without port or final dot; `None` when it is none.
pub(crate) fn normal_host(authority: &str) -> Option<String> {
    let host = if authority.starts_with('[') {
        let end = authority.find(']')?;
        &authority[..=end]
    } else {
        authority.split_once(':').map_or(authority, |(host, _)| host)
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let legal = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b'\\' | b'@' | b'?' | b'#');
    (!host.is_empty() && host.len() <= 255 && host.bytes().all(legal)).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_host_is_what_is_left_of_the_port() {
        for (given, host) in [
            ("Example.COM:8080", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("[::1]:80", Some("[::1]")),
            ("", None),
            (":80", None),
            ("a/b", None),
            ("user@host", None),
            ("a b", None),
        ] {
            assert_eq!(normal_host(given).as_deref(), host, "{given}");
        }
    }

    proptest! {
        #[test]
        fn any_authority_and_path_are_looked_up_without_panic(host in ".{0,40}", path in ".{0,40}") {
            let mut table = RouteTable::default();
            table.any_host.prefixes.push(("/é".into(), 0));
            table.backends.push(Backend { name: String::new(), endpoints: vec![] });
            if let Some(host) = normal_host(&host) {
                let _ = table.route(&host, &path);
            }
        }
    }
}
