//! One request: find its backend, try endpoints until one answers, pass the answer on.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version, request};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::body::{Progress, RequestBody, ResponseBody};
use crate::headers::{self, Client};
use crate::pool::{Endpoint, IDLE_AGE, IDLE_AGE_ONCE, Lease, Sender};
use crate::route::normal_host;
use crate::server::Limits;
use crate::state::Current;
use crate::stats::Stats;

/// Tries per request, the first one included.
const TRIES_MAX: usize = 6;
/// Pause before all endpoints are tried once more, times the number of tries: a table that is about to change gets the
/// time to.
const PAUSE: Duration = Duration::from_millis(20);
/// Bodies up to this size are held in memory when their request may be sent again.
const HELD_BODY_MAX: u64 = 64 * 1024;
/// A kept connection that is not ready by then is not worth waiting for.
const READY_TIMEOUT: Duration = Duration::from_millis(100);

/// What all requests share.
pub(crate) struct Shared {
    pub state: Current,
    pub stats: Stats,
    pub limits: Limits,
    pub trust_forwarded: bool,
    /// Ends upgraded connections.
    pub stop: CancellationToken,
}

/// Why the client gets an answer of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    BadHost,
    NoRoute,
    Method,
    TooLarge,
    SlowBody,
    NoEndpoint,
    BadEndpoint,
    SlowEndpoint,
}

impl Refusal {
    fn status(self) -> (StatusCode, &'static str) {
        match self {
            Refusal::BadHost => (StatusCode::BAD_REQUEST, "bad request: no valid host\n"),
            Refusal::NoRoute => (StatusCode::NOT_FOUND, "not found: no ingress has this host and path\n"),
            Refusal::Method => (StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n"),
            Refusal::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the request body is too large\n"),
            Refusal::SlowBody => (StatusCode::REQUEST_TIMEOUT, "the request body did not come in time\n"),
            Refusal::NoEndpoint => (StatusCode::SERVICE_UNAVAILABLE, "service unavailable: no endpoint is ready\n"),
            Refusal::BadEndpoint => (StatusCode::BAD_GATEWAY, "bad gateway: the endpoint failed\n"),
            Refusal::SlowEndpoint => (StatusCode::GATEWAY_TIMEOUT, "gateway timeout: the endpoint did not answer\n"),
        }
    }
}

/// A request taken apart, so that it can be put together for each try.
struct Prepared {
    head: request::Parts,
    host: String,
    /// The upgrade asked for, with the client's side of it.
    upgrade: Option<(HeaderValue, OnUpgrade)>,
    body: Pending,
    progress: Arc<Progress>,
}

/// The body until it is sent.
enum Pending {
    /// Can be sent as often as needed.
    Whole(Bytes),
    /// Can be sent once; here until some try has begun to.
    Once(Option<RequestBody>),
}

impl Pending {
    fn next(&mut self) -> Option<RequestBody> {
        match self {
            Pending::Whole(bytes) => Some(RequestBody::whole(bytes)),
            Pending::Once(body) => body.take(),
        }
    }

