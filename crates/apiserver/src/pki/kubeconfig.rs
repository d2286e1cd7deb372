//! The text of a kubeconfig file.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{KeyCert, PkiError, files};

/// A kubeconfig with one cluster, one user and one context; `Display` is the YAML.
#[derive(Clone)]
pub struct Kubeconfig {
    text: String,
}

impl Kubeconfig {
    pub(super) fn new(cluster: &str, server_url: &str, user: &str, ca_pem: &str, cert: &KeyCert) -> Self {
        // JSON strings are YAML strings, so quoting is exact whatever the names contain.
        let quote = |s: &str| serde_json::Value::from(s).to_string();
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {context}\npreferences: {{}}\n\
             clusters:\n- name: {cluster}\n  cluster:\n    server: {server}\n    certificate-authority-data: {ca}\n\
             users:\n- name: {user}\n  user:\n    client-certificate-data: {cert}\n    client-key-data: {key}\n\
             contexts:\n- name: {context}\n  context:\n    cluster: {cluster}\n    user: {user}\n",
            context = quote(cluster),
            cluster = quote(cluster),
            server = quote(server_url),
            ca = STANDARD.encode(ca_pem),
            user = quote(user),
            cert = STANDARD.encode(&cert.cert_pem),
            key = STANDARD.encode(&cert.key_pem),
        );
        Kubeconfig { text }
    }

    /// The YAML.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Writes the file with mode 0600.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), PkiError> {
        files::write_private(path, &self.text)
    }
}

impl fmt::Display for Kubeconfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
