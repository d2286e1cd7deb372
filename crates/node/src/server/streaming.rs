//! `/exec`, `/attach` and `/portForward`: the protocol is agreed on, then the connection belongs to a session.

use std::sync::Arc;

use bytes::Bytes;
use engine::runtime::{ContainerStatus, ExecSpec};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;

use super::channel::{Outlet, QUEUE};
use super::find::PodRef;
use super::forward::{Pair, Target};
use super::query::Query;
use super::refusal::{Body, Refusal, full};
use super::session::Kind;
use super::ws::{Inputs, Wire};
use super::{Peer, Shared, remote, ws};

const PROTOCOL: &str = "x-stream-protocol-version";
const FORWARD: &str = "portforward.k8s.io";
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
/// Ports of a WebSocket port-forward at most: each takes two of 256 channels.
const PORTS_MAX: usize = 64;

/// What a session is about.
pub enum Job {
    /// Exec or attach.
    Command(Command),
    /// Port-forward into the sandbox of that id, with the ports that the WebSocket channels stand for.
    Forward(String, Vec<u16>),
}

/// Exec or attach.
pub struct Command {
    /// Which of them.
    pub kind: Kind,
    /// The container; the command only for exec.
    pub spec: ExecSpec,
}

/// How the two sides speak.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Speech {
    Channels(Option<&'static str>, Wire),
    Tunnel,
    Spdy(&'static str, u8),
}

/// What the kubelet calls the channel protocols, and what each means.
const CHANNELS: &[(&str, Wire)] = &[
    ("v5.channel.k8s.io", Wire { base64: false, close: true, status: true }),
    ("v4.channel.k8s.io", Wire { base64: false, close: false, status: true }),
    ("v4.base64.channel.k8s.io", Wire { base64: true, close: false, status: true }),
    ("channel.k8s.io", Wire { base64: false, close: false, status: false }),
    ("base64.channel.k8s.io", Wire { base64: true, close: false, status: false }),
];
const VERSIONS: &[(&str, u8)] =
    &[("v4.channel.k8s.io", 4), ("v3.channel.k8s.io", 3), ("v2.channel.k8s.io", 2), ("channel.k8s.io", 1)];

/// Exec or attach.
///
/// # Errors
/// What is asked for is not there, or not asked for properly.
pub async fn command(
    shared: &Arc<Shared>,
    peer: &Peer,
    mut request: Request<Incoming>,
    kind: Kind,
    pod: PodRef,
    container: &str,
) -> Result<Response<Body>, Refusal> {
    let query = Query::of(request.uri());
    let tty = query.flag("tty");
    let spec = ExecSpec {
        container_id: String::new(),
        command: query.all("command").map(str::to_owned).collect(),
        tty,
        stdin: query.flag("input"),
        stdout: query.flag("output"),
        // A terminal has one output.
        stderr: query.flag("error") && !tty,
        ..ExecSpec::default()
    };
    if !(spec.stdin || spec.stdout || spec.stderr) {
        return Err(Refusal::bad("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if kind == Kind::Exec && spec.command.is_empty() {
        return Err(Refusal::bad("no command specified"));
    }
    let speech = negotiate(&request, false)?;
    let found: ContainerStatus = pod.running(shared, container).await?;
    let spec = ExecSpec { container_id: found.spec.id, ..spec };
    start(shared, peer, &mut request, speech, Job::Command(Command { kind, spec }))
}

/// Port-forward.
///
/// # Errors
/// What is asked for is not there, or not asked for properly.
pub async fn forward(
    shared: &Arc<Shared>,
    peer: &Peer,
    mut request: Request<Incoming>,
    pod: PodRef,
) -> Result<Response<Body>, Refusal> {
    let speech = negotiate(&request, true)?;
    let ports = match speech {
        Speech::Channels(..) => ports(&Query::of(request.uri()))?,
        _ => Vec::new(),
    };
    let sandbox = pod.sandbox(shared).await?;
    start(shared, peer, &mut request, speech, Job::Forward(sandbox, ports))
}

fn ports(query: &Query) -> Result<Vec<u16>, Refusal> {
    let mut ports = Vec::new();
    for text in query.all("port").chain(query.all("ports")).flat_map(|list| list.split(',')) {
        match text.parse() {
            Ok(port) if port > 0 => ports.push(port),
            _ => return Err(Refusal::bad(format!("invalid query parameter value {text:?}: not a port"))),
        }
    }
    if ports.is_empty() {
        return Err(Refusal::bad("query parameter \"port\" is required"));
    }
    if ports.len() > PORTS_MAX {
        return Err(Refusal::bad(format!("at most {PORTS_MAX} ports can be forwarded over one connection")));
    }
    Ok(ports)
}

fn list<'a, B>(request: &'a Request<B>, name: &str) -> impl Iterator<Item = &'a str> {
    let values = request.headers().get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

fn negotiate<B>(request: &Request<B>, forward: bool) -> Result<Speech, Refusal> {
    let upgrade = |to: &str| list(request, "upgrade").any(|item| item.eq_ignore_ascii_case(to));
    if !list(request, "connection").any(|item| item.eq_ignore_ascii_case("upgrade")) {
        return Err(Refusal::bad("Upgrade request required"));
    }
    if upgrade("websocket") {
        return channels(request, forward);
    }
    if !upgrade("SPDY/3.1") {
        return Err(Refusal::bad("unable to upgrade: missing upgrade headers in request"));
    }
    let offered: Vec<&str> = list(request, PROTOCOL).collect();
    let served: &[(&'static str, u8)] = if forward { &[(FORWARD, 1)] } else { VERSIONS };
    let found = offered.iter().find_map(|offer| served.iter().find(|(name, _)| name == offer));
    match found {
        Some(&(name, version)) => Ok(Speech::Spdy(name, version)),
        // Clients before the header existed speak the first version.
        None if offered.is_empty() => Ok(Speech::Spdy("", 1)),
        None => {
            let accepts: Vec<_> = served.iter().map(|(name, _)| *name).collect();
            let message = format!(
                "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {accepts:?}"
            );
            Err(Refusal::new(StatusCode::FORBIDDEN, message))
        }
    }
}

fn channels<B>(request: &Request<B>, forward: bool) -> Result<Speech, Refusal> {
    let version = request.headers().get(header::SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes);
    let key = request.headers().contains_key(header::SEC_WEBSOCKET_KEY);
    if request.method() != Method::GET || version != Some(b"13") || !key {
        return Err(Refusal::bad("not a WebSocket handshake of version 13"));
    }
    let offered: Vec<&str> = list(request, "sec-websocket-protocol").collect();
    if offered.is_empty() {
        return Ok(Speech::Channels(None, Wire::default()));
    }
    for offer in &offered {
        if forward && *offer == TUNNELLED {
            return Ok(Speech::Tunnel);
        }
        // Port-forward never had a fifth version: its channels cannot be closed one by one.
        let known = CHANNELS.iter().find(|(name, wire)| name == offer && !(forward && wire.close));
        if let Some(&(name, wire)) = known {
            return Ok(Speech::Channels(Some(name), wire));
        }
    }
    Err(Refusal::bad(format!("none of the WebSocket protocols {offered:?} is spoken here")))
}

fn start(
    shared: &Arc<Shared>,
    peer: &Peer,
    request: &mut Request<Incoming>,
    speech: Speech,
    job: Job,
) -> Result<Response<Body>, Refusal> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let websocket = match &speech {
        Speech::Channels(name, _) => Some(*name),
        Speech::Tunnel => Some(Some(TUNNELLED)),
        Speech::Spdy(..) => None,
    };
    match (websocket, &speech) {
        (Some(name), _) => {
            let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
            let key = key.and_then(|key| HeaderValue::try_from(key).ok());
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, key.ok_or_else(|| Refusal::bad("no WebSocket key"))?);
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            if let Some(name) = name {
                headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
            }
        }
        (None, Speech::Spdy(name, _)) => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            if !name.is_empty() {
                headers.insert(PROTOCOL, HeaderValue::from_static(name));
            }
        }
        (None, _) => {}
    }
    let upgrade = hyper::upgrade::on(request);
    let (inner, slot, end) = (shared.clone(), peer.slot.clone(), shared.end.clone());
    shared.tasks.spawn(async move {
        // Counts as a connection for as long as it lasts.
        let _slot = slot;
        tokio::select! {
            () = converse(inner, upgrade, speech, job) => {}
            () = end.cancelled() => {}
        }
    });
    Ok(response)
}

async fn converse(shared: Arc<Shared>, upgrade: OnUpgrade, speech: Speech, job: Job) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => return tracing::debug!(%error, "the client left before its session began"),
    };
    match (speech, job) {
        (Speech::Channels(_, wire), Job::Command(command)) => {
            let socket = ws::socket(upgraded).await;
            remote::over_channels(&shared, socket, wire, command).await;
        }
        (Speech::Channels(_, wire), Job::Forward(sandbox, ports)) => {
            forward_channels(&shared, upgraded, wire, &sandbox, ports).await;
        }
        (Speech::Spdy(_, version), Job::Command(command)) => {
            remote::over_spdy(&shared, TokioIo::new(upgraded), version, command).await;
        }
        (Speech::Spdy(..), Job::Forward(sandbox, _)) => {
            remote::forward_spdy(&shared, TokioIo::new(upgraded), &sandbox).await;
        }
        (Speech::Tunnel, Job::Forward(sandbox, _)) => {
            let (io, carry) = ws::tunnel(ws::socket(upgraded).await);
            futures::join!(carry, remote::forward_spdy(&shared, io, &sandbox));
        }
        // Negotiation offers the tunnel to port-forward alone.
        (Speech::Tunnel, Job::Command(_)) => {}
    }
}

