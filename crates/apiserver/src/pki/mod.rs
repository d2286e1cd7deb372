//! The cluster's own certificate authority and everything it signs, kept in one folder.
//!
//! A file is made once and reused. A certificate is replaced when fewer than 30 days of it remain, when its authority
//! changed, or when it lacks an address it must have. Keys are ECDSA P-256: every client of the last ten years knows it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::ParsedExtension;

mod files;
mod kubeconfig;
mod sign;

use files::{make_private_dir, read, write_private};
pub use kubeconfig::Kubeconfig;
pub use sign::{CLIENT, SignError, SigningRequest, agent_of, inspect};

/// The group that may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of node agents.
pub const NODES: &str = "system:nodes";
/// The name in the certificate that vouches for users towards those that requests are passed on to.
pub const FRONT_PROXY: &str = "front-proxy-client";

const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;
const RENEW_DAYS: i64 = 30;

/// Why keys or certificates could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file or folder could not be read or written.
    #[error("{doing} {path:?}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The authority's certificate is there without its key, or the other way round: making a new one would lock out
    /// everything that trusts the old.
    #[error("{0:?} exists without {1:?}; restore it or remove both")]
    HalfAuthority(PathBuf, PathBuf),
    /// Signing failed, or a name cannot be in a certificate.
    #[error("make certificate {name:?}")]
    Make {
        /// The certificate's file stem.
        name: String,
        /// What the library said.
        #[source]
        source: rcgen::Error,
    },
    /// A file does not hold what it should.
    #[error("{0:?} does not hold a usable {1}")]
    Malformed(PathBuf, &'static str),
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct KeyCert {
    /// The certificate.
    pub cert_pem: String,
    /// The key, PKCS #8.
    pub key_pem: String,
}

impl std::fmt::Debug for KeyCert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyCert(..)")
    }
}

impl KeyCert {
    /// The parsed chain.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.cert_pem.as_bytes()).collect();
        all.map_err(|_| PkiError::Malformed(PathBuf::new(), "certificate"))
    }

    /// The parsed key.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|_| PkiError::Malformed(PathBuf::new(), "private key"))
    }
}

/// The authority, and the certificates every server needs.
pub struct Pki {
    dir: PathBuf,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    server: KeyCert,
    admin: KeyCert,
    kubelet_client: KeyCert,
    front_proxy_ca_pem: String,
    front_proxy_client: KeyCert,
    service_account_key: KeyPair,
}

/// What a certificate is for.
struct Leaf<'a> {
    stem: String,
    common_name: String,
    organization: Option<&'a str>,
    usage: ExtendedKeyUsagePurpose,
    names: Vec<String>,
}

/// Opens the folder, making what is missing in it. `names` and `ips` are the additional ones under which clients reach
/// the API server; `localhost`, the loopback address and the in-cluster names are always there.
pub fn ensure(dir: &Path, names: &[String], ips: &[IpAddr]) -> Result<Pki, PkiError> {
    make_private_dir(dir)?;
    let (ca_pem, issuer) = ensure_authority(dir, "ca", "windlass-ca")?;
    // An authority of its own: whoever has a certificate of it can be any user.
    let (front_proxy_ca_pem, front_proxy_issuer) = ensure_authority(dir, "front-proxy-ca", "windlass-front-proxy-ca")?;
    let mut sans: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "127.0.0.1",
    ]
    .map(String::from)
    .to_vec();
    sans.extend(names.iter().cloned());
    sans.extend(ips.iter().map(IpAddr::to_string));
    sans.sort();
    sans.dedup();
    let server = Leaf {
        stem: "server".into(),
        common_name: "windlass-apiserver".into(),
        organization: None,
        usage: ExtendedKeyUsagePurpose::ServerAuth,
        names: sans,
    };
    let client = |stem: &str, user: &str, group| Leaf {
        stem: stem.into(),
        common_name: user.into(),
        organization: Some(group),
        usage: ExtendedKeyUsagePurpose::ClientAuth,
        names: Vec::new(),
    };
    let issue = |leaf: &Leaf<'_>| ensure_leaf(dir, &ca_pem, &issuer, leaf);
    let server = issue(&server)?;
    let admin = issue(&client("admin", "kubernetes-admin", MASTERS))?;
    let kubelet_client = issue(&client("kubelet-client", "windlass-apiserver", MASTERS))?;
    let front_proxy = Leaf { organization: None, ..client(FRONT_PROXY, FRONT_PROXY, "") };
    let front_proxy_client = ensure_leaf(dir, &front_proxy_ca_pem, &front_proxy_issuer, &front_proxy)?;
    let service_account_key = ensure_key(&dir.join("service-account.key"))?;
    Ok(Pki {
        dir: dir.to_path_buf(),
        ca_pem,
        issuer,
        server,
        admin,
        kubelet_client,
        front_proxy_ca_pem,
        front_proxy_client,
        service_account_key,
    })
}

