//! ClusterRoles that collect the rules of others (`aggregationRule`).

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::labels;

/// The rules that the role should have: those of the roles that its selectors choose, by name, each once. `None` when it
/// collects nothing, or has these rules already.
pub fn aggregated(role: &ClusterRole, all: &[&ClusterRole]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut chosen = all.to_vec();
    chosen.retain(|r| r.metadata.name != role.metadata.name);
    chosen.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors.iter().map(labels::selector) {
        for rule in
            chosen.iter().filter(|r| labels::matches(&selector, &r.metadata)).flat_map(|r| r.rules.iter().flatten())
        {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn role(name: &str, label: &str, resource: &str) -> ClusterRole {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {label: "true"}},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}],
        }))
        .unwrap()
    }

    fn collector(rules: serde_json::Value) -> ClusterRole {
        serde_json::from_value(json!({
            "metadata": {"name": "all", "labels": {"to-all": "true"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to-all": "true"}}, {"matchLabels": {"too": "true"}}]},
            "rules": rules,
        }))
        .unwrap()
    }

    #[test]
    fn rules_are_collected_by_name_and_once() {
        let all = collector(json!([]));
        let (b, a, same, other) = (
            role("b", "to-all", "pods"),
            role("a", "to-all", "nodes"),
            role("c", "too", "pods"),
            role("d", "x", "secrets"),
        );
        let rules = aggregated(&all, &[&b, &a, &same, &other, &all]).unwrap();
        let resources: Vec<_> = rules.iter().map(|r| r.resources.clone().unwrap().concat()).collect();
        assert_eq!(resources, ["nodes", "pods"]);
        let done = collector(serde_json::to_value(&rules).unwrap());
        assert_eq!(aggregated(&done, &[&b, &a, &same, &done]), None);
        assert_eq!(aggregated(&done, &[&done]), Some(Vec::new()), "what is collected no more goes");
    }

    #[test]
    fn a_role_without_an_aggregation_rule_is_left_alone() {
        assert_eq!(aggregated(&role("a", "to-all", "pods"), &[]), None);
    }
}
