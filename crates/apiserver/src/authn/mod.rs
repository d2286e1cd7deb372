//! Who is asking: client certificates, service account tokens, one optional static token. Who cannot say so gets 401.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;

mod bearer;
mod bootstrap;
pub mod oidc;
pub mod token;

pub(crate) use bearer::bearer;
pub use oidc::{Oidc, OidcConfig, OidcError};
pub use token::{TokenError, Tokens};

/// The group of everybody who has been recognised.
pub const AUTHENTICATED: &str = "system:authenticated";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// An authenticated caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The name.
    pub name: String,
    /// An identifier that outlives the name; may be empty.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user of these groups and of `system:authenticated`.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|&g| g.to_owned()).collect();
        if !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        UserInfo { name: name.into(), groups, ..UserInfo::default() }
    }

    /// A part of the control plane in this process: `system:kube-scheduler` and the like, which may do everything.
    pub fn control_plane(name: impl Into<String>) -> Self {
        Self::new(name, &[crate::pki::MASTERS])
    }

    /// Whether the user is in the group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node whose agent this is.
    pub fn node(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|_| self.in_group(crate::pki::NODES))
    }

    /// Namespace and name of the service account this is.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')
    }

    /// The `UserInfo` of authentication.k8s.io/v1.
    pub fn to_json(&self) -> serde_json::Value {
        let mut out = serde_json::json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            out["uid"] = self.uid.as_str().into();
        }
        if !self.extra.is_empty() {
            out["extra"] = serde_json::json!(self.extra);
        }
        out
    }
}

/// The user a verified client certificate names: CN is the user, each O a group.
pub fn user_of_certificate(der: &CertificateDer<'_>) -> Option<Arc<UserInfo>> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = cert.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    if name.is_empty() {
        return None;
    }
    let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    Some(Arc::new(UserInfo::new(name, &groups)))
}

/// How a request's sender is known before its headers are read.
#[derive(Debug, Clone)]
pub enum Sender {
    /// A connection.
    Connection {
        /// The user of its client certificate.
        user: Option<Arc<UserInfo>>,
        /// Where it comes from.
        from: SocketAddr,
    },
    /// A client in this process, for which its creator vouches.
    Trusted(Arc<UserInfo>),
}

/// Compares without telling by its duration where two secrets differ.
pub(crate) fn same_secret(a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (ring::digest::digest(&ring::digest::SHA256, a), ring::digest::digest(&ring::digest::SHA256, b));
    a.as_ref().iter().zip(b.as_ref()).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}
