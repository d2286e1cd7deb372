//! metrics.k8s.io/v1beta1: what nodes and pods use now, as metrics-server tells it. Asked of the nodes when somebody wants
//! to know; what was heard a moment ago is told again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::kinds::VirtualKind;
use api::selectors::{FieldSelector, LabelSelector};
use api::status::ApiError;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Call;
use crate::http::respond::Reply;
use crate::proxy;

const API_VERSION: &str = "metrics.k8s.io/v1beta1";
const PATH: &str = "/stats/summary?only_cpu_and_memory=true";
/// How long a node's answer is told again. A node needs that long for a rate that means something.
const FRESH: Duration = Duration::from_secs(5);
/// How long a node may take; one that takes longer is left out, as one that is down.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer of a node, bytes.
const ANSWER_MAX: usize = 8 << 20;
/// Nodes asked at the same time.
const AT_ONCE: usize = 16;
/// Nodes whose answers are kept.
const KEPT_MAX: usize = 1024;

/// The last answers of the nodes, by name.
#[derive(Default)]
pub(crate) struct Scrapes(Mutex<BTreeMap<String, (Instant, Arc<Value>)>>);

impl Scrapes {
    fn fresh(&self, node: &str) -> Option<Arc<Value>> {
        self.0.lock().get(node).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, answer)| answer.clone())
    }

    fn keep(&self, node: &str, answer: Arc<Value>) {
        let mut all = self.0.lock();
        if all.len() >= KEPT_MAX {
            all.retain(|_, (at, _)| at.elapsed() < FRESH);
        }
        if all.len() < KEPT_MAX {
            all.insert(node.to_owned(), (Instant::now(), answer));
        }
    }
}

/// GET of one or of all.
pub(crate) async fn serve(call: Call, kind: &'static VirtualKind) -> Result<Reply, ApiError> {
    if !matches!(call.verb, "get" | "list") || !call.path.subresource.is_empty() {
        return Err(ApiError::method_not_allowed(kind.plural, kind.group, call.verb));
    }
    call.server.caches.consistent().await?;
    let found = if kind.namespaced { pods(&call).await? } else { nodes(&call).await? };
    if call.verb == "list" {
        let list = json!({
            "kind": format!("{}List", kind.kind), "apiVersion": API_VERSION, "metadata": {}, "items": found,
        });
        return Ok(call.reply(StatusCode::OK, &list));
    }
    let Some(mut one) = found.into_iter().next() else {
        let name = if kind.namespaced { format!("{}/{}", call.path.namespace, call.path.name) } else { call.path.name };
        let resource = if kind.namespaced { "podmetrics" } else { "nodemetrics" };
        return Err(ApiError::not_found(resource, kind.group, &name));
    };
    one["kind"] = kind.kind.into();
    one["apiVersion"] = API_VERSION.into();
    Ok(call.reply(StatusCode::OK, &one))
}

/// Which objects are asked for.
struct Wanted {
    labels: LabelSelector,
    fields: FieldSelector,
    name: String,
}

impl Wanted {
    fn of(call: &Call) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(&call.query.labels)?;
        let fields = FieldSelector::parse(&call.query.fields)?;
        let name = fields.exact("metadata.name").unwrap_or_default();
        let name = if call.path.name.is_empty() { name.to_owned() } else { call.path.name.clone() };
        Ok(Wanted { labels, fields, name })
    }

    fn is(&self, entry: &crate::cache::Entry, namespace: &str) -> bool {
        (self.name.is_empty() || self.name == entry.name())
            && self.fields.exact("metadata.namespace").is_none_or(|wanted| wanted == namespace)
            && (self.labels.is_everything() || self.labels.matches(&entry.facts.labels))
    }
}

async fn nodes(call: &Call) -> Result<Vec<Value>, ApiError> {
    let wanted = Wanted::of(call)?;
    let all = call.server.caches.core("nodes").snapshot("", None, 0, false, |_| true).entries;
    let all: Vec<_> = all.into_iter().filter(|e| wanted.is(e, "")).collect();
    let answers = summaries(call, all.iter().map(|e| e.name().to_owned()).collect()).await;
    let of = |entry: &crate::cache::Entry| {
        let node = &answers.get(entry.name())?["node"];
        let mut out = measured(&node["cpu"], &entry.value());
        out["usage"] = usage(node)?;
        Some(out)
    };
    Ok(all.iter().filter_map(|e| of(e)).collect())
}

