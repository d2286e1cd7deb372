//! From a request to what answers it.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::Pod;

use super::auth::Identity;
use super::find::{PodRef, valid_name};
use super::query::Query;
use super::refusal::{Body, Refusal, answer, text};
use super::session::Kind;
use super::{Peer, Shared, logs, stats, streaming};

/// Answers a request.
pub async fn handle(shared: &Arc<Shared>, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match serve(shared, peer, request, &path).await {
        Ok(response) => response,
        Err(refusal) => {
            tracing::debug!(%method, path, status = refusal.code.as_u16(), message = refusal.message, "refused");
            refusal.response()
        }
    }
}

async fn serve(
    shared: &Arc<Shared>,
    peer: &Peer,
    request: Request<Incoming>,
    path: &str,
) -> Result<Response<Body>, Refusal> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').take(8).collect();
    if segments == ["healthz"] {
        only(&request, &[Method::GET])?;
        return Ok(text(StatusCode::OK, "ok"));
    }
    match (&shared.access, &peer.identity) {
        (_, Identity::Trusted) => {}
        (Some(access), identity) => access.check(identity, request.headers(), request.method(), path).await?,
        (None, Identity::Nobody) => return Err(Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized")),
        (None, Identity::Stranger(user)) => {
            let message = format!("Forbidden (user={}, verb={}, resource=nodes)", user.name, request.method());
            return Err(Refusal::new(StatusCode::FORBIDDEN, message));
        }
    }
    match segments[..] {
        ["pods"] => {
            only(&request, &[Method::GET])?;
            pods(shared)
        }
        ["runningpods"] => {
            only(&request, &[Method::GET])?;
            running(shared).await
        }
        ["stats", "summary"] => {
            only(&request, &[Method::GET])?;
            let brief = Query::of(request.uri()).flag("only_cpu_and_memory");
            let look = stats::look(shared, true).await;
            json(&stats::summary(shared, &look, brief).await)
        }
        ["metrics"] => {
            only(&request, &[Method::GET])?;
            Ok(metrics(stats::own(shared).await))
        }
        ["metrics", "resource"] => {
            only(&request, &[Method::GET])?;
            Ok(metrics(stats::resource(&stats::look(shared, false).await)))
        }
        ["metrics", "cadvisor"] => {
            only(&request, &[Method::GET])?;
            Ok(metrics(stats::cadvisor(&stats::look(shared, false).await, shared.node.as_ref())))
        }
        ["containerLogs", namespace, pod, container] => {
            only(&request, &[Method::GET])?;
            let pod = pod_ref(namespace, pod, None)?;
            valid_name(container)?;
            let options = logs::Options::parse(&Query::of(request.uri()), Timestamp::now())?;
            let found = pod.logged(shared, container, options.previous).await?;
            logs::respond(shared, found, options).await
        }
        [what @ ("exec" | "attach"), namespace, name, ref rest @ .., container] if rest.len() <= 1 => {
            only(&request, &[Method::GET, Method::POST])?;
            let pod = pod_ref(namespace, name, rest.first().copied())?;
            valid_name(container)?;
            let kind = if what == "exec" { Kind::Exec } else { Kind::Attach };
            streaming::command(shared, peer, request, kind, pod, container).await
        }
        ["portForward", namespace, name, ref rest @ ..] if rest.len() <= 1 => {
            only(&request, &[Method::GET, Method::POST])?;
            let pod = pod_ref(namespace, name, rest.first().copied())?;
            streaming::forward(shared, peer, request, pod).await
        }
        _ => Err(Refusal::missing("404 page not found")),
    }
}

fn only(request: &Request<Incoming>, methods: &[Method]) -> Result<(), Refusal> {
    match methods.contains(request.method()) {
        true => Ok(()),
        false => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed")),
    }
}

fn pod_ref(namespace: &str, name: &str, uid: Option<&str>) -> Result<PodRef, Refusal> {
    for part in [namespace, name].into_iter().chain(uid) {
        valid_name(part)?;
    }
    Ok(PodRef { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.map(str::to_owned) })
}

fn pods(shared: &Shared) -> Result<Response<Body>, Refusal> {
    json(&List { items: (shared.pods)(), ..List::default() })
}

/// The pods that have a sandbox.
async fn running(shared: &Shared) -> Result<Response<Body>, Refusal> {
    let sandboxes = shared.runtime.sandboxes().await;
    let ready = |pod: &Pod| sandboxes.iter().any(|s| s.ready && pod.metadata.uid.as_ref() == Some(&s.spec.id));
    json(&List { items: (shared.pods)().into_iter().filter(ready).collect(), ..List::<Pod>::default() })
}

fn json(value: &impl serde::Serialize) -> Result<Response<Body>, Refusal> {
    let body = serde_json::to_vec(value).map_err(|error| Refusal::fault(error.to_string()))?;
    Ok(answer(StatusCode::OK, "application/json", body))
}

fn metrics(text: String) -> Response<Body> {
    answer(StatusCode::OK, base::prometheus::MEDIA, text)
}
