//! From a request to its answer.

use std::sync::Arc;

use api::kinds::{KindInfo, registry};
use api::selectors::FieldSelector;
use api::status::ApiError;
use base::trace::Span;
use http::header::{AUTHORIZATION, HeaderName, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::admission::Warnings;
use crate::audit::Trail;
use crate::authn::{self, Sender, UserInfo};
use crate::authz::{self, Attributes};
use crate::cache::KindCache;
use crate::flow::requests::Asked;
use crate::flow::watched::Registered;
use crate::flow::work::Width;
use crate::flow::{self, Pass, Uids};
use crate::http::accept::{self, Form};
use crate::http::body::{self, Body, RequestBody};
use crate::http::path::{self, ResourcePath, Target};
use crate::http::query::Query;
use crate::http::respond::{self, Reply, Style};
use crate::server::ApiServer;

mod binding;
mod collection;
mod components;
mod create;
pub(crate) mod delete;
mod discovery;
mod health;
mod impersonate;
mod input;
mod list;
pub(crate) mod metrics;
mod openapi_v2;
mod passing;
mod patch;
mod render;
mod resource;
mod review;
mod scale;
mod token;
mod update;
mod watch;
pub(crate) mod write;

pub use components::{CONTROLLERS, Components, SCHEDULER};
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
    /// For the client, beside the answer.
    pub warnings: Arc<Warnings>,
    /// The place of a stream, to be held as long as it lasts.
    pub place: Option<OwnedSemaphorePermit>,
    /// A watch counts among those that a write is told to as long as this lasts.
    pub watched: Option<Registered>,
    /// What the audit log is told.
    pub trail: Trail,
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
            Some(body) => {
                let bytes = body::read_all(body, self.server.config.limits.body_bytes).await?;
                self.trail.request(&bytes);
                Ok(bytes)
            }
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
// allow-long: the steps of every request, in their order
pub(crate) async fn handle(server: &Arc<ApiServer>, request: Request<RequestBody>, sender: Sender) -> Reply {
    let (mut parts, body) = request.into_parts();
    let raw_query = parts.uri.query().unwrap_or("");
    let style = Style::of(&parts.headers, raw_query.contains("pretty=") && !raw_query.contains("pretty=false"));
    if let Some(reply) = health::public(server, &parts.method, parts.uri.path(), raw_query, style) {
        return reply;
    }
    let (head, warnings) = (parts.method == Method::HEAD, Arc::new(Warnings::default()));
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let mut measured = server.meter.begin();
    let mut span = traced(server, &parts);
    let (mut trail, mut uids) = (Trail::begin(server.audit.as_ref(), &parts, &sender), None);
    let result = async {
        let target = path::parse(parts.uri.path());
        let verb = verb_of(&parts.method, target.as_ref(), raw_query);
        let sent = authenticate(server, &parts.headers, &sender).await;
        let known = sent.as_deref().ok();
        trail = std::mem::take(&mut trail).known(known, &verb, target.as_ref(), parts.uri.path());
        let sent = sent?;
        let user = acting(server, &sent, &verb, target.as_ref(), &parts.headers, &trail)?.unwrap_or(sent);
        let target = target.ok_or_else(ApiError::path_not_found)?;
        measured.asks(server, &verb, &target, &parts.headers);
        if let Some(way) = passing::way(server, &target) {
            let head = (parts.method.clone(), parts.uri.clone(), std::mem::take(&mut parts.headers));
            let onward = passing::onward(server, user, head, (body, upgrade), &sender);
            return passing::serve(onward, way, &target, &trail, &warnings).await;
        }
        match target {
            Target::Path(path) => {
                let asked = Attributes { verb: &verb, path: &path, ..Attributes::blank(&user) };
                let _pass = pass(server, &asked, (parts.uri.path(), None), &mut uids).await?;
                authorize(server, &asked, &trail)?;
                discovery::serve(server, &parts.method, &path, &parts.headers, raw_query, trail.style(style)).await
            }
            Target::Resource(path) => {
                let query = Query::parse(raw_query)?;
                let verb =
                    path::verb(&parts.method, &path, query.watch).ok_or_else(ApiError::method_not_allowed_path)?;
                let fields = FieldSelector::parse(&query.fields)?;
                let asked = attributes(&user, verb, &path, &fields);
                let pass = pass(server, &asked, (parts.uri.path(), Some((&path, &query))), &mut uids).await?;
                authorize(server, &asked, &trail)?;
                if verb == "get" && runs_in_pod(&path) {
                    authorize(server, &attributes(&user, "create", &path, &fields), &trail)?;
                }
                let (form, style) = negotiate(server, &parts.headers, &path, verb, style)?;
                let watched = if verb == "watch" { server.flow.watched.register(&asked) } else { None };
                let (method, headers) = (parts.method.clone(), std::mem::take(&mut parts.headers));
                let (server, body, place) = (server.clone(), Mutex::new(Some(body)), None);
                let (style, trail, warnings) = (trail.style(style), trail.clone(), warnings.clone());
                let call = Call {
                    server,
                    user,
                    method,
                    headers,
                    path,
                    verb,
                    query,
                    form,
                    style,
                    body,
                    upgrade,
                    warnings,
                    place,
                    watched,
                    trail,
                };
                admitted(call, pass).await
            }
        }
    };
    let reply = result.await.unwrap_or_else(|error| {
        trail.failed(&error);
        respond::error(&error, style)
    });
    measured.ended(reply.status().as_u16());
    ended(span.as_mut(), reply.status());
    let told = warnings.take();
    trail.annotate(warnings.take_notes());
    trail.answered(completed(reply, uids, &told, head))
}

/// The span of a request, when it is recorded. Of a stream it ends with the head of the answer.
fn traced(server: &ApiServer, parts: &http::request::Parts) -> Option<Span> {
    let tracer = &server.config.tracer;
    if !tracer.is_on() {
        return None;
    }
    let header = |name| parts.headers.get(name).and_then(|v| v.to_str().ok());
    let span = tracer.request(header(HeaderName::from_static("traceparent")), "KubernetesAPI");
    span.is_on().then(|| {
        span.with("http.request.method", || &parts.method)
            .with("url.path", || parts.uri.path())
            .with("user_agent.original", || header(USER_AGENT).unwrap_or_default())
    })
}

fn ended(span: Option<&mut Span>, code: StatusCode) {
    if let Some(span) = span {
        span.set("http.response.status_code", || code.as_str().to_owned());
        if code.is_server_error() {
            span.fail(|| code);
        }
    }
}

/// The answer with what stands beside it.
fn completed(mut reply: Reply, uids: Option<Uids>, warnings: &[String], head: bool) -> Reply {
    respond::warn(&mut reply, warnings);
    if let Some(uids) = uids {
        uids.tell(reply.headers_mut());
    }
    if head {
        *reply.body_mut() = Body::Empty;
    }
    reply
}

/// What the answer will be.
fn negotiate(
    server: &ApiServer,
    headers: &HeaderMap,
    path: &ResourcePath,
    verb: &str,
    style: Style,
) -> Result<(Form, Style), ApiError> {
    if matches!(path.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy") {
        // Somebody else answers, in whatever form.
        return Ok((Form::Object, style));
    }
    let has_message = || {
        let custom = server.caches.custom();
        path.subresource == "scale" || custom.find(&path.group, &path.version, &path.resource).is_none()
    };
    let accepted = accept::negotiate(headers, verb == "watch", has_message)?;
    let pretty = style.pretty || accepted.pretty;
    Ok((accepted.form, Style { protobuf: accepted.protobuf, yaml: accepted.yaml, pretty, ..style }))
}

/// The verb for the audit log, which is to know it also of requests that are not understood.
fn verb_of(method: &Method, target: Option<&Target>, query: &str) -> String {
    let resource = match target {
        Some(Target::Resource(path)) => path::verb(method, path, Query::asks_to_watch(query)).map(str::to_owned),
        _ => None,
    };
    resource.unwrap_or_else(|| method.as_str().to_ascii_lowercase())
}

/// Whom the sender acts as, if that is somebody else.
fn acting(
    server: &ApiServer,
    sent: &UserInfo,
    verb: &str,
    target: Option<&Target>,
    headers: &HeaderMap,
    trail: &Trail,
) -> Result<Option<Arc<UserInfo>>, ApiError> {
    let guise = impersonate::apply(server, &asked_of(sent, verb, target), headers)?;
    Ok(guise.map(|guise| {
        trail.acts_as(&guise.user, &guise.constraint);
        guise.user
    }))
}

/// What is asked for, as far as the path says it.
fn asked_of<'a>(user: &'a UserInfo, verb: &'a str, target: Option<&'a Target>) -> Attributes<'a> {
    match target {
        Some(Target::Resource(path)) => Attributes {
            verb,
            group: &path.group,
            resource: &path.resource,
            subresource: &path.subresource,
            namespace: &path.namespace,
            name: &path.name,
            ..Attributes::blank(user)
        },
        Some(Target::Path(path)) => Attributes { verb, path, ..Attributes::blank(user) },
        None => Attributes { verb, ..Attributes::blank(user) },
    }
}

