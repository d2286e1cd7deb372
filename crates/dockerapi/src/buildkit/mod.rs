//! BuildKit's API, for `docker buildx` and what goes through it: builds with the client's files, secrets and agents in a session.
//!
//! ```text
//! POST /session → a connection on which the client answers       (crate `buildkit`)
//! POST /grpc    → control: Solve ─→ job ─→ solve ─→ the builder, with the client behind `client`
//!                          Status ←─ log ←─ tracker, its progress
//! ```
//!
//! What is built is asked for in two ways: by `Control.Solve` itself, or (buildx) by `LLBBridge.Solve` and `Return` while
//! `Control.Solve` waits. There is one frontend, the builder's own; operations of a client's making (LLB) are refused.

mod asked;
mod client;
mod control;
mod jobs;
pub mod plain;
mod solve;
mod synced;
mod tracker;

use buildkit::{LIMITS, Session, Sessions};
use http::{HeaderValue, Response, StatusCode, header};
use hyper_util::rt::TokioIo;

use crate::fault::{Fault, Result};
use crate::http::{Answer, Call, whole};

/// What clients of BuildKit's API share.
#[derive(Default)]
pub struct Buildkit {
    /// Those that answer.
    pub sessions: Sessions,
    /// Their builds.
    pub jobs: jobs::Jobs,
}

/// The answer to a client that wants to go on in HTTP/2, and his connection once it is sent.
fn upgrade(call: &mut Call) -> Result<(Answer, hyper::upgrade::OnUpgrade)> {
    if !call.header("upgrade").is_some_and(|v| v.eq_ignore_ascii_case("h2c")) {
        return Err(Fault::bad("this is answered on a connection that is upgraded to h2c"));
    }
    let coming = hyper::upgrade::on(&mut call.request);
    let mut answer = Response::new(whole(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("h2c"));
    Ok((answer, coming))
}

/// `POST /session`: a client offers to answer.
///
/// # Errors
/// 400 without an upgrade or a name, 409 for a name that is taken.
pub async fn session(mut call: Call) -> Result<Answer> {
    let id = call.header("x-docker-expose-session-uuid").unwrap_or_default().to_owned();
    call.face.buildkit.sessions.check(&id).map_err(|e| Fault::conflict(e.to_string()))?;
    let (answer, coming) = upgrade(&mut call)?;
    let (face, drain) = (call.face.clone(), call.face.drain());
    let headers = call.request.headers().clone();
    call.face.tasks.spawn("session of a build's client", async move {
        let held = async {
            let Ok(wire) = coming.await else { return };
            match Session::open(TokioIo::new(wire), &headers).await {
                Ok(session) => {
                    if let Err(error) = face.buildkit.sessions.keep(session).await {
                        tracing::debug!(%error, "a session");
                    }
                }
                Err(error) => tracing::debug!(%error, "a session"),
            }
        };
        tokio::select! {
            () = held => {}
            () = drain.cancelled() => {}
        }
    });
    Ok(answer)
}

/// `POST /grpc`: a client asks.
///
/// # Errors
/// 400 without an upgrade.
pub async fn grpc(mut call: Call) -> Result<Answer> {
    let (answer, coming) = upgrade(&mut call)?;
    let (face, drain) = (call.face.clone(), call.face.drain());
    call.face.tasks.spawn("calls of a build's client", async move {
        let Ok(wire) = coming.await else { return };
        let served = grpc::server::serve(TokioIo::new(wire), LIMITS, move |asked| control::answer(face.clone(), asked));
        tokio::select! {
            served = served => {
                if let Err(error) = served {
                    tracing::debug!(error = %base::chain(&error), "calls of a build's client ended");
                }
            }
            () = drain.cancelled() => {}
        }
    });
    Ok(answer)
}
