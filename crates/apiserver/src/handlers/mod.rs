//! From a request to its answer.

use std::sync::Arc;

use api::kinds::{KindInfo, registry};
use api::status::ApiError;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::authn::{Sender, UserInfo, same_secret};
use crate::authz::{self, Attributes};
use crate::cache::KindCache;
use crate::http::accept::{self, Form};
use crate::http::body::{self, Body, RequestBody};
use crate::http::path::{self, ResourcePath, Target};
use crate::http::query::Query;
use crate::http::respond::{self, Reply, Style};
use crate::server::ApiServer;

mod binding;
mod collection;
mod create;
pub(crate) mod delete;
mod discovery;
mod health;
mod impersonate;
mod input;
mod list;
mod openapi_v2;
mod patch;
mod render;
mod resource;
mod review;
mod scale;
mod token;
mod update;
mod watch;
pub(crate) mod write;

pub use discovery::Documents;
pub use health::version;

/// A request for a resource, recognised and allowed.
pub(crate) struct Call {
    pub server: Arc<ApiServer>,
    pub user: Arc<UserInfo>,
    pub method: Method,
    pub headers: HeaderMap,
    pub path: ResourcePath,
    pub verb: &'static str,
    pub query: Query,
    pub form: Form,
    pub style: Style,
    /// In a lock only because bodies of local clients cannot be shared between threads, which a request must be.
    pub body: Mutex<Option<RequestBody>>,
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
    /// The place of a stream, to be held as long as it lasts.
    pub place: Option<OwnedSemaphorePermit>,
}

/// The kind a request is about, with its cache.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub kind: &'a KindInfo,
    pub cache: &'a Arc<KindCache>,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl Scope<'_> {
    /// `NAMESPACE/NAME`, or `NAME`.
    pub fn key(&self) -> String {
        self.key_of(self.name)
    }

    /// The same for another name.
    pub fn key_of(&self, name: &str) -> String {
        if self.kind.namespaced { format!("{}/{name}", self.namespace) } else { name.to_owned() }
    }

    /// 404 for the object.
    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(self.kind.plural, self.kind.group, self.name)
    }
}

impl Call {
    /// The body, whole.
    pub async fn read_body(&mut self) -> Result<bytes::Bytes, ApiError> {
        match self.body.get_mut().take() {
            Some(body) => body::read_all(body, self.server.config.limits.body_bytes).await,
            None => Ok(bytes::Bytes::new()),
        }
    }

    /// Who writes: `fieldManager`, or the first word of the user agent before its slash.
    pub fn manager(&self) -> String {
        if !self.query.manager.is_empty() {
            return self.query.manager.clone();
        }
        let agent = self.headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let name = agent.split('/').next().unwrap_or("");
        if name.is_empty() { "unknown".to_owned() } else { name.chars().take(128).collect() }
    }

    /// An answer of JSON.
    pub fn reply(&self, code: StatusCode, value: &serde_json::Value) -> Reply {
        respond::value(code, value, self.style)
    }
}

/// Answers a request.
pub(crate) async fn handle(server: &Arc<ApiServer>, request: Request<RequestBody>, sender: Sender) -> Reply {
    let (mut parts, body) = request.into_parts();
    let raw_query = parts.uri.query().unwrap_or("");
    let style = Style::of(&parts.headers, raw_query.contains("pretty=") && !raw_query.contains("pretty=false"));
    if let Some(reply) = health::public(server, &parts.method, parts.uri.path(), raw_query, style) {
        return reply;
    }
    let head = parts.method == Method::HEAD;
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let result = async {
        let user = authenticate(server, &parts.headers, &sender)?;
        let user = impersonate::apply(server, user, &parts.headers)?;
        let target = path::parse(parts.uri.path()).ok_or_else(ApiError::path_not_found)?;
        match target {
            Target::Path(path) => {
                let verb = parts.method.as_str().to_ascii_lowercase();
                let asked = Attributes { verb: &verb, path: &path, ..blank(&user) };
                authorize(server, &asked)?;
                discovery::serve(server, &parts.method, &path, &parts.headers, raw_query, style).await
            }
            Target::Resource(path) => {
                let query = Query::parse(raw_query)?;
                let verb =
                    path::verb(&parts.method, &path, query.watch).ok_or_else(ApiError::method_not_allowed_path)?;
                let asked = attributes(&user, verb, &path);
                authorize(server, &asked)?;
                let form = accept::form(&parts.headers)?;
                let (method, headers) = (parts.method.clone(), std::mem::take(&mut parts.headers));
                let (server, body) = (server.clone(), Mutex::new(Some(body)));
                let place = None;
                admitted(Call { server, user, method, headers, path, verb, query, form, style, body, upgrade, place })
                    .await
            }
        }
    };
    let mut reply = result.await.unwrap_or_else(|error| respond::error(&error, style));
    if head {
        *reply.body_mut() = Body::Empty;
    }
    reply
}