async fn pods(call: &Call) -> Result<Vec<Value>, ApiError> {
    let wanted = Wanted::of(call)?;
    let all = call.server.caches.core("pods").snapshot(&call.path.namespace, None, 0, false, |_| true).entries;
    let all = all.into_iter().filter(|e| wanted.is(e, api::meta::namespace(&e.value())));
    let all: Vec<Value> = all.map(|e| e.value()).filter(|p| p["status"]["phase"] == "Running").collect();
    let node = |pod: &Value| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    let mut names: Vec<String> = all.iter().map(node).filter(|n| !n.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    let answers = summaries(call, names).await;
    let of = |pod: &Value| {
        let list = answers.get(&node(pod))?["pods"].as_array()?;
        let found = list.iter().find(|p| p["podRef"]["uid"] == pod["metadata"]["uid"])?;
        let containers = found["containers"].as_array()?.iter();
        let containers: Vec<Value> =
            containers.filter_map(|c| Some(json!({"name": c["name"], "usage": usage(c)?}))).collect();
        let mut out = measured(&found["cpu"], pod);
        out["containers"] = containers.into();
        Some(out)
    };
    Ok(all.iter().filter_map(of).collect())
}

/// What all measurements have.
fn measured(cpu: &Value, object: &Value) -> Value {
    let (meta, at) = (&object["metadata"], &cpu["time"]);
    let window = format!("{:.3}s", cpu["usageWindowSeconds"].as_f64().unwrap_or_default());
    let mut out = json!({
        "metadata": {"name": meta["name"], "creationTimestamp": at}, "timestamp": at, "window": window,
    });
    for key in ["namespace", "labels"] {
        if !meta[key].is_null() {
            out["metadata"][key] = meta[key].clone();
        }
    }
    out
}

/// `usage` of something in a summary; `None` while there is no rate.
fn usage(of: &Value) -> Option<Value> {
    let cpu = of["cpu"]["usageNanoCores"].as_u64()?;
    let memory = of["memory"]["workingSetBytes"].as_u64()?;
    Some(json!({"cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory.div_ceil(1024))}))
}

/// The summaries of nodes that answer.
async fn summaries(call: &Call, nodes: Vec<String>) -> BTreeMap<String, Arc<Value>> {
    let asked = nodes.into_iter().map(|node| async move {
        if let Some(fresh) = call.server.metrics.fresh(&node) {
            return Some((node, fresh));
        }
        match tokio::time::timeout(PATIENCE, ask(call, &node)).await {
            Ok(Ok(answer)) => {
                let answer = Arc::new(answer);
                call.server.metrics.keep(&node, answer.clone());
                Some((node, answer))
            }
            Ok(Err(error)) => {
                tracing::debug!(node, error = error.message, "a node does not tell what it uses");
                None
            }
            Err(_) => {
                tracing::debug!(node, "a node does not tell in time what it uses");
                None
            }
        }
    });
    futures::stream::iter(asked).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

async fn ask(call: &Call, node: &str) -> Result<Value, ApiError> {
    let address = proxy::address(&call.server.caches, node)?;
    let request = Request::builder().method(Method::GET).uri(PATH).header(header::HOST, address.to_string());
    let request = request.body(Empty::<Bytes>::new()).map_err(ApiError::internal)?;
    let answer = call.server.kubelets.send(address, request).await.map_err(ApiError::internal)?;
    if answer.status() != StatusCode::OK {
        return Err(ApiError::internal(format!("node {node} answered {}", answer.status())));
    }
    let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await.map_err(ApiError::internal)?;
    serde_json::from_slice(&body.to_bytes()).map_err(ApiError::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_told_as_metrics_server_does() {
        let container = json!({"cpu": {"usageNanoCores": 1500}, "memory": {"workingSetBytes": 1025}});
        assert_eq!(usage(&container), Some(json!({"cpu": "1500n", "memory": "2Ki"})));
        assert_eq!(usage(&json!({"memory": {"workingSetBytes": 1}})), None);
    }

    #[test]
    fn an_answer_is_told_again_for_a_moment() {
        let scrapes = Scrapes::default();
        assert!(scrapes.fresh("n").is_none());
        scrapes.keep("n", Arc::new(json!(1)));
        assert_eq!(scrapes.fresh("n").as_deref(), Some(&json!(1)));
    }
}
