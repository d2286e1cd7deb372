//! Requests and their answers.

mod blobs;
mod manifests;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, LINK, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::access::Access;
use crate::error::Refusal;
use crate::proxy::Proxy;
use crate::route::{self, Route};
use crate::store::{RegistryStore, Result as StoreResult};
use crate::uploads::Uploads;

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;
pub(crate) type Answer = Result<Response<Body>, Refusal>;

/// Entries of one page of a list.
const PAGE: usize = 1000;
const VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub(crate) const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What answers requests.
pub(crate) struct Registry {
    pub store: RegistryStore,
    pub uploads: Uploads,
    pub access: Access,
    /// Longest blob, bytes.
    pub max_blob: u64,
    /// Set in a cache of another registry.
    pub proxy: Option<Arc<Proxy>>,
}

/// A request without its body.
pub(crate) struct Call {
    pub method: Method,
    pub headers: HeaderMap,
    pub query: BTreeMap<String, String>,
}

impl Call {
    pub fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Registry {
    /// Answers a request.
    pub async fn serve(self: Arc<Self>, request: http::Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let query = route::parameters(parts.uri.query());
        let call = Call { method: parts.method, headers: parts.headers, query };
        let path = parts.uri.path().to_owned();
        let mut answer = match self.answer(&call, &path, body).await {
            Ok(answer) => answer,
            Err(refusal) => refused(&refusal),
        };
        answer.headers_mut().insert(VERSION, HeaderValue::from_static("registry/2.0"));
        // The length stays: it is what a HEAD is for.
        if call.method == Method::HEAD {
            *answer.body_mut() = empty();
        }
        answer
    }

    async fn answer(self: &Arc<Self>, call: &Call, path: &str, body: Incoming) -> Answer {
        let Some(route) = Route::of(path) else {
            return Err(Refusal::unsupported(StatusCode::NOT_FOUND, format!("no such endpoint: {path}")));
        };
        // Clients ask the base whether they have to say who they are: one that was let in would push without saying it.
        let base = matches!(route, Ok(Route::Base));
        let writes = base || !matches!(call.method, Method::GET | Method::HEAD);
        let (this, headers) = (self.clone(), call.headers.clone());
        if !blocking(move || Ok(this.access.allows(&headers, writes))).await? {
            return Err(Refusal::unauthorized());
        }
        let route = route?;
        if !route.methods().contains(&call.method) {
            let message = format!("{} is not for this endpoint", call.method);
            let mut answer = refused(&Refusal::unsupported(StatusCode::METHOD_NOT_ALLOWED, message));
            let allowed: Vec<&str> = route.methods().iter().map(Method::as_str).collect();
            answer.headers_mut().insert(ALLOW, text(&allowed.join(", ")));
            return Ok(answer);
        }
        if self.proxy.is_some() && !matches!(call.method, Method::GET | Method::HEAD) {
            let message = "this registry is a pull-through cache: push to the one it is a cache of";
            return Err(Refusal::unsupported(StatusCode::METHOD_NOT_ALLOWED, message));
        }
        match route {
            Route::Base => Ok(document(StatusCode::OK, "application/json", b"{}".to_vec())),
            Route::Catalog => {
                let store = self.store.clone();
                let names = blocking(move || store.repositories()).await?;
                paged(call, names, "/v2/_catalog", |names| json!({"repositories": names}))
            }
            Route::Tags { name } => {
                if let Some(proxy) = &self.proxy
                    && let Some(tags) = proxy.tags(&name).await?
                {
                    let page = |tags: &[String]| json!({"name": name, "tags": tags});
                    return paged(call, tags, &format!("/v2/{name}/tags/list"), page);
                }
                let (store, of) = (self.store.clone(), name.clone());
                let (known, tags) = blocking(move || Ok((store.exists(&of), store.tags(&of)?))).await?;
                if !known {
                    return Err(Refusal::name_unknown(&name));
                }
                paged(call, tags, &format!("/v2/{name}/tags/list"), |tags| json!({"name": name, "tags": tags}))
            }
            Route::Manifest { name, selector } => self.manifest(call, name, selector, body).await,
            Route::Referrers { name, digest } => self.referrers(call, name, digest).await,
            Route::Blob { name, digest } => self.blob(call, name, digest).await,
            Route::Uploads { name } => self.begin(call, name, body).await,
            Route::Upload { name, id } => self.upload(call, name, id, body).await,
        }
    }
}

/// A page of `all` (`n`, `last`), with a link to the next (distribution-spec, "Listing Tags").
fn paged(call: &Call, all: Vec<String>, path: &str, page: impl Fn(&[String]) -> Value) -> Answer {
    let wanted = match call.query.get("n").map(|n| n.parse::<usize>()) {
        None => PAGE,
        Some(Ok(n)) => n.min(PAGE),
        Some(Err(_)) => {
            let message = "invalid number of results requested";
            return Err(Refusal::unsupported(StatusCode::BAD_REQUEST, message));
        }
    };
    let start = call.query.get("last").map_or(0, |last| all.partition_point(|entry| entry <= last));
    let rest = &all[start..];
    let shown = &rest[..wanted.min(rest.len())];
    let mut answer = document(StatusCode::OK, "application/json", page(shown).to_string().into_bytes());
    if let Some(last) = shown.last().filter(|_| shown.len() < rest.len()) {
        let last = percent_encoding::utf8_percent_encode(last, percent_encoding::NON_ALPHANUMERIC);
        answer.headers_mut().insert(LINK, text(&format!("<{path}?last={last}&n={wanted}>; rel=\"next\"")));
    }
    Ok(answer)
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let mut answer = document(refusal.status, "application/json", refusal.document().to_string().into_bytes());
    if refusal.status == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Windlass registry\""));
    }
    answer
}

/// An answer with a body that is in memory.
pub(crate) fn document(status: StatusCode, media_type: &str, bytes: Vec<u8>) -> Response<Body> {
    let length = HeaderValue::from(bytes.len());
    let mut answer = Response::new(Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, text(media_type));
    answer.headers_mut().insert(CONTENT_LENGTH, length);
    answer
}

/// An answer without a body.
pub(crate) fn bare(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(empty());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    answer
}

fn empty() -> Body {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed()
}

/// A header's value; what cannot be one is left empty.
pub(crate) fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""))
}

/// Runs what waits for the disk or computes for long.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> StoreResult<T> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => {
            tracing::error!(error = %base::chain(&error), "a request ended early");
            Err(Refusal::unsupported(StatusCode::INTERNAL_SERVER_ERROR, "unknown error"))
        }
    }
}