impl Pki {
    /// The authority's certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The authority's certificate, parsed.
    pub fn ca_der(&self) -> Result<CertificateDer<'static>, PkiError> {
        CertificateDer::from_pem_slice(self.ca_pem.as_bytes())
            .map_err(|_| PkiError::Malformed(self.dir.join("ca.crt"), "certificate"))
    }

    /// What the API server shows.
    pub fn server(&self) -> &KeyCert {
        &self.server
    }

    /// `kubernetes-admin` of `system:masters`.
    pub fn admin(&self) -> &KeyCert {
        &self.admin
    }

    /// With what the API server calls the kubelet endpoints of nodes.
    pub fn kubelet_client(&self) -> &KeyCert {
        &self.kubelet_client
    }

    /// The certificate of the authority that vouches for users.
    pub fn front_proxy_ca_pem(&self) -> &str {
        &self.front_proxy_ca_pem
    }

    /// With what requests are passed on in the name of a user.
    pub fn front_proxy_client(&self) -> &KeyCert {
        &self.front_proxy_client
    }

    /// The client certificate of a node's agent: `system:node:NAME` of `system:nodes`.
    pub fn agent(&self, node: &str) -> Result<KeyCert, PkiError> {
        let leaf = Leaf {
            stem: format!("agent-{node}"),
            common_name: format!("system:node:{node}"),
            organization: Some(NODES),
            usage: ExtendedKeyUsagePurpose::ClientAuth,
            names: Vec::new(),
        };
        ensure_leaf(&self.dir, &self.ca_pem, &self.issuer, &leaf)
    }

    /// The client certificate of who answers Docker's clients for the whole cluster: `system:windlass:docker`.
    pub fn docker(&self) -> Result<KeyCert, PkiError> {
        let leaf = Leaf {
            stem: "docker".to_owned(),
            common_name: "system:windlass:docker".to_owned(),
            organization: None,
            usage: ExtendedKeyUsagePurpose::ClientAuth,
            names: Vec::new(),
        };
        ensure_leaf(&self.dir, &self.ca_pem, &self.issuer, &leaf)
    }

    /// The certificate that a node's kubelet endpoint shows.
    pub fn kubelet_serving(&self, node: &str, names: &[String], ips: &[IpAddr]) -> Result<KeyCert, PkiError> {
        let mut sans = vec![node.to_owned()];
        sans.extend(names.iter().cloned());
        sans.extend(ips.iter().map(IpAddr::to_string));
        sans.sort();
        sans.dedup();
        let leaf = Leaf {
            stem: format!("kubelet-{node}"),
            common_name: format!("system:node:{node}"),
            organization: Some(NODES),
            usage: ExtendedKeyUsagePurpose::ServerAuth,
            names: sans,
        };
        ensure_leaf(&self.dir, &self.ca_pem, &self.issuer, &leaf)
    }

    /// The key that signs service account tokens, PKCS #8 PEM.
    pub fn service_account_key_pem(&self) -> String {
        self.service_account_key.serialize_pem()
    }

    /// The key that verifies them, SubjectPublicKeyInfo PEM.
    pub fn service_account_public_pem(&self) -> String {
        self.service_account_key.public_key_pem()
    }

    /// The same as an uncompressed curve point (0x04, X, Y).
    pub fn service_account_public_raw(&self) -> &[u8] {
        self.service_account_key.public_key_raw()
    }

    /// A kubeconfig with everything embedded, for a certificate of this authority.
    pub fn kubeconfig(&self, cluster: &str, server_url: &str, user: &str, cert: &KeyCert) -> Kubeconfig {
        Kubeconfig::new(cluster, server_url, user, &self.ca_pem, cert)
    }
}

fn ensure_authority(dir: &Path, stem: &str, common_name: &str) -> Result<(String, Issuer<'static, KeyPair>), PkiError> {
    let (cert_path, key_path) = (dir.join(format!("{stem}.crt")), dir.join(format!("{stem}.key")));
    let cert_pem = match (read(&cert_path)?, read(&key_path)?) {
        (Some(cert), Some(_)) => cert,
        (Some(_), None) => return Err(PkiError::HalfAuthority(cert_path, key_path)),
        (None, Some(_)) => return Err(PkiError::HalfAuthority(key_path, cert_path)),
        (None, None) => {
            let key = make_key(stem)?;
            let cert = authority_params(common_name).self_signed(&key).map_err(|e| make(stem, e))?.pem();
            write_private(&key_path, &key.serialize_pem())?;
            write_private(&cert_path, &cert)?;
            cert
        }
    };
    let key = ensure_key(&key_path)?;
    let issuer = Issuer::from_ca_cert_pem(&cert_pem, key)
        .map_err(|_| PkiError::Malformed(cert_path, "certificate authority"))?;
    Ok((cert_pem, issuer))
}

