//! Namespace: when one is deleted, everything in it goes first.

use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use crate::plan::{NAMESPACES, Plan, name, terminating};

const FINALIZER: &str = "kubernetes";

/// What is left in a terminating namespace, by resource (`pods.v1.`, …) and by finalizer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remaining {
    /// Objects by resource.
    pub objects: Vec<(String, usize)>,
    /// Objects that wait for a finalizer, by its name.
    pub finalizers: Vec<(String, usize)>,
    /// Group-versions of other servers that could not be asked what they have (`metrics.k8s.io/v1beta1`), with what was said.
    pub unknown: Vec<(String, String)>,
}

impl Remaining {
    /// Whether nothing is left, as far as can be known, and everything can.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.unknown.is_empty()
    }
}

/// Decides for one namespace. The caller has asked for the deletion of all content and counted what is left.
pub fn plan(ns: &Namespace, remaining: &Remaining) -> Plan {
    let mut plan = Plan::default();
    let held = ns.spec.iter().flat_map(|s| s.finalizers.iter().flatten()).any(|f| f == FINALIZER);
    if !terminating(&ns.metadata) || !held {
        return plan;
    }
    if remaining.is_empty() {
        let rest: Vec<&String> =
            ns.spec.iter().flat_map(|s| s.finalizers.iter().flatten()).filter(|f| *f != FINALIZER).collect();
        let mut body = serde_json::to_value(ns).expect("a namespace always serialises");
        body["apiVersion"] = "v1".into();
        body["kind"] = "Namespace".into();
        body["spec"]["finalizers"] = json!(rest);
        plan.actions.push(crate::plan::Action::Update {
            resource: NAMESPACES,
            namespace: None,
            name: name(&ns.metadata).to_owned(),
            subresource: Some("finalize"),
            body,
        });
        return plan;
    }
    let conditions = conditions(remaining);
    let old = ns.status.as_ref().and_then(|s| s.conditions.as_ref()).map(|c| {
        c.iter().map(|c| (c.type_.clone(), c.status.clone(), c.message.clone().unwrap_or_default())).collect::<Vec<_>>()
    });
    let new: Vec<_> = conditions
        .iter()
        .map(|c| {
            let text = |k: &str| c[k].as_str().unwrap_or_default().to_owned();
            (text("type"), text("status"), text("message"))
        })
        .collect();
    if old.as_ref() != Some(&new) {
        plan.actions.push(crate::plan::Action::Patch {
            resource: NAMESPACES,
            namespace: None,
            name: name(&ns.metadata).to_owned(),
            subresource: Some("status"),
            patch: json!({"metadata": {"uid": ns.metadata.uid}, "status": {"conditions": conditions}}),
        });
    }
    plan
}

fn conditions(remaining: &Remaining) -> Vec<Value> {
    let condition = |type_: &str, yes: bool, reason: &str, message: String| json!({"type": type_, "status": if yes { "True" } else { "False" }, "reason": reason, "message": message});
    let list = |items: &[(String, usize)], what: &str| {
        items.iter().map(|(n, c)| format!("{n} {what} {c} resource instances")).collect::<Vec<_>>().join(", ")
    };
    let finalizers = if remaining.finalizers.is_empty() {
        ("ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned())
    } else {
        let text = list(&remaining.finalizers, "in");
        ("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {text}"))
    };
    let all_content = "All content successfully deleted, may be waiting on finalization";
    let left = if remaining.objects.is_empty() {
        ("ContentRemoved", "All content successfully removed".to_owned())
    } else {
        ("SomeResourcesRemain", format!("Some resources are remaining: {}", list(&remaining.objects, "has")))
    };
    let found = if remaining.unknown.is_empty() {
        ("ResourcesDiscovered", "All resources successfully discovered".to_owned())
    } else {
        let text =
            remaining.unknown.iter().map(|(group, why)| format!("{group}: {why}")).collect::<Vec<_>>().join(", ");
        let groups = format!("Discovery failed for some groups, {} failing", remaining.unknown.len());
        let message = format!("{groups}: unable to retrieve the complete list of server APIs: {text}");
        ("DiscoveryFailed", message)
    };
    vec![
        condition("NamespaceDeletionDiscoveryFailure", !remaining.unknown.is_empty(), found.0, found.1),
        condition(
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        condition("NamespaceDeletionContentFailure", false, "ContentDeleted", all_content.to_owned()),
        condition("NamespaceContentRemaining", !remaining.objects.is_empty(), left.0, left.1),
        condition("NamespaceFinalizersRemaining", !remaining.finalizers.is_empty(), finalizers.0, finalizers.1),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Action;

    fn terminating_namespace() -> Namespace {
        serde_json::from_value(
            json!({"metadata": {"name": "x", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"finalizers": ["kubernetes"]}}),
        )
        .unwrap()
    }

    #[test]
    fn an_empty_namespace_is_let_go() {
        let p = plan(&terminating_namespace(), &Remaining::default());
        let Action::Update { subresource, body, .. } = &p.actions[0] else { panic!("{p:?}") };
        assert_eq!((*subresource, &body["spec"]["finalizers"]), (Some("finalize"), &json!([])));
    }

    #[test]
    fn what_remains_is_told() {
        let r = Remaining { objects: vec![("pods.".into(), 2)], ..Remaining::default() };
        let p = plan(&terminating_namespace(), &r);
        let Action::Patch { patch, .. } = &p.actions[0] else { panic!("{p:?}") };
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        let of = |kind: &str| conditions.iter().find(|c| c["type"] == kind).expect("a condition");
        let left = of("NamespaceContentRemaining");
        assert_eq!(left["message"], "Some resources are remaining: pods. has 2 resource instances");
        assert_eq!(of("NamespaceDeletionContentFailure")["status"], "False");
        assert_eq!(of("NamespaceFinalizersRemaining")["reason"], "ContentHasNoFinalizers");
    }

    #[test]
    fn a_namespace_waits_for_servers_that_cannot_be_asked() {
        let r = Remaining { unknown: vec![("a.example/v1".into(), "gone".into())], ..Remaining::default() };
        let p = plan(&terminating_namespace(), &r);
        let Action::Patch { patch, .. } = &p.actions[0] else { panic!("{p:?}") };
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        let of = |kind: &str| conditions.iter().find(|c| c["type"] == kind).expect("a condition");
        let failure = of("NamespaceDeletionDiscoveryFailure");
        assert_eq!((&failure["status"], &failure["reason"]), (&json!("True"), &json!("DiscoveryFailed")));
        assert!(failure["message"].as_str().unwrap().ends_with("list of server APIs: a.example/v1: gone"));
        assert_eq!(of("NamespaceContentRemaining")["status"], "False");
    }
}