fn attributes<'a>(
    user: &'a UserInfo,
    verb: &'a str,
    path: &'a ResourcePath,
    fields: &'a FieldSelector,
) -> Attributes<'a> {
    let many = matches!(verb, "list" | "watch" | "deletecollection");
    let selected = |field: &str| fields.exact(field).filter(|_| many).unwrap_or("");
    Attributes {
        verb,
        group: &path.group,
        resource: &path.resource,
        subresource: &path.subresource,
        namespace: &path.namespace,
        // A list of the one object that somebody may read is allowed to him.
        name: if path.name.is_empty() { selected("metadata.name") } else { &path.name },
        node: selected("spec.nodeName"),
        ..Attributes::blank(user)
    }
}

fn authorize(server: &ApiServer, asked: &Attributes<'_>, trail: &Trail) -> Result<(), ApiError> {
    let (chain, caches) = (&server.authorizers, &server.caches);
    let allowed = authz::allowed(chain, asked, caches);
    if trail.is_on() {
        trail.decided(allowed, &chain.reason(asked, caches));
    }
    if allowed {
        return Ok(());
    }
    let why = authz::refusal(chain, asked, caches);
    Err(ApiError::forbidden(asked.resource, asked.group, asked.name, &why))
}

async fn authenticate(server: &ApiServer, headers: &HeaderMap, sender: &Sender) -> Result<Arc<UserInfo>, ApiError> {
    let certificate = match sender {
        Sender::Trusted(user) => return Ok(user.clone()),
        Sender::Connection { user, .. } => user,
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
    let known = authn::bearer(server, token, None).await;
    known.map(|bearer| bearer.user).map_err(|why| {
        tracing::debug!(why, "bearer token refused");
        ApiError::unauthorized()
    })
}

/// Waits until API Priority and Fairness lets the request run. By which objects it was classified goes to `uids`.
async fn pass(
    server: &ApiServer,
    asked: &Attributes<'_>,
    (url, of): (&str, Option<(&ResourcePath, &Query)>),
    uids: &mut Option<Uids>,
) -> Result<Pass, ApiError> {
    if is_long(asked) {
        return Ok(Pass::Exempt);
    }
    let class = server.flow.classify(asked);
    *uids = Some(class.uids.clone());
    let width = match (class.widest(), of) {
        (Some(most), Some((path, query))) => width(server, asked, path, query, most),
        _ => Width::seats(1),
    };
    let version = of.map_or("", |(path, _)| path.version.as_str());
    server.flow.enter(&class, width, &asked.user.name, || Asked::new(asked, url, version)).await
}

/// What a request takes.
fn width(server: &ApiServer, asked: &Attributes<'_>, path: &ResourcePath, query: &Query, most: u32) -> Width {
    // Making a token changes nothing that somebody could watch.
    let changes = matches!(asked.verb, "create" | "update" | "patch" | "delete" | "deletecollection")
        && (asked.resource, asked.subresource) != ("serviceaccounts", "token");
    if changes {
        return flow::work::written(server.flow.watched.interested(asked), most);
    }
    Width::seats(seats(server, asked, path, query, most))
}

/// Objects of a kind that are looked at for their size.
const SAMPLE: usize = 16;

/// Seats that a request takes. A watch that begins with what is there begins with a list.
fn seats(server: &ApiServer, asked: &Attributes<'_>, path: &ResourcePath, query: &Query, most: u32) -> u32 {
    let lists = match asked.verb {
        "list" => true,
        "watch" => query.initial_events == Some(true) || query.revision.unwrap_or(0) == 0,
        _ => false,
    };
    // A list by name is one object.
    if !lists || !asked.name.is_empty() {
        return 1;
    }
    let cache = match kind_of(path) {
        Some(kind) => Some(server.caches.of(kind).clone()),
        None => server.caches.custom().find(&path.group, &path.version, &path.resource).map(|(_, cache)| cache.clone()),
    };
    let Some(cache) = cache else { return 1 };
    let (mut bytes, mut seen) = (0, 0);
    cache.find_map(|entry| {
        bytes += entry.bytes.len();
        seen += 1;
        (seen == SAMPLE).then_some(())
    });
    let average = (bytes / seen.max(1)) as u64;
    let stored = flow::work::Stored { objects: cache.len() as u64, average };
    flow::work::seats(stored, query.limit as u64, most)
}

/// Bounds the time of requests that end by themselves, and the number of those that API Priority and Fairness does not: a
/// watch counts there until it has begun, other streams do not at all, and neither do exempt users.
async fn admitted(mut call: Call, pass: Pass) -> Result<Reply, ApiError> {
    let server = call.server.clone();
    let limits = &server.config.limits;
    if is_stream(&call) {
        call.place = Some(server.streams.clone().try_acquire_owned().map_err(|_| flow::too_many())?);
        return resource::serve(call).await;
    }
    let reads = matches!(call.verb, "get" | "list");
    let _place = match pass {
        Pass::Seat { .. } => None,
        Pass::Exempt => Some(place(if reads { &server.reads } else { &server.writes }).await?),
    };
    match tokio::time::timeout(limits.request_timeout, resource::serve(call)).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::timeout("request did not complete within the allotted timeout", 0)),
    }
}

/// How long an exempt request waits for its place, which bounds memory, before it is turned away.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

async fn place(places: &Semaphore) -> Result<SemaphorePermit<'_>, ApiError> {
    match tokio::time::timeout(PATIENCE, places.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(flow::too_many()),
    }
}

/// Streams that are no watches, whose work is done elsewhere.
fn is_long(asked: &Attributes<'_>) -> bool {
    asked.verb == "proxy" || matches!(asked.subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// What runs in a pod or talks to it is more than reading, whatever the method: web sockets begin with GET (Kubernetes'
/// gate AuthorizePodWebsocketUpgradeCreatePermission).
fn runs_in_pod(path: &ResourcePath) -> bool {
    path.group.is_empty()
        && path.resource == "pods"
        && matches!(path.subresource.as_str(), "exec" | "attach" | "portforward")
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