/// Channels 2n and 2n+1 are the bytes and errors of the nth port; each begins with the port's number.
async fn forward_channels(shared: &Shared, upgraded: Upgraded, wire: Wire, sandbox: &str, ports: Vec<u16>) {
    let (out, queue) = mpsc::channel(QUEUE);
    let alive = out.downgrade();
    let mut inputs = Inputs::default();
    let pairs: Vec<Pair> = ports
        .iter()
        .zip((0u8..).step_by(2))
        .map(|(&port, channel)| Pair {
            port,
            input: inputs.open(channel),
            data: Outlet::new(out.clone(), u32::from(channel)),
            error: Outlet::new(out.clone(), u32::from(channel) + 1),
            reset: CancellationToken::new(),
        })
        .collect();
    drop(out);
    let core = async move {
        let target = Target { runtime: shared.runtime.as_ref(), sandbox };
        futures::future::join_all(pairs.into_iter().map(|pair| async {
            let port = Bytes::copy_from_slice(&pair.port.to_le_bytes());
            if pair.data.send(port.clone()).await.is_ok() && pair.error.send(port).await.is_ok() {
                target.forward(pair).await;
            }
        }))
        .await;
    };
    ws::drive(ws::socket(upgraded).await, wire, inputs, (alive, queue), core).await;
}
