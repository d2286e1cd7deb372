//! Where tasks may run: swarmkit's constraints as node affinity. Pure.

use convert::NAME;
use dockerapi::swarm::{Fault, Result};
use serde_json::{Value, json};

use crate::model::Placement;

const HOST: &str = "kubernetes.io/hostname";

/// A node, as far as constraints speak of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Docker's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it manages the swarm.
    pub manager: bool,
}

fn operator(equal: bool) -> &'static str {
    if equal { "In" } else { "NotIn" }
}

fn expression(constraint: &str, nodes: &[Place]) -> Result<Value> {
    let invalid = |why: &str| Fault::bad(format!("rpc error: code = InvalidArgument desc = {why}"));
    let (key, equal, value) = match (constraint.split_once("=="), constraint.split_once("!=")) {
        (Some((key, value)), _) => (key, true, value),
        (None, Some((key, value))) => (key, false, value),
        (None, None) => {
            return Err(invalid(&format!("constraint expected one operator from ==, != ({constraint:?})")));
        }
    };
    let (key, value) = (key.trim(), value.trim());
    let says =
        |label: &str, equal: bool, values: Value| json!({"key": label, "operator": operator(equal), "values": values});
    // No node is called so: nothing fits, and nothing is kept away.
    let named = |chosen: Vec<&str>| if chosen.is_empty() { json!(["-"]) } else { json!(chosen) };
    let lower = key.to_ascii_lowercase();
    if let Some(label) = lower.starts_with("node.labels.").then(|| &key["node.labels.".len()..]) {
        return Ok(says(label, equal, json!([value])));
    }
    Ok(match lower.as_str() {
        "node.hostname" => says(HOST, equal, json!([value])),
        "node.id" => {
            let chosen = nodes.iter().filter(|n| n.id == value).map(|n| n.name.as_str()).collect();
            says(HOST, equal, named(chosen))
        }
        "node.role" => {
            let wants_manager = match value.to_ascii_lowercase().as_str() {
                "manager" => equal,
                "worker" => !equal,
                _ => return Err(invalid(&format!("constraint {constraint:?}: a role is manager or worker"))),
            };
            let managers = nodes.iter().filter(|n| n.manager).map(|n| n.name.as_str()).collect();
            says(HOST, wants_manager, named(managers))
        }
        "node.platform.os" => says("kubernetes.io/os", equal, json!([value])),
        "node.platform.arch" => {
            let arch = match value {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            };
            says("kubernetes.io/arch", equal, json!([arch]))
        }
        _ => return Err(Fault::refused(&format!("the constraint {constraint:?}"))),
    })
}

/// What a placement asks of nodes; `name` is the workload's.
///
/// # Errors
/// 400 for constraints that are none, or speak of something else.
pub fn affinity(of: &Placement, name: &str, nodes: &[Place]) -> Result<Option<Value>> {
    let mut affinity = json!({});
    let terms = of.constraints.iter().map(|c| expression(c, nodes)).collect::<Result<Vec<_>>>()?;
    if !terms.is_empty() {
        let terms = json!([{"matchExpressions": terms}]);
        affinity["nodeAffinity"] =
            json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
    }
    if of.max_replicas == 1 {
        let others = json!({"labelSelector": {"matchLabels": {NAME: name}}, "topologyKey": HOST});
        affinity["podAntiAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution": [others]});
    }
    Ok(Some(affinity).filter(|a| a.as_object().is_some_and(|a| !a.is_empty())))
}

/// The labels of nodes over which tasks are spread.
pub fn spread(of: &Placement) -> impl Iterator<Item = &str> {
    of.preferences.iter().filter_map(|p| p.spread.spread_descriptor.strip_prefix("node.labels."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(constraint: &str) -> Result<Value> {
        let place = |name: &str, manager| Place { id: format!("id-{name}"), name: name.to_owned(), manager };
        let placement = Placement { constraints: vec![constraint.to_owned()], ..Placement::default() };
        let found = affinity(&placement, "web", &[place("a", true), place("b", false)])?.unwrap_or_default();
        let term =
            "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchExpressions/0";
        Ok(found.pointer(term).cloned().unwrap_or_default())
    }

    #[test]
    fn constraints_are_expressions_over_labels() {
        for (constraint, key, operator, value) in [
            ("node.role==manager", HOST, "In", "a"),
            ("node.role == worker", HOST, "NotIn", "a"),
            ("node.role!=manager", HOST, "NotIn", "a"),
            ("node.id==id-b", HOST, "In", "b"),
            ("node.id==nobody", HOST, "In", "-"),
            ("node.hostname!=b", HOST, "NotIn", "b"),
            ("node.labels.zone==East", "zone", "In", "East"),
            ("node.platform.arch==x86_64", "kubernetes.io/arch", "In", "amd64"),
        ] {
            let expected = json!({"key": key, "operator": operator, "values": [value]});
            assert_eq!(of(constraint).unwrap(), expected, "{constraint}");
        }
        for wrong in ["node.role=manager", "engine.labels.a==b", "node.role==boss", "node.ip==10.0.0.0/8"] {
            assert_eq!(of(wrong).unwrap_err().status.as_u16(), 400, "{wrong}");
        }
    }
}