    fn give_back(&mut self, body: RequestBody) {
        if let Pending::Once(slot) = self {
            *slot = Some(body);
        }
    }
}

/// How one try ended.
enum Tried {
    Answer(Response<Incoming>, Lease),
    /// Nothing was sent, or the same may be sent again.
    Again(Refusal),
    Final(Refusal),
}

/// Answers one request, whatever happens.
pub(crate) async fn handle(shared: Arc<Shared>, client: Client, request: Request<Incoming>) -> Response<ResponseBody> {
    let started = Instant::now();
    shared.stats.requests.add();
    let (method, version) = (request.method().clone(), request.version());
    let target = tracing::enabled!(tracing::Level::DEBUG).then(|| request.uri().clone());
    let response = match prepare(&shared, client, request).await {
        Ok(prepared) => match forward(&shared, prepared).await {
            Ok(response) => response,
            Err(refusal) => refuse(refusal),
        },
        Err(refusal) => refuse(refusal),
    };
    let status = response.status();
    if let Some(counter) = shared.stats.by_class.get(usize::from(status.as_u16() / 100)) {
        counter.add();
    }
    if let Some(target) = target {
        let status = status.as_u16();
        let took = started.elapsed();
        tracing::debug!(target: "ingress::access", client = %client.ip, %method, %target, ?version, status, ?took);
    }
    response
}

fn refuse(refusal: Refusal) -> Response<ResponseBody> {
    let (status, text) = refusal.status();
    let mut response = Response::new(ResponseBody::Own(Some(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if matches!(refusal, Refusal::TooLarge | Refusal::SlowBody) {
        // The rest of the body is not read: the connection is of no more use.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Checks the request, and makes its head what the endpoint will see.
async fn prepare(shared: &Shared, client: Client, mut request: Request<Incoming>) -> Result<Prepared, Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::Method);
    }
    let (host, host_header) = host_of(&request).ok_or(Refusal::BadHost)?;
    // Routed before anything is read: what has no place to go costs nothing.
    if shared.state.load().route(&host, request.uri().path()).is_none() {
        shared.stats.unrouted.add();
        return Err(Refusal::NoRoute);
    }
    let length = request.body().size_hint().exact();
    if length.is_some_and(|n| n > shared.limits.body_bytes) {
        return Err(Refusal::TooLarge);
    }
    let upgrade = headers::upgrade(request.headers())
        .filter(|_| request.version() == Version::HTTP_11)
        .map(|to| (to, hyper::upgrade::on(&mut request)));
    let (mut head, body) = request.into_parts();
    headers::to_endpoint(&mut head.headers, client, &host_header, shared.trust_forwarded);
    if let Some((to, _)) = &upgrade {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, to.clone());
    }
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from(path);
    let progress = Arc::new(Progress::default());
    let idle = shared.limits.body_idle;
    let body = if body.is_end_stream() {
        Pending::Whole(Bytes::new())
    } else if head.method.is_idempotent() && length.is_some_and(|n| n <= HELD_BODY_MAX) {
        let read = timeout(idle, Limited::new(body, HELD_BODY_MAX as usize).collect()).await;
        Pending::Whole(read.map_err(|_| Refusal::SlowBody)?.map_err(|_| Refusal::BadHost)?.to_bytes())
    } else {
        Pending::Once(Some(RequestBody::stream(body, shared.limits.body_bytes, idle, progress.clone())))
    };
    Ok(Prepared { head, host, upgrade, body, progress })
}

/// The host to route by, and the one to pass on. That of the target comes before the header (RFC 9112, 3.2.2); two
/// headers are an attempt to be understood in two ways.
fn host_of<B>(request: &Request<B>) -> Option<(String, HeaderValue)> {
    let mut given = request.headers().get_all(header::HOST).iter();
    let (first, second) = (given.next(), given.next());
    if second.is_some() {
        return None;
    }
    if let Some(authority) = request.uri().authority() {
        return Some((normal_host(authority.as_str())?, HeaderValue::from_str(authority.as_str()).ok()?));
    }
    let value = first?;
    Some((normal_host(value.to_str().ok()?)?, value.clone()))
}

async fn forward(shared: &Arc<Shared>, mut prepared: Prepared) -> Result<Response<ResponseBody>, Refusal> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut last = Refusal::BadEndpoint;
    let mut fresh = false;
    let mut repeat: Option<Arc<Endpoint>> = None;
    for turn in 0..TRIES_MAX {
        if turn > 0 {
            shared.stats.retries.add();
        }
        let endpoint = match repeat.take() {
            Some(endpoint) => endpoint,
            None => match pick(shared, &prepared, &tried)? {
                Some(endpoint) => endpoint,
                None => {
                    // All have been tried. By now there may be others.
                    tokio::time::sleep(PAUSE * turn as u32).await;
                    tried.clear();
                    match pick(shared, &prepared, &tried)? {
                        Some(endpoint) => endpoint,
                        None => return Err(last),
                    }
                }
            },
        };
        let kept = if fresh { None } else { kept_connection(&endpoint, &prepared).await };
        let was_kept = kept.is_some();
        match attempt(shared, &endpoint, kept, &mut prepared).await {
            Tried::Answer(response, lease) => return Ok(answer(shared, prepared, response, lease)),
            Tried::Final(refusal) => return Err(refusal),
            Tried::Again(refusal) => {
                last = refusal;
                if was_kept {
                    // A kept connection that failed says little about the endpoint: a new one will tell.
                    fresh = true;
                    repeat = Some(endpoint);
                } else {
                    tried.push(endpoint.address);
                }
            }
        }
    }
    Err(last)
}

/// An endpoint that has not been tried, of the state in force now. `None` when all have been.
fn pick(shared: &Shared, prepared: &Prepared, tried: &[SocketAddr]) -> Result<Option<Arc<Endpoint>>, Refusal> {
    let state = shared.state.load();
    let Some(balancer) = state.route(&prepared.host, prepared.head.uri.path()) else {
        shared.stats.unrouted.add();
        return Err(Refusal::NoRoute);
    };
    if balancer.is_empty() {
        shared.stats.without_endpoint.add();
        return Err(Refusal::NoEndpoint);
    }
    Ok(balancer.pick(tried).cloned())
}

async fn kept_connection(endpoint: &Endpoint, prepared: &Prepared) -> Option<Sender> {
    let again = prepared.head.method.is_idempotent() && matches!(prepared.body, Pending::Whole(_));
    let age = if again { IDLE_AGE } else { IDLE_AGE_ONCE };
    while let Some(mut sender) = endpoint.take(age) {
        if sender.is_ready() || matches!(timeout(READY_TIMEOUT, sender.ready()).await, Ok(Ok(()))) {
            return Some(sender);
        }
    }
    None
}

async fn attempt(shared: &Shared, endpoint: &Arc<Endpoint>, kept: Option<Sender>, prepared: &mut Prepared) -> Tried {
    let whole = matches!(prepared.body, Pending::Whole(_));
    let mut lease = Lease::new(endpoint.clone(), prepared.progress.clone(), whole);
    let mut sender = match kept {
        Some(sender) => {
            shared.stats.reused.add();
            sender
        }
        None => match endpoint.connect(shared.limits.connect).await {
            Ok(sender) => {
                shared.stats.connects.add();
                sender
            }
            Err(error) => {
                shared.stats.connect_failures.add();
                endpoint.mark_failed();
                tracing::debug!(endpoint = %endpoint.address, %error, "cannot connect");
                let slow = error.kind() == std::io::ErrorKind::TimedOut;
                return Tried::Again(if slow { Refusal::SlowEndpoint } else { Refusal::BadEndpoint });
            }
        },
    };
    let Some(body) = prepared.body.next() else { return Tried::Final(Refusal::BadEndpoint) };
    let mut request = Request::new(body);
    *request.method_mut() = prepared.head.method.clone();
    *request.uri_mut() = prepared.head.uri.clone();
    *request.headers_mut() = prepared.head.headers.clone();
    let sent = sender.try_send_request(request);
    match in_time(sent, shared.limits.response, &prepared.progress).await {
        None => Tried::Final(Refusal::SlowEndpoint),
        Some(Ok(response)) => {
            lease.hold(sender);
            Tried::Answer(response, lease)
        }
        Some(Err(mut error)) => {
            if let Some(unsent) = error.take_message() {
                prepared.body.give_back(unsent.into_body());
                return Tried::Again(Refusal::BadEndpoint);
            }
            if prepared.progress.too_large() {
                return Tried::Final(Refusal::TooLarge);
            }
            tracing::debug!(endpoint = %endpoint.address, error = %error.error(), "request failed");
            if whole && prepared.head.method.is_idempotent() {
                Tried::Again(Refusal::BadEndpoint)
            } else {
                Tried::Final(Refusal::BadEndpoint)
            }
        }
    }
}

/// Waits for the head of the answer; as long as the body of the request moves, the time does not run.
async fn in_time<T>(answer: impl Future<Output = T>, limit: Duration, progress: &Progress) -> Option<T> {
    let mut answer = pin!(answer);
    loop {
        let before = progress.bytes();
        match timeout(limit, &mut answer).await {
            Ok(answer) => return Some(answer),
            Err(_) if progress.bytes() > before => {}
            Err(_) => return None,
        }
    }
}

fn answer(
    shared: &Arc<Shared>,
    prepared: Prepared,
    mut response: Response<Incoming>,
    lease: Lease,
) -> Response<ResponseBody> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return match prepared.upgrade {
            Some((_, client)) => switch(shared, client, response, lease),
            // Nobody asked for it.
            None => refuse(Refusal::BadEndpoint),
        };
    }
    headers::strip(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    let idle = shared.limits.body_idle;
    response.map(|body| ResponseBody::endpoint(body, lease, idle))
}

/// From here on bytes go both ways, until one side ends or the server does.
fn switch(
    shared: &Arc<Shared>,
    client: OnUpgrade,
    mut response: Response<Incoming>,
    lease: Lease,
) -> Response<ResponseBody> {
    let endpoint = hyper::upgrade::on(&mut response);
    let to = response.headers().get(header::UPGRADE).cloned();
    let shared = shared.clone();
    tokio::spawn(async move {
        shared.stats.upgrades.add();
        let _open = shared.stats.upgrades_open.hold();
        let _lease = lease;
        let both = async {
            let (client, endpoint) = tokio::try_join!(client, endpoint)?;
            let copied = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(endpoint)).await;
            if let Err(error) = copied {
                tracing::debug!(%error, "upgraded connection cut");
            }
            Ok::<_, hyper::Error>(())
        };
        tokio::select! {
            () = shared.stop.cancelled() => {}
            done = both => if let Err(error) = done {
                tracing::debug!(%error, "upgrade failed");
            }
        }
    });
    headers::strip(response.headers_mut());
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(to) = to {
        response.headers_mut().insert(header::UPGRADE, to);
    }
    response.map(|_| ResponseBody::Own(None))
}
