//! Errors as clients see them (distribution-spec, "Error Codes") and as the operator does.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::StatusCode;
use serde_json::{Value, json};

use crate::store::StoreError;

/// Why the registry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or is not this host's.
    #[error("listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Images would cross the network unprotected.
    #[error("{0} is not a loopback address: that needs TLS (a certificate and its key) and a file of users")]
    Unprotected(SocketAddr),
    /// A certificate or key cannot be read.
    #[error("read {path}: {message}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The certificate and key do not fit.
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
}

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    pub detail: Value,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>, detail: Value) -> Self {
        Refusal { status, code, message: message.into(), detail }
    }

    /// The document of the answer.
    pub fn document(&self) -> Value {
        let mut error = json!({"code": self.code, "message": self.message});
        if !self.detail.is_null() {
            error["detail"] = self.detail.clone();
        }
        json!({"errors": [error]})
    }

    pub fn name_invalid(name: &str) -> Self {
        let detail = json!({"name": name.chars().take(300).collect::<String>()});
        Refusal::new(StatusCode::BAD_REQUEST, "NAME_INVALID", "invalid repository name", detail)
    }

    pub fn name_unknown(name: &str) -> Self {
        let message = "repository name not known to registry";
        Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message, json!({"name": name}))
    }

    pub fn tag_invalid(tag: &str) -> Self {
        let detail = json!({"tag": tag.chars().take(300).collect::<String>()});
        Refusal::new(StatusCode::BAD_REQUEST, "TAG_INVALID", "manifest tag did not match URI", detail)
    }

    pub fn digest_invalid(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message, Value::Null)
    }

    pub fn blob_unknown(digest: &str) -> Self {
        Refusal::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry", json!({"digest": digest}))
    }

    pub fn manifest_unknown(name: &str, reference: &str) -> Self {
        let detail = json!({"name": name, "reference": reference});
        Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown", detail)
    }

    pub fn manifest_invalid(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message, Value::Null)
    }

    pub fn manifest_blob_unknown(digest: &str) -> Self {
        let message = "manifest references a manifest or blob unknown to registry";
        Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", message, json!({"digest": digest}))
    }

    pub fn upload_unknown(id: &str) -> Self {
        let message = "blob upload unknown to registry";
        Refusal::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", message, json!({"upload": id}))
    }

    pub fn upload_invalid(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", message, Value::Null)
    }

    /// A chunk that does not begin where the last one ended.
    pub fn out_of_order(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", message, Value::Null)
    }

    pub fn size_invalid(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message, Value::Null)
    }

    pub fn unauthorized() -> Self {
        Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required", Value::Null)
    }

    pub fn unsupported(status: StatusCode, message: impl Into<String>) -> Self {
        Refusal::new(status, "UNSUPPORTED", message, Value::Null)
    }

    pub fn denied(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::FORBIDDEN, "DENIED", message, Value::Null)
    }

    /// What a cache cannot do for its upstream.
    pub fn unavailable(status: StatusCode, message: impl Into<String>) -> Self {
        Refusal::new(status, "UNKNOWN", message, Value::Null)
    }

    pub fn too_many(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message, Value::Null)
    }

    pub fn broken_off() -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", "the body broke off", Value::Null)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %base::chain(&error), "the registry's files failed");
        let status = match error.is_full() {
            true => StatusCode::INSUFFICIENT_STORAGE,
            false => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let message = if error.is_full() { "the registry's disk is full" } else { "unknown error" };
        Refusal::new(status, "UNKNOWN", message, Value::Null)
    }
}
