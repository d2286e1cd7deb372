//! Doors for the fuzz targets to parsers of outside bytes that are no part of this crate's interface.

use http::{HeaderMap, HeaderValue};

use crate::http::query::Query;
use crate::http::{accept, decode, path};

/// A request's body of JSON: the document with the paths of its repeated keys, or what is wrong with it.
///
/// # Errors
/// What a client is told.
pub fn json(bytes: &[u8]) -> Result<(serde_json::Value, Vec<String>), api::status::ApiError> {
    decode::json(bytes).map(|d| (d.value, d.repeated))
}

/// The same of YAML.
///
/// # Errors
/// What a client is told.
pub fn yaml(bytes: &[u8]) -> Result<(serde_json::Value, Vec<String>), api::status::ApiError> {
    decode::yaml(bytes).map(|d| (d.value, d.repeated))
}

/// A request's path and parameters; says what was made of them.
pub fn url(text: &str) -> String {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let query = Query::parse(query).map(|q| q.limit.min(1)).map_err(|e| e.message);
    format!("{} {query:?}", path::parse(path).is_some())
}

/// The headers by which the form of an answer is chosen; says what was made of them.
pub fn accept(bytes: &[u8]) -> String {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return "no header".to_owned() };
    let mut headers = HeaderMap::new();
    headers.insert(http::header::ACCEPT, value.clone());
    headers.insert(http::header::ACCEPT_ENCODING, value);
    let accepted = accept::negotiate(&headers, false, || true).map_err(|e| e.code);
    format!("{accepted:?} {} {}", accept::gzip(&headers), accept::anything(&headers).protobuf)
}
