//! The cluster's nodes as a swarm's.

use std::collections::BTreeMap;

use dockerapi::swarm::{Asked, Fault, Result, Said};
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::cluster::{self, NODES, text};
use crate::placement::Place;
use crate::record::pick;
use crate::{Swarm, ok};

/// Label of a node that runs the cluster's API (Kubernetes).
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

fn name(node: &Value) -> String {
    text(&node["metadata"]["name"]).to_owned()
}

/// Labels that people gave, without Kubernetes' own.
fn labels(node: &Value) -> Map<String, Value> {
    let mut labels = node["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.retain(|key, _| !is_own(key));
    labels
}

fn is_own(key: &str) -> bool {
    key.split_once('/').is_some_and(|(domain, _)| domain.ends_with("kubernetes.io") || domain.ends_with("k8s.io"))
}

/// A quantity of whole units or of bytes, as a number (of CPUs: billionths).
fn amount(quantity: &Value, unit: f64) -> i64 {
    let text = text(quantity);
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        _ => 1.0,
    };
    #[allow(clippy::cast_possible_truncation)] // What a node has is far below.
    let whole = (digits.parse::<f64>().unwrap_or_default() * scale * unit).round() as i64;
    whole
}

fn address(node: &Value) -> &str {
    let all = node["status"]["addresses"].as_array().into_iter().flatten();
    all.filter(|a| a["type"] == "InternalIP").find_map(|a| a["address"].as_str()).unwrap_or("127.0.0.1")
}

