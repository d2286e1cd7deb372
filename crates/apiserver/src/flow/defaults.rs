//! The flow schemas and priority levels that every cluster has, as Kubernetes' documentation of API Priority and Fairness
//! lists them ("Mandatory and suggested configuration objects").

use serde_json::{Value, json};

/// With `"false"`, the spec of a suggested object is left as people made it; mandatory ones are always set right.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

const GROUP: &str = "flowcontrol.apiserver.k8s.io/v1";

/// Levels without which nothing works.
pub fn mandatory_levels() -> Vec<Value> {
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let rest = json!({"type": "Limited", "limited":
        {"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}});
    vec![level("exempt", exempt), level("catch-all", rest)]
}

/// All levels, the mandatory ones first.
pub fn levels() -> Vec<Value> {
    // Name, shares, percent that it lends, queues, queues of one flow.
    let suggested = [
        ("system", 30, 33, 64, 6),
        ("node-high", 40, 25, 64, 6),
        ("leader-election", 10, 0, 16, 4),
        ("workload-high", 40, 50, 128, 6),
        ("workload-low", 100, 90, 128, 6),
        ("global-default", 20, 50, 128, 6),
    ];
    let suggested = suggested.map(|(name, shares, lends, queues, hand)| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
        let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lends,
            "limitResponse": {"type": "Queue", "queuing": queuing}});
        level(name, json!({"type": "Limited", "limited": limited}))
    });
    mandatory_levels().into_iter().chain(suggested).collect()
}

fn level(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": GROUP,
        "kind": "PriorityLevelConfiguration",
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}},
        "spec": spec,
    })
}

/// Schemas without which nothing works.
pub fn mandatory_schemas() -> Vec<Value> {
    vec![
        schema("exempt", "exempt", 1, "", groups(&["system:masters"]), everything(), every_path()),
        schema("catch-all", "catch-all", 10_000, "ByUser", everybody(), everything(), every_path()),
    ]
}

/// All schemas, the mandatory ones first.
pub fn schemas() -> Vec<Value> {
    let manager = users(&["system:kube-controller-manager"]);
    let scheduler = users(&["system:kube-scheduler"]);
    let nodes = groups(&["system:nodes"]);
    let system = json!([{"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}}]);
    let electing = [&manager, &scheduler, &system].into_iter().filter_map(Value::as_array).flatten().cloned().collect();
    let probes = json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]);
    let lease = |verbs: &[&str]| rule(verbs, &["coordination.k8s.io"], &["leases"], false);
    let elections = json!([lease(&["get", "create", "update"])]);
    let heartbeats = json!([rule(&["*"], &[""], &["nodes", "nodes/status"], true), lease(&["*"])]);
    let accounts = groups(&["system:serviceaccounts"]);
    let suggested = [
        schema("probes", "exempt", 2, "", everybody(), json!([]), probes),
        schema("system-leader-election", "leader-election", 100, "ByUser", electing, elections, json!([])),
        schema("system-node-high", "node-high", 400, "ByUser", nodes.clone(), heartbeats, json!([])),
        schema("system-nodes", "system", 500, "ByUser", nodes, everything(), every_path()),
        schema("kube-controller-manager", "workload-high", 800, "ByNamespace", manager, everything(), every_path()),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", scheduler, everything(), every_path()),
        schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", system, everything(), every_path()),
        schema("service-accounts", "workload-low", 9000, "ByUser", accounts, everything(), every_path()),
        schema("global-default", "global-default", 9900, "ByUser", everybody(), everything(), every_path()),
    ];
    mandatory_schemas().into_iter().chain(suggested).collect()
}

fn schema(
    name: &str,
    level: &str,
    precedence: i64,
    distinguisher: &str,
    subjects: Value,
    resources: Value,
    paths: Value,
) -> Value {
    let mut rule = json!({"subjects": subjects});
    for (key, rules) in [("resourceRules", resources), ("nonResourceRules", paths)] {
        if rules.as_array().is_some_and(|r| !r.is_empty()) {
            rule[key] = rules;
        }
    }
    let mut spec = json!({
        "matchingPrecedence": precedence,
        "priorityLevelConfiguration": {"name": level},
        "rules": [rule],
    });
    if !distinguisher.is_empty() {
        spec["distinguisherMethod"] = json!({"type": distinguisher});
    }
    json!({
        "apiVersion": GROUP,
        "kind": "FlowSchema",
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}},
        "spec": spec,
    })
}

fn users(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

fn groups(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn everybody() -> Value {
    groups(&["system:unauthenticated", "system:authenticated"])
}

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn everything() -> Value {
    json!([rule(&["*"], &["*"], &["*"], true)])
}

fn every_path() -> Value {
    json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_valid_complete_and_refer_to_each_other() {
        let levels = levels();
        assert_eq!((levels.len(), schemas().len()), (8, 11));
        for (plural, objects) in [("prioritylevelconfigurations", levels.clone()), ("flowschemas", schemas())] {
            let kind = api::kinds::registry().by_resource("flowcontrol.apiserver.k8s.io", "v1", plural).unwrap();
            for object in objects {
                let mut full = object.clone();
                kind.default(&mut full);
                assert_eq!(full, object, "nothing is left to be defaulted");
                assert_eq!(kind.validate_create(&object), vec![], "{object}");
            }
        }
        for schema in schemas() {
            let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap();
            assert!(levels.iter().any(|l| api::meta::name(l) == level), "{level}");
        }
    }
}
