//! Answers: JSON, YAML or protobuf, compressed when large and wanted, errors as Status documents.

use std::io::Write as _;

use api::protobuf;
use api::status::ApiError;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt as _;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY, WARNING};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::Value;

use super::body::Body;
use super::{accept, yaml};

/// A response of this server.
pub type Reply = Response<Body>;

/// Answers smaller than this are not compressed: the time is better spent on sending them.
const GZIP_FROM: usize = 128 << 10;

/// How answers to one request are written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// Indent JSON.
    pub pretty: bool,
    /// The client understands gzip.
    pub gzip: bool,
    /// The client would rather have protobuf than JSON.
    pub protobuf: bool,
    /// The client would rather have YAML than JSON.
    pub yaml: bool,
}

impl Style {
    /// As the headers ask.
    pub fn of(headers: &HeaderMap, pretty: bool) -> Self {
        let accepted = accept::anything(headers);
        Style { pretty, gzip: accept::gzip(headers), protobuf: accepted.protobuf, yaml: accepted.yaml }
    }
}

/// JSON that is already encoded. Goes out as YAML when that is preferred, as protobuf when that is preferred and can say it.
pub fn json(code: StatusCode, bytes: Bytes, style: Style) -> Reply {
    if style.protobuf
        && let Ok(value) = serde_json::from_slice::<Value>(&bytes)
        && let Some(encoded) = protobuf::encode(&value)
    {
        return whole(code, encoded.into(), protobuf::MEDIA, style);
    }
    if style.yaml
        && let Ok(value) = serde_json::from_slice::<Value>(&bytes)
    {
        return whole(code, yaml::document(&value).into(), accept::YAML, style);
    }
    let bytes = if style.pretty { indent(&bytes).unwrap_or(bytes) } else { bytes };
    whole(code, bytes, "application/json", style)
}

/// A JSON value. Goes out as YAML when that is preferred, as protobuf when that is preferred and can say it.
pub fn value(code: StatusCode, value: &Value, style: Style) -> Reply {
    match style.protobuf.then(|| protobuf::encode(value)).flatten() {
        Some(encoded) => whole(code, encoded.into(), protobuf::MEDIA, style),
        None if style.yaml => whole(code, yaml::document(value).into(), accept::YAML, style),
        None => json(code, value.to_string().into(), Style { protobuf: false, ..style }),
    }
}

fn whole(code: StatusCode, bytes: Bytes, media: &'static str, style: Style) -> Reply {
    let mut reply = Response::new(Body::Empty);
    *reply.status_mut() = code;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if style.gzip && bytes.len() >= GZIP_FROM {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        *reply.body_mut() = Body::from(compress(&bytes));
    } else {
        *reply.body_mut() = Body::from(bytes);
    }
    reply
}

/// A document that is protobuf already.
pub fn protobuf(code: StatusCode, document: Vec<u8>, style: Style) -> Reply {
    whole(code, document.into(), protobuf::MEDIA, style)
}

/// A document in pieces that are made as they are sent. `size` is about how long it will be.
pub fn pieces(
    chunks: impl futures::Stream<Item = Bytes> + Send + 'static,
    size: usize,
    media: &'static str,
    style: Style,
) -> Reply {
    let mut reply = Response::new(Body::Empty);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if style.gzip && size >= GZIP_FROM {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        *reply.body_mut() = Body::stream(compressed(chunks));
    } else {
        *reply.body_mut() = Body::stream(chunks);
    }
    reply
}

/// An error as a Status document.
pub fn error(error: &ApiError, style: Style) -> Reply {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut status = error.to_status();
    // A Status carries the token to go on with in its metadata, where lists have theirs.
    if let Some(token) = status.get_mut("details").and_then(|d| d.as_object_mut()?.remove("continue")) {
        status["metadata"]["continue"] = token;
    }
    let mut reply = value(code, &status, style);
    if let Some(seconds) = error.retry_after() {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.code == 401 {
        reply.headers_mut().insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    reply
}

/// Plain text.
pub fn text(code: StatusCode, text: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Body::from(text.into()));
    *reply.status_mut() = code;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    reply
}

/// Most warnings of one answer.
const WARNINGS: usize = 32;
/// Longest warning.
const WARNING_MAX: usize = 1024;

/// Adds warnings, which clients show to people.
pub fn warn(reply: &mut Reply, warnings: &[String]) {
    for warning in warnings.iter().take(WARNINGS) {
        let mut text = String::with_capacity(warning.len() + 8);
        for c in warning.chars().take(WARNING_MAX) {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                ' '..='~' => text.push(c),
                _ => text.push('?'),
            }
        }
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            reply.headers_mut().append(WARNING, value);
        }
    }
}

fn indent(bytes: &[u8]) -> Option<Bytes> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let mut out = serde_json::to_vec_pretty(&value).ok()?;
    out.push(b'\n');
    Some(out.into())
}

fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

fn compressed(
    chunks: impl futures::Stream<Item = Bytes> + Send + 'static,
) -> impl futures::Stream<Item = Bytes> + Send {
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let state = Some((Box::pin(chunks), encoder));
    futures::stream::unfold(state, |state| async move {
        let (mut chunks, mut encoder) = state?;
        loop {
            let Some(chunk) = chunks.next().await else {
                return Some((Bytes::from(encoder.finish().unwrap_or_default()), None));
            };
            let _ = encoder.write_all(&chunk);
            if !encoder.get_ref().is_empty() {
                let out = Bytes::from(std::mem::take(encoder.get_mut()));
                return Some((out, Some((chunks, encoder))));
            }
        }
    })
}
