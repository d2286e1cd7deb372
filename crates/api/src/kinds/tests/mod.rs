use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::meta::{self, NewMeta};

mod access;
mod infra;
mod limits;
mod more_workloads;
mod others;
mod pods;
mod scaling;
mod services;
mod warnings;
mod workloads;

fn kind(api_version: &str, kind: &str) -> &'static KindInfo {
    registry().by_api_version(api_version, kind).unwrap()
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// What the API server does on create; the object and the findings.
fn create(kind: &KindInfo, mut object: Value) -> (Value, Vec<String>) {
    kind.to_storage(&mut object);
    kind.from_storage(&mut object);
    kind.default(&mut object);
    let namespace = if kind.namespaced { "ns" } else { "" };
    meta::prepare_create(&mut object, NewMeta { namespace, uid: "uid-1", now: now(), name_suffix: "abcde" });
    kind.prepare_create(&mut object);
    let errors = kind.validate_create(&object).iter().map(ToString::to_string).collect();
    (object, errors)
}

/// Creates an object that must be valid.
fn created(kind: &KindInfo, object: Value) -> Value {
    let (object, errors) = create(kind, object);
    assert_eq!(errors, Vec::<String>::new(), "{object:#}");
    // What defaulting and preparation add must be fields of the kind, and of their types.
    let ty = crate::schema::for_kind(kind.group, kind.version, kind.kind).unwrap();
    assert_eq!(ty.validate_unknown(&object), Vec::<String>::new(), "{object:#}");
    ty.type_check(&object).map_err(|e| e.message).unwrap();
    object
}

/// Replaces `old` by what `change` makes of it.
fn update(kind: &KindInfo, old: &Value, change: impl FnOnce(&mut Value)) -> (Value, Vec<String>) {
    let mut new = old.clone();
    change(&mut new);
    kind.default(&mut new);
    kind.prepare_update(&mut new, old);
    let errors = kind.validate_update(&new, old).iter().map(ToString::to_string).collect();
    (new, errors)
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[test]
fn the_registry_finds_kinds_both_ways() {
    for k in registry().all() {
        assert_eq!(registry().by_resource(k.group, k.version, k.plural).unwrap().kind, k.kind);
        assert_eq!(registry().by_kind(k.group, k.version, k.kind).unwrap().plural, k.plural);
        assert!(k.columns.list.iter().any(|c| c.name == "Name"));
    }
    assert!(registry().by_resource("", "v1", "nope").is_none());
    assert_eq!(Gvk::new("apps/v1", "Deployment").api_version(), "apps/v1");
    assert_eq!(Gvk::new("v1", "Pod").group, "");
}

#[test]
fn an_empty_object_is_refused_with_its_missing_fields_not_a_panic() {
    for k in registry().all() {
        let (_, errors) = create(k, json!({"apiVersion": k.api_version(), "kind": k.kind}));
        assert!(errors.iter().any(|e| e.starts_with("metadata.name: Required value")), "{}: {errors:?}", k.kind);
    }
}

/// JSON that looks like manifests: the field names of the rules, the wrong types.
// allow-long: mostly the list of names.
fn wild() -> impl Strategy<Value = Value> {
    let keys = prop::sample::select(vec![
        "spec",
        "status",
        "metadata",
        "labels",
        "template",
        "containers",
        "initContainers",
        "name",
        "image",
        "ports",
        "port",
        "resources",
        "limits",
        "requests",
        "cpu",
        "volumes",
        "volumeMounts",
        "env",
        "valueFrom",
        "fieldRef",
        "selector",
        "matchLabels",
        "strategy",
        "rollingUpdate",
        "type",
        "data",
        "stringData",
        "livenessProbe",
        "httpGet",
        "subsets",
        "endpoints",
        "addresses",
        "rules",
        "http",
        "paths",
        "backend",
        "affinity",
        "nodeAffinity",
        "tolerations",
        "volumeClaimTemplates",
        "accessModes",
        "capacity",
        "securityContext",
        "lifecycle",
        "projected",
        "sources",
        "verbs",
        "subjects",
        "roleRef",
        "webhooks",
        "clientConfig",
        "service",
        "url",
        "path",
        "matchConstraints",
        "resourceRules",
        "resources",
        "matchConditions",
        "validations",
        "variables",
        "paramRef",
        "hard",
        "scopes",
        "max",
        "min",
        "default",
        "defaultRequest",
        "schedule",
        "timeZone",
        "jobTemplate",
        "podFailurePolicy",
        "successPolicy",
        "onExitCodes",
        "values",
        "metrics",
        "resource",
        "target",
        "averageUtilization",
        "behavior",
        "scaleUp",
        "policies",
        "ingress",
        "from",
        "ipBlock",
        "cidr",
        "except",
        "cidrs",
        "devices",
        "exactly",
        "firstAvailable",
        "attributes",
        "drivers",
        "limited",
        "limitResponse",
        "queuing",
        "resourceRules",
        "tokenRequests",
        "conditions",
        "currentMetrics",
        "annotations",
        "kind",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-zA-Z0-9./_%-]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_rule_panics_on_malformed_objects(spec in wild(), other in wild(), root in wild()) {
        for k in registry().all() {
            for mut object in [json!({"metadata": {"name": "x"}, "spec": spec, "data": other}), root.clone()] {
                if !object.is_object() {
                    continue;
                }
                let old = object.clone();
                k.to_storage(&mut object);
                k.from_storage(&mut object);
                k.default(&mut object);
                pod::admit(&mut object.clone(), &pod::ServiceAccountView { object: Some(&old), volume_suffix: "abcde" });
                k.prepare_create(&mut object);
                k.validate_create(&object);
                k.prepare_update(&mut object, &old);
                k.validate_update(&object, &old);
                k.prepare_status_update(&mut object, &old);
                k.validate_status_update(&object, &old);
                k.selectable(&object);
                k.warnings(&object);
                k.row(&object, now());
            }
        }
    }

    #[test]
    fn defaulting_twice_changes_nothing(spec in wild()) {
        for k in registry().all() {
            let mut once = json!({"metadata": {"name": "x"}, "spec": spec});
            k.default(&mut once);
            let mut twice = once.clone();
            k.default(&mut twice);
            prop_assert_eq!(&once, &twice, "{}", k.kind);
        }
    }
}
