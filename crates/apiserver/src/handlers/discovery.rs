//! What the server serves: discovery and OpenAPI documents, the keys of tokens.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use api::kinds::KindInfo;
use api::status::ApiError;
use api::{discovery, openapi};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{health, openapi_v2};
use crate::aggregation::merge;
use crate::cache::custom::CustomCaches;
use crate::http::accept::{self, Form};
use crate::http::body::Body;
use crate::http::respond::{self, Reply, Style};
use crate::meter;
use crate::server::ApiServer;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Documents that are the same for all clients, encoded once. Only paths that exist get in.
#[derive(Default)]
pub struct Documents {
    encoded: Mutex<Encoded>,
    turn: tokio::sync::Mutex<()>,
}

/// The documents, and what they were made with: with anything else all of them are made anew.
#[derive(Default)]
struct Encoded {
    documents: HashMap<String, Document>,
    custom: Weak<CustomCaches>,
    generation: u64,
}

/// What documents are made with, beside what is built in.
pub(super) struct Sources {
    custom: Arc<CustomCaches>,
    /// Of what others serve.
    generation: u64,
}

impl Sources {
    /// Those of this moment.
    pub fn of(server: &ApiServer) -> Self {
        // The number first: a change between the two makes the documents be made once more, not stay as they are.
        Sources { generation: server.aggregation.generation(), custom: server.caches.custom() }
    }
}

impl Encoded {
    fn is_of(&self, sources: &Sources) -> bool {
        std::ptr::eq(self.custom.as_ptr(), Arc::as_ptr(&sources.custom)) && self.generation == sources.generation
    }
}

impl Documents {
    /// The turn of whoever makes a large document.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    pub(super) fn get(&self, sources: &Sources, key: &str) -> Option<Document> {
        let encoded = self.encoded.lock();
        encoded.documents.get(key).filter(|_| encoded.is_of(sources)).cloned()
    }

    pub(super) fn put(&self, sources: &Sources, key: String, document: Document) {
        let mut encoded = self.encoded.lock();
        if !encoded.is_of(sources) {
            encoded.documents.clear();
            // A weak reference keeps the address from being used again.
            encoded.custom = Arc::downgrade(&sources.custom);
            encoded.generation = sources.generation;
        }
        encoded.documents.insert(key, document);
    }
}

/// A document as it is sent.
#[derive(Clone)]
pub(super) struct Document {
    pub bytes: Bytes,
    etag: String,
}

impl Document {
    /// With a tag made of its content.
    pub fn new(bytes: Bytes) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&digest.as_ref()[..16]));
        Document { bytes, etag }
    }

    /// Whether the client has it already.
    pub fn is_known(&self, headers: &HeaderMap) -> bool {
        let known = headers.get(IF_NONE_MATCH).and_then(|v| v.to_str().ok());
        known.is_some_and(|known| known.split(',').any(|tag| tag.trim().trim_start_matches("W/") == self.etag))
    }

    /// 304.
    pub fn unchanged(&self) -> Reply {
        let mut reply = Response::new(Body::Empty);
        *reply.status_mut() = StatusCode::NOT_MODIFIED;
        self.tag(&mut reply);
        reply
    }

    /// Says in the answer which content it is.
    pub fn tag(&self, reply: &mut Reply) {
        if let Ok(etag) = HeaderValue::from_str(&self.etag) {
            reply.headers_mut().insert(ETAG, etag);
        }
    }
}

