//! The default roles and bindings, from `policy.txt`. A line that begins at the margin is an object, an indented one a rule
//! of the role above it:
//!
//! ```text
//! clusterrole NAME [+LABEL] [<LABEL]      carries, and collects, rbac.authorization.k8s.io/LABEL: "true"
//!   VERBS on RESOURCES in GROUPS [named NAMES]
//!   VERBS url PATHS
//! role NAMESPACE/NAME
//! clusterrolebinding NAME to clusterrole NAME [user=NAME] [group=NAME] [account=NAMESPACE/NAME]
//! rolebinding NAMESPACE/NAME to role|clusterrole NAME ...
//! ```
//!
//! Lists are joined by commas; the group of the core is `core`.

use serde_json::{Map, Value, json};

use crate::authz::rules::{Rule, missing};

const TEXT: &str = include_str!("policy.txt");
const GROUP: &str = "rbac.authorization.k8s.io";
/// With `"false"`, an object is left as it is.
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// A default object.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Plural of its resource.
    pub plural: &'static str,
    /// Namespace; empty for the cluster's.
    pub namespace: String,
    /// The object.
    pub object: Value,
}

/// All of them, roles before their bindings.
pub fn wanted() -> Vec<Wanted> {
    let mut out: Vec<Wanted> = Vec::new();
    for line in TEXT.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with(' ') {
            if let (Some(role), Some(rule)) = (out.last_mut(), rule(&words))
                && let Some(rules) = role.object["rules"].as_array_mut()
            {
                rules.push(rule.to_json());
            }
        } else if let Some(object) = object(&words) {
            out.push(object);
        }
    }
    out
}

fn list(words: &str) -> Vec<String> {
    words.split(',').map(str::to_owned).collect()
}

fn rule(words: &[&str]) -> Option<Rule> {
    let groups = |words: &str| list(words).into_iter().map(|g| if g == "core" { String::new() } else { g }).collect();
    Some(match *words {
        [verbs, "url", urls] => Rule { verbs: list(verbs), urls: list(urls), ..Rule::default() },
        [verbs, "on", resources, "in", of] => {
            Rule { verbs: list(verbs), resources: list(resources), groups: groups(of), ..Rule::default() }
        }
        [verbs, "on", resources, "in", of, "named", names] => Rule {
            verbs: list(verbs),
            resources: list(resources),
            groups: groups(of),
            names: list(names),
            ..Rule::default()
        },
        _ => return None,
    })
}

fn object(words: &[&str]) -> Option<Wanted> {
    let (&what, rest) = words.split_first()?;
    let (&place, rest) = rest.split_first()?;
    let (plural, kind) = match what {
        "clusterrole" => ("clusterroles", "ClusterRole"),
        "role" => ("roles", "Role"),
        "clusterrolebinding" => ("clusterrolebindings", "ClusterRoleBinding"),
        "rolebinding" => ("rolebindings", "RoleBinding"),
        _ => return None,
    };
    let (namespace, name) = match kind {
        "Role" | "RoleBinding" => place.split_once('/')?,
        _ => ("", place),
    };
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {AUTO_UPDATE: "true"},
        },
    });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    match rest {
        ["to", role, name, subjects @ ..] => {
            let role = if *role == "clusterrole" { "ClusterRole" } else { "Role" };
            object["roleRef"] = json!({"apiGroup": GROUP, "kind": role, "name": name});
            object["subjects"] = subjects.iter().filter_map(|s| subject(s)).collect();
        }
        marks => {
            object["rules"] = json!([]);
            for mark in marks {
                let (sign, label) = mark.split_at(1);
                let label = format!("{GROUP}/{label}");
                if sign == "+" {
                    object["metadata"]["labels"][label] = "true".into();
                } else {
                    object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
                }
            }
        }
    }
    Some(Wanted { plural, namespace: namespace.to_owned(), object })
}