fn authority_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params, CA_DAYS);
    params
}

fn ensure_leaf(
    dir: &Path,
    ca_pem: &str,
    issuer: &Issuer<'static, KeyPair>,
    leaf: &Leaf<'_>,
) -> Result<KeyCert, PkiError> {
    let (cert_path, key_path) = (dir.join(format!("{}.crt", leaf.stem)), dir.join(format!("{}.key", leaf.stem)));
    if let (Some(cert_pem), Some(key_pem)) = (read(&cert_path)?, read(&key_path)?)
        && still_good(&cert_pem, &key_pem, ca_pem, &leaf.names)
    {
        return Ok(KeyCert { cert_pem, key_pem });
    }
    let key = make_key(&leaf.stem)?;
    let mut params = CertificateParams::new(leaf.names.clone()).map_err(|e| make(&leaf.stem, e))?;
    params.distinguished_name = DistinguishedName::new();
    if let Some(organization) = leaf.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, leaf.common_name.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![leaf.usage.clone()];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, LEAF_DAYS);
    let cert_pem = params.signed_by(&key, issuer).map_err(|e| make(&leaf.stem, e))?.pem();
    let key_pem = key.serialize_pem();
    write_private(&key_path, &key_pem)?;
    write_private(&cert_path, &cert_pem)?;
    Ok(KeyCert { cert_pem, key_pem })
}

/// Whether a certificate from disk can be used as it is.
fn still_good(cert_pem: &str, key_pem: &str, ca_pem: &str, names: &[String]) -> bool {
    let (Ok(der), Ok(ca_der), Ok(key)) = (
        CertificateDer::from_pem_slice(cert_pem.as_bytes()),
        CertificateDer::from_pem_slice(ca_pem.as_bytes()),
        KeyPair::from_pem(key_pem),
    ) else {
        return false;
    };
    let (Ok((_, cert)), Ok((_, ca))) =
        (x509_parser::parse_x509_certificate(&der), x509_parser::parse_x509_certificate(&ca_der))
    else {
        return false;
    };
    let left = cert.validity().not_after.timestamp() - jiff::Timestamp::now().as_second();
    left > RENEW_DAYS * 86_400
        && authority_key_id(&cert).is_some()
        && authority_key_id(&cert) == subject_key_id(&ca)
        && cert.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
        && names.iter().all(|name| has_name(&cert, name))
}

fn authority_key_id<'a>(cert: &'a x509_parser::certificate::X509Certificate<'_>) -> Option<&'a [u8]> {
    cert.iter_extensions().find_map(|e| match e.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(aki) => aki.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })
}

fn subject_key_id<'a>(cert: &'a x509_parser::certificate::X509Certificate<'_>) -> Option<&'a [u8]> {
    cert.iter_extensions().find_map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

fn has_name(cert: &x509_parser::certificate::X509Certificate<'_>, name: &str) -> bool {
    use x509_parser::extensions::GeneralName;
    let Ok(Some(san)) = cert.subject_alternative_name() else { return false };
    let ip: Option<IpAddr> = name.parse().ok();
    san.value.general_names.iter().any(|general| match (general, ip) {
        (GeneralName::IPAddress(bytes), Some(IpAddr::V4(ip))) => *bytes == ip.octets(),
        (GeneralName::IPAddress(bytes), Some(IpAddr::V6(ip))) => *bytes == ip.octets(),
        (GeneralName::DNSName(dns), None) => dns.eq_ignore_ascii_case(name),
        _ => false,
    })
}

fn ensure_key(path: &Path) -> Result<KeyPair, PkiError> {
    if let Some(pem) = read(path)? {
        return KeyPair::from_pem(&pem).map_err(|_| PkiError::Malformed(path.to_path_buf(), "private key"));
    }
    let key = make_key("key")?;
    write_private(path, &key.serialize_pem())?;
    Ok(key)
}

fn make_key(name: &str) -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| make(name, e))
}

fn make(name: &str, source: rcgen::Error) -> PkiError {
    PkiError::Make { name: name.to_owned(), source }
}

/// From yesterday (clocks of clients differ) for so many days. Whole days: that is what the library can be told without
/// a second time crate.
fn set_validity(params: &mut CertificateParams, days: i64) {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let date = |offset: i64| {
        let date = today.saturating_add(jiff::Span::new().days(offset));
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = date(-1);
    params.not_after = date(days);
}

#[cfg(test)]
mod tests;