/// GET of a path that is not a resource.
pub(crate) async fn serve(
    server: &Arc<ApiServer>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    query: &str,
    style: Style,
) -> Result<Reply, ApiError> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed_path());
    }
    let path = path.trim_end_matches('/');
    server.caches.defined().await;
    if path == "/openapi/v2" {
        // Its media types are its own.
        return openapi_v2::serve(server, headers, style).await;
    }
    if path == "/metrics" {
        let mut reply = respond::text(StatusCode::OK, meter::text(server));
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(base::prometheus::MEDIA));
        return Ok(reply);
    }
    if let Some(page) = path.strip_prefix("/debug/api_priority_and_fairness/") {
        let text = server.flow.dump(page, query).ok_or_else(ApiError::path_not_found)?;
        return Ok(respond::text(StatusCode::OK, text));
    }
    let (aggregated, yaml) = match path {
        "/api" | "/apis" => {
            let accepted = accept::discovery(headers)?;
            (accepted.form == Form::AggregatedDiscovery, accepted.yaml)
        }
        _ if path == "/api/v1" || path.starts_with("/apis/") => (false, accept::discovery(headers)?.yaml),
        _ => {
            accept::form(headers)?;
            (false, false)
        }
    };
    let style = Style { yaml, ..style };
    let key = if aggregated { format!("{path} aggregated") } else { path.to_owned() };
    let sources = Sources::of(server);
    let custom = &sources.custom;
    let document = match server.documents.get(&sources, &key) {
        Some(document) => document,
        None => {
            let value = make(server, path, aggregated, custom.kinds()).ok_or_else(ApiError::path_not_found)?;
            let document = Document::new(Bytes::from(value.to_string()));
            server.documents.put(&sources, key, document.clone());
            document
        }
    };
    Ok(finish(&document, path, headers, query, aggregated, style, custom))
}

fn finish(
    document: &Document,
    path: &str,
    headers: &HeaderMap,
    query: &str,
    aggregated: bool,
    style: Style,
    custom: &CustomCaches,
) -> Reply {
    let unchanged = document.is_known(headers);
    let mut reply =
        if unchanged { document.unchanged() } else { respond::json(StatusCode::OK, document.bytes.clone(), style) };
    document.tag(&mut reply);
    reply.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    if aggregated && !unchanged {
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    }
    if let Some((group, version)) = openapi_path(path)
        && query.split('&').any(|p| p.strip_prefix("hash=") == Some(&openapi::hash(group, version, custom.kinds())))
    {
        // The hash in the URL makes the answer the same for ever.
        reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable, max-age=31536000"));
    }
    reply
}

fn make(server: &ApiServer, path: &str, aggregated: bool, custom: &[Arc<KindInfo>]) -> Option<Value> {
    let others = server.aggregation.backends();
    match path {
        "" => Some(
            json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
        ),
        "/api" if aggregated => Some(discovery::aggregated(true, custom)),
        "/apis" if aggregated => Some(merge::aggregated(discovery::aggregated(false, custom), &others)),
        "/api" => Some(discovery::api_versions(&server.config.advertise.to_string())),
        "/apis" => Some(merge::group_list(discovery::api_group_list(custom), &others)),
        "/api/v1" => discovery::api_resource_list("", "v1", custom),
        "/openapi/v3" => Some(merge::openapi_index(openapi::index(custom), &others)),
        "/openid/v1/jwks" => Some(keys(server)),
        "/.well-known/openid-configuration" => Some(issuer(server)),
        _ => {
            if let Some((group, version)) = openapi_path(path) {
                return openapi::document(group, version, &health::git_version(), custom);
            }
            match path.strip_prefix("/apis/")?.split_once('/') {
                None => {
                    let group = &path["/apis/".len()..];
                    merge::group(group, discovery::api_group(group, custom), &others)
                }
                Some((group, version)) => discovery::api_resource_list(group, version, custom),
            }
        }
    }
}

fn openapi_path(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/openapi/v3/")?;
    match rest.strip_prefix("api/") {
        Some(version) => Some(("", version)),
        None => rest.strip_prefix("apis/")?.split_once('/'),
    }
}

/// The public key of service account tokens, as others verify them with.
fn keys(server: &ApiServer) -> Value {
    let raw = server.pki.service_account_public_raw();
    let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(raw.get(range).unwrap_or_default());
    json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "x": part(1..33), "y": part(33..65)}]})
}

fn issuer(server: &ApiServer) -> Value {
    json!({
        "issuer": server.tokens.issuer(),
        "jwks_uri": format!("https://{}/openid/v1/jwks", server.config.advertise),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}