fn blank(user: &UserInfo) -> Attributes<'_> {
    Attributes { user, verb: "", group: "", resource: "", subresource: "", namespace: "", name: "", path: "" }
}

fn attributes<'a>(user: &'a UserInfo, verb: &'a str, path: &'a ResourcePath) -> Attributes<'a> {
    Attributes {
        verb,
        group: &path.group,
        resource: &path.resource,
        subresource: &path.subresource,
        namespace: &path.namespace,
        name: &path.name,
        ..blank(user)
    }
}

fn authorize(server: &ApiServer, asked: &Attributes<'_>) -> Result<(), ApiError> {
    if authz::allowed(&server.authorizers, asked, &server.caches) {
        return Ok(());
    }
    Err(ApiError::forbidden(asked.resource, asked.group, asked.name, &asked.refusal()))
}

fn authenticate(server: &ApiServer, headers: &HeaderMap, sender: &Sender) -> Result<Arc<UserInfo>, ApiError> {
    let certificate = match sender {
        Sender::Trusted(user) => return Ok(user.clone()),
        Sender::Connection(certificate) => certificate,
    };
    if let Some(user) = certificate {
        return Ok(user.clone());
    }
    let header = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).ok_or_else(ApiError::unauthorized)?;
    let (scheme, token) = header.split_once(' ').ok_or_else(ApiError::unauthorized)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(ApiError::unauthorized());
    }
    if let Some(admin) = &server.config.admin_token
        && same_secret(admin.as_bytes(), token.as_bytes())
    {
        return Ok(Arc::new(UserInfo::new("kubernetes-admin", &[crate::pki::MASTERS])));
    }
    server.tokens.check(&server.caches, token, None).map_err(|error| {
        tracing::debug!(%error, "bearer token refused");
        ApiError::unauthorized()
    })
}

/// Takes a place among the requests under way and bounds the time of those that end by themselves.
async fn admitted(mut call: Call) -> Result<Reply, ApiError> {
    let server = call.server.clone();
    let limits = &server.config.limits;
    if is_stream(&call) {
        call.place = Some(server.streams.clone().try_acquire_owned().map_err(|_| too_many())?);
        return resource::serve(call).await;
    }
    let reads = matches!(call.verb, "get" | "list");
    let _place = place(if reads { &server.reads } else { &server.writes }).await?;
    match tokio::time::timeout(limits.request_timeout, resource::serve(call)).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::timeout("request did not complete within the allotted timeout", 0)),
    }
}

/// How long a request waits for its place before it is turned away.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

async fn place(places: &Semaphore) -> Result<SemaphorePermit<'_>, ApiError> {
    match tokio::time::timeout(PATIENCE, places.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(too_many()),
    }
}

fn too_many() -> ApiError {
    ApiError::too_many_requests("Too many requests, please try again later.", 1)
}

fn is_stream(call: &Call) -> bool {
    call.verb == "watch"
        || matches!(call.path.subresource.as_str(), "log" | "exec" | "attach" | "portforward")
            && call.path.resource == "pods"
}

/// The kind served at a path.
pub(crate) fn kind_of(path: &ResourcePath) -> Option<&'static KindInfo> {
    registry().by_resource(&path.group, &path.version, &path.resource)
}
