//! What only a swarm's manager can answer: services, tasks, nodes, secrets, configs, and networks of the whole swarm. This crate knows
//! how a request comes and an answer goes; who manages is somebody else, given at the start, and there may be nobody.

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub use crate::containers::model::{Rest, only_empty, without_nulls};
pub use crate::face::stamp;
pub use crate::fault::{Fault, Result};
pub use crate::query::{Filters, Query, time};

use crate::http::{Answer, Call, empty, status_json, streaming};
use crate::networks;

/// What is asked of a manager.
#[derive(Debug)]
pub struct Asked {
    /// The verb.
    pub method: Method,
    /// The path behind the version, without escapes.
    pub path: Vec<String>,
    /// The query.
    pub query: Query,
    /// The document; `{}` when there is none.
    pub body: Value,
    /// Credentials for a registry (`X-Registry-Auth`).
    pub auth: Option<String>,
    /// Networks of this host alone: id, name and driver.
    pub local: Vec<(String, String, String)>,
}

/// What a manager answers.
#[derive(Debug)]
pub enum Said {
    /// A document.
    Document(StatusCode, Value),
    /// Only that.
    Nothing(StatusCode),
    /// Frames of output, as they come.
    Output {
        /// They are raw: the task has a terminal.
        raw: bool,
        /// The frames.
        frames: mpsc::Receiver<Bytes>,
    },
}

/// Who manages the swarm.
pub trait Manager: Send + Sync {
    /// Answers a request.
    fn answer(&self, asked: Asked) -> BoxFuture<'_, Result<Said>>;

    /// What `docker info` says of the swarm.
    fn standing(&self) -> BoxFuture<'_, Value>;
}

/// What stands at the beginning of the paths that are a manager's.
pub(crate) const KINDS: [&str; 6] = ["swarm", "nodes", "services", "tasks", "secrets", "configs"];
/// A network's driver that is of the whole swarm.
const OVERLAY: &str = "overlay";

/// Docker's words on a host that has no manager.
fn nobody() -> Fault {
    let message = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm \
                   and try again.";
    Fault::new(StatusCode::SERVICE_UNAVAILABLE, message)
}

/// `docker info` on a host without a manager.
pub(crate) fn inactive() -> Value {
    json!({
        "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "", "RemoteManagers": null,
    })
}

async fn ask(call: &Call, method: &Method, path: &[&str], body: Value) -> Result<Said> {
    let manager = call.face.manager.as_ref().ok_or_else(nobody)?;
    let asked = Asked {
        method: method.clone(),
        path: path.iter().map(|p| (*p).to_owned()).collect(),
        query: call.query.clone(),
        body,
        auth: call.header("x-registry-auth").map(str::to_owned),
        local: networks::named(&call.face),
    };
    manager.answer(asked).await
}

fn answer(said: Said) -> Answer {
    match said {
        Said::Document(status, document) => status_json(status, &document),
        Said::Nothing(status) => empty(status),
        Said::Output { raw, frames } => streaming(crate::containers::attach::content_type(raw), frames),
    }
}

/// Answers what is asked of the swarm.
///
/// # Errors
/// 503 without a manager, else what the manager says.
pub(crate) async fn respond(mut call: Call, method: &Method, path: &[&str]) -> Result<Answer> {
    // A client that still writes its question would not hear the answer.
    let body = call.json().await?;
    match (call.face.manager.is_some(), method.as_str(), path) {
        (false, "POST", ["swarm", "init" | "join"]) => {
            let message = "a swarm is not made here: `windlass server` is a manager, and its agents are the nodes";
            Err(Fault::new(StatusCode::NOT_IMPLEMENTED, message))
        }
        (false, "POST", ["swarm", "leave"]) => {
            Err(Fault::new(StatusCode::SERVICE_UNAVAILABLE, "This node is not part of a swarm"))
        }
        _ => Ok(answer(ask(&call, method, path, body).await?)),
    }
}

/// Whether a network is one of the swarm.
pub(crate) fn is_of_swarm(document: &Value) -> bool {
    document["Driver"] == OVERLAY || document["Scope"] == "swarm"
}

/// Asks for a network of the swarm.
///
/// # Errors
/// As [`respond`].
pub(crate) async fn network(call: &Call, method: &Method, path: &[&str], body: Value) -> Result<Answer> {
    Ok(answer(ask(call, method, path, body).await?))
}

/// The networks of the swarm that fit the query; none without a manager. One that does not answer does not hide this host's.
pub(crate) async fn networks(call: &Call) -> Vec<Value> {
    if call.face.manager.is_none() {
        return Vec::new();
    }
    match ask(call, &Method::GET, &["networks"], json!({})).await {
        Ok(Said::Document(_, Value::Array(list))) => list,
        Ok(_) => Vec::new(),
        Err(error) => {
            tracing::warn!(%error, "the swarm's networks are not listed");
            Vec::new()
        }
    }
}