fn subject(text: &str) -> Option<Value> {
    let (kind, name) = text.split_once('=')?;
    Some(match kind {
        "user" => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
        "group" => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        _ => {
            let (namespace, name) = name.split_once('/')?;
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
    })
}

/// What is to be done about an object that is there.
#[derive(Debug, PartialEq)]
pub enum Change {
    /// Nothing.
    None,
    /// It becomes this.
    Update(Value),
    /// It becomes this, which is another object: a binding's role cannot be changed.
    Replace(Value),
}

/// Adds what a default object lacks; what people added stays.
pub fn reconciled(old: &Value, wanted: &Value) -> Change {
    let annotations = api::meta::annotations(old);
    if annotations.and_then(|a| a.get(AUTO_UPDATE)).and_then(Value::as_str) == Some("false") {
        return Change::None;
    }
    let mut new = old.clone();
    for key in ["labels", "annotations"] {
        merge(&mut new["metadata"], key, &wanted["metadata"][key]);
    }
    if wanted["roleRef"].is_object() {
        if old["roleRef"] != wanted["roleRef"] {
            let mut replacement = wanted.clone();
            replacement["metadata"]["labels"] = new["metadata"]["labels"].clone();
            replacement["metadata"]["annotations"] = new["metadata"]["annotations"].clone();
            return Change::Replace(replacement);
        }
        append(&mut new, "subjects", wanted["subjects"].as_array().cloned().unwrap_or_default());
    } else if wanted["aggregationRule"].is_object() {
        // The rules themselves are the aggregation controller's.
        let selectors = wanted["aggregationRule"]["clusterRoleSelectors"].as_array().cloned().unwrap_or_default();
        let mut rule = new.get("aggregationRule").cloned().unwrap_or_else(|| json!({}));
        append(&mut rule, "clusterRoleSelectors", selectors);
        new["aggregationRule"] = rule;
    } else if old.get("rules") != wanted.get("rules") {
        let held = Rule::all_of(old);
        let mut rules = Rule::all_of(wanted);
        // Whole rules, not parts: what is added reads as it would in a new cluster.
        rules.retain(|rule| !missing(held.iter(), std::slice::from_ref(rule)).is_empty());
        let added: Vec<Value> = rules.iter().map(Rule::to_json).collect();
        append(&mut new, "rules", added);
    }
    if new == *old { Change::None } else { Change::Update(new) }
}

fn merge(metadata: &mut Value, key: &str, wanted: &Value) {
    let mut merged: Map<String, Value> = wanted.as_object().cloned().unwrap_or_default();
    if let Some(old) = metadata.get(key).and_then(Value::as_object) {
        merged.extend(old.clone());
    }
    metadata[key] = merged.into();
}

/// Adds the items that are not there; an absent list stays absent when there are none.
fn append(object: &mut Value, key: &str, items: Vec<Value>) {
    let mut list = object.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let before = list.len();
    for item in items {
        if !list.contains(&item) {
            list.push(item);
        }
    }
    if list.len() > before {
        object[key] = list.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(plural: &str, name: &str) -> Value {
        let all = wanted();
        let found = all.iter().find(|w| w.plural == plural && w.object["metadata"]["name"] == name);
        found.map(|w| w.object.clone()).unwrap()
    }

    #[test]
    fn every_line_is_understood() {
        let (mut objects, mut rules) = (0, 0);
        for line in TEXT.lines().filter(|l| !l.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if line.starts_with(' ') {
                assert!(rule(&words).is_some(), "{line}");
                rules += 1;
            } else {
                assert!(object(&words).is_some(), "{line}");
                objects += 1;
            }
        }
        let all = wanted();
        assert_eq!(all.len(), objects);
        let count = |w: &Wanted| w.object["rules"].as_array().map_or(0, Vec::len);
        assert_eq!(all.iter().map(count).sum::<usize>(), rules);
        // Whom a binding refers to is there.
        for binding in all.iter().filter(|w| w.plural.ends_with("bindings")) {
            let plural = if binding.object["roleRef"]["kind"] == "Role" { "roles" } else { "clusterroles" };
            find(plural, binding.object["roleRef"]["name"].as_str().unwrap());
        }
    }

    #[test]
    fn lines_become_objects() {
        let edit = find("clusterroles", "edit");
        assert_eq!(edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"], "true");
        let labels = &edit["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"];
        assert_eq!(labels["rbac.authorization.k8s.io/aggregate-to-edit"], "true");
        let admin = find("clusterrolebindings", "cluster-admin");
        assert_eq!(admin["subjects"], json!([{"apiGroup": GROUP, "kind": "Group", "name": "system:masters"}]));
        assert_eq!(find("clusterroles", "cluster-admin")["rules"][0]["apiGroups"], json!(["*"]));
    }

    #[test]
    fn what_is_missing_comes_back_and_what_people_added_stays() {
        let role = find("clusterroles", "system:basic-user");
        assert_eq!(reconciled(&role, &role), Change::None);
        let mut old = role.clone();
        let own = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        old["rules"] = json!([own, role["rules"][0]]);
        old["metadata"]["labels"] = json!({"mine": "1"});
        let Change::Update(new) = reconciled(&old, &role) else { panic!() };
        assert_eq!(new["rules"], json!([own, role["rules"][0], role["rules"][1]]));
        assert_eq!(new["metadata"]["labels"]["mine"], "1");
        assert_eq!(reconciled(&new, &role), Change::None);
        old["metadata"]["annotations"] = json!({AUTO_UPDATE: "false"});
        assert_eq!(reconciled(&old, &role), Change::None);
    }

    #[test]
    fn a_binding_to_another_role_is_replaced() {
        let wanted = find("clusterrolebindings", "system:basic-user");
        let mut old = wanted.clone();
        old["subjects"] = json!([]);
        assert_eq!(reconciled(&old, &wanted), Change::Update(wanted.clone()));
        old["roleRef"]["name"] = "cluster-admin".into();
        let Change::Replace(new) = reconciled(&old, &wanted) else { panic!() };
        assert_eq!(new["roleRef"], wanted["roleRef"]);
    }
}