fn is_ready(node: &Value) -> bool {
    let mut all = node["status"]["conditions"].as_array().into_iter().flatten();
    all.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// As Docker shows it.
fn document(node: &Value, manager: bool) -> Value {
    let (info, has) = (&node["status"]["nodeInfo"], &node["status"]["capacity"]);
    let arch = match text(&info["architecture"]) {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    };
    let plugins = json!([
        {"Type": "Network", "Name": "overlay"}, {"Type": "Network", "Name": "host"}, {"Type": "Volume", "Name": "local"},
        {"Type": "Log", "Name": "json-file"},
    ]);
    let drained = node["spec"]["unschedulable"] == true;
    let mut document = json!({
        "ID": cluster::id(node), "CreatedAt": node["metadata"]["creationTimestamp"],
        "UpdatedAt": node["metadata"]["creationTimestamp"],
        "Version": {"Index": text(&node["metadata"]["resourceVersion"]).parse::<u64>().unwrap_or_default()},
        "Spec": {
            "Labels": labels(node), "Role": if manager { "manager" } else { "worker" },
            "Availability": if drained { "pause" } else { "active" },
        },
        "Description": {
            "Hostname": name(node), "Platform": {"Architecture": arch, "OS": "linux"},
            "Resources": {"NanoCPUs": amount(&has["cpu"], 1e9), "MemoryBytes": amount(&has["memory"], 1.0)},
            "Engine": {"EngineVersion": env!("CARGO_PKG_VERSION"), "Plugins": plugins}, "TLSInfo": {},
        },
        "Status": {"State": if is_ready(node) { "ready" } else { "down" }, "Addr": address(node)},
    });
    if manager {
        document["ManagerStatus"] = json!({"Leader": true, "Reachability": "reachable", "Addr": address(node)});
    }
    document
}

impl Swarm {
    /// The node of this host manages, and those that run an API.
    fn manages(&self, node: &Value) -> bool {
        name(node) == self.node || !node["metadata"]["labels"][CONTROL_PLANE].is_null()
    }

    pub(crate) async fn nodes(&self) -> Result<Vec<Value>> {
        Ok(self.cluster.list(NODES, "").await?)
    }

    /// The nodes as constraints speak of them.
    pub(crate) fn places(&self, nodes: &[Value]) -> Vec<Place> {
        nodes.iter().map(|n| Place { id: cluster::id(n), name: name(n), manager: self.manages(n) }).collect()
    }

    /// Docker's ids of nodes, by name.
    pub(crate) fn node_ids(nodes: &[Value]) -> BTreeMap<String, String> {
        nodes.iter().map(|n| (name(n), cluster::id(n))).collect()
    }

    /// The nodes, those that manage, and this host's among them.
    pub(crate) fn counted(&self, nodes: &[Value]) -> (usize, usize, Option<(String, String)>) {
        let managers = nodes.iter().filter(|n| self.manages(n)).count();
        let own = nodes.iter().find(|n| name(n) == self.node);
        (nodes.len(), managers, own.map(|n| (cluster::id(n), address(n).to_owned())))
    }

    pub(crate) async fn list_nodes(&self, query: &dockerapi::swarm::Query) -> Result<Said> {
        let filters = query.filters(&["id", "label", "node.label", "membership", "name", "role"])?;
        let fits = |node: &&Value| {
            let labels: BTreeMap<String, String> =
                labels(node).into_iter().map(|(k, v)| (k, text(&v).to_owned())).collect();
            let role = if self.manages(node) { "manager" } else { "worker" };
            let labelled = |wanted: &str| match wanted.split_once('=') {
                Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
                None => labels.contains_key(wanted),
            };
            filters.any("id", |v| cluster::id(node).starts_with(v))
                && filters.any("name", |v| name(node).starts_with(v))
                && filters.any("role", |v| v == role)
                && filters.any("membership", |v| v == "accepted")
                && filters.of("node.label").iter().all(|v| labelled(v))
                // Labels of engines: none has any.
                && !filters.has("label")
        };
        let nodes = self.nodes().await?;
        ok(nodes.iter().filter(fits).map(|n| document(n, self.manages(n))).collect::<Vec<_>>())
    }

    async fn node(&self, wanted: &str) -> Result<Value> {
        let nodes = self.nodes().await?;
        pick(&nodes, "node", wanted, cluster::id, name).cloned()
    }

    pub(crate) async fn show_node(&self, wanted: &str) -> Result<Said> {
        let node = self.node(wanted).await?;
        ok(document(&node, self.manages(&node)))
    }

    /// Labels, and whether new tasks come to it.
    pub(crate) async fn update_node(&self, wanted: &str, asked: &Asked) -> Result<Said> {
        let node = self.node(wanted).await?;
        let shown = document(&node, self.manages(&node));
        if asked.query.number::<u64>("version")? != shown["Version"]["Index"].as_u64() {
            return Err(crate::services::out_of_sequence());
        }
        if !asked.body["Role"].is_null() && asked.body["Role"] != shown["Spec"]["Role"] {
            return Err(Fault::refused("another role of a node"));
        }
        let unschedulable = match text(&asked.body["Availability"]) {
            "active" => Value::Null,
            "pause" => true.into(),
            other => {
                return Err(Fault::refused(&format!(
                    "the availability {other:?} of a node (kubectl drain empties one)"
                )));
            }
        };
        let wanted = asked.body["Labels"].as_object().cloned().unwrap_or_default();
        let mut labels: Map<String, Value> = labels(&node).into_iter().map(|(key, _)| (key, Value::Null)).collect();
        labels.extend(wanted.into_iter().filter(|(key, _)| !is_own(key)));
        let metadata = json!({"resourceVersion": node["metadata"]["resourceVersion"], "labels": labels});
        let patch = json!({"metadata": metadata, "spec": {"unschedulable": unschedulable}});
        match self.cluster.patch(NODES, &name(&node), &patch).await {
            Err(refused) if refused.is_conflict() => Err(crate::services::out_of_sequence()),
            done => done.map_err(Fault::from).map(|_| Said::Nothing(StatusCode::OK)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_shown_with_its_own_labels_and_amounts() {
        let node = json!({
            "metadata": {"uid": "1", "name": "a", "resourceVersion": "7", "labels": {"zone": "x", "kubernetes.io/os": "linux"}},
            "spec": {"unschedulable": true},
            "status": {
                "capacity": {"cpu": "1500m", "memory": "2Gi"}, "nodeInfo": {"architecture": "amd64"},
                "conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            },
        });
        let shown = document(&node, true);
        assert_eq!(shown["Spec"], json!({"Labels": {"zone": "x"}, "Role": "manager", "Availability": "pause"}));
        assert_eq!(
            shown["Description"]["Resources"],
            json!({"NanoCPUs": 1_500_000_000, "MemoryBytes": 2_147_483_648_u64})
        );
        assert_eq!((&shown["Status"]["State"], &shown["Version"]["Index"]), (&json!("ready"), &json!(7)));
        assert_eq!(document(&node, false)["ManagerStatus"], Value::Null);
    }
}
