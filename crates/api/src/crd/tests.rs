use serde_json::{Value, json};

use super::*;

fn schema() -> Value {
    json!({
                    "type": "object",
                    "required": ["spec"],
                    "properties": {
                        "spec": {
                            "type": "object",
                            "required": ["schedule"],
                            "properties": {
                                "schedule": {"type": "string", "pattern": "^[0-9* ]+$", "maxLength": 20},
                                "replicas": {"type": "integer", "minimum": 1, "maximum": 5, "default": 2},
                                "mode": {"type": "string", "enum": ["Full", "Delta"], "default": "Full"},
                                "port": {"x-kubernetes-int-or-string": true},
                                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                                "note": {"type": "string", "nullable": true},
                                "targets": {
                                    "type": "array",
                                    "x-kubernetes-list-type": "map",
                                    "x-kubernetes-list-map-keys": ["name"],
                                    "items": {
                                        "type": "object",
                                        "required": ["name"],
                                        "properties": {"name": {"type": "string"}, "weight": {"type": "integer", "default": 1}},
                                    },
                                },
                            },
                            "x-kubernetes-validations": [
                                {"rule": "self.mode != 'Delta' || self.replicas > 1", "message": "deltas need copies"},
                                {"rule": "self.schedule == oldSelf.schedule", "message": "schedule is fixed", "fieldPath": ".schedule"},
                            ],
                        },
                        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    },
    })
}

fn definition() -> Value {
    let mut out = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "backups.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "backups", "kind": "Backup", "shortNames": ["bk"], "categories": ["all"]},
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
                },
                "selectableFields": [{"jsonPath": ".spec.schedule"}],
                "additionalPrinterColumns": [
                    {"name": "Schedule", "type": "string", "jsonPath": ".spec.schedule"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                ],
                "schema": {"openAPIV3Schema": schema()},
            }],
        },
    });
    (HOOKS.default)(&mut out);
    (HOOKS.prepare_create)(&mut out);
    out
}

fn words(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn backup(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Backup", "metadata": {"name": "a", "namespace": "b"}, "spec": spec})
}

#[test]
fn a_good_definition_has_nothing_to_complain_of() {
    let definition = definition();
    assert_eq!(words(&(HOOKS.validate)(&definition)), Vec::<String>::new());
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(definition["spec"]["names"]["listKind"], "BackupList");
    assert_eq!(definition["metadata"]["finalizers"], json!([FINALIZER]));
}

#[test]
fn findings_name_the_field_and_the_rule() {
    let wrong = |change: fn(&mut Value), wanted: &str| {
        let mut definition = definition();
        change(&mut definition);
        let found = words(&(HOOKS.validate)(&definition));
        assert!(found.iter().any(|w| w.contains(wanted)), "{wanted}: {found:?}");
    };
    wrong(
        |d| d["metadata"]["name"] = "x.y".into(),
        "metadata.name: Invalid value: \"x.y\": must be spec.names.plural+\".\"+spec.group",
    );
    wrong(|d| d["spec"]["scope"] = "Here".into(), "spec.scope: Unsupported value: \"Here\"");
    wrong(
        |d| d["spec"]["versions"][0]["storage"] = false.into(),
        "must have exactly one version marked as storage version",
    );
    wrong(
        |d| d["spec"]["versions"][0]["schema"] = Value::Null,
        "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
    );
    wrong(
        |d| {
            d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["bad"] = json!({})
        },
        "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[bad].type: Required value: must not be empty for specified object fields",
    );
    wrong(
        |d| {
            d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["mode"]["default"] =
                "No".into()
        },
        ".properties[mode].default: Unsupported value: \"No\"",
    );
    wrong(
        |d| d["status"]["storedVersions"] = json!(["v0"]),
        "status.storedVersions[0]: Invalid value: \"v0\": missing from spec.versions",
    );
    wrong(|d| d["spec"]["group"] = "apps.k8s.io".into(), "api-approved.kubernetes.io");
}

#[test]
fn objects_are_defaulted_pruned_and_validated() {
    let kinds = kinds(&definition()).unwrap();
    let kind = &kinds.stored;
    let mut object = backup(json!({
        "schedule": "* *", "extra": 1, "free": {"x": {"y": 1}}, "targets": [{"name": "a", "z": 1}], "note": null, "port": "http",
    }));
    let ty = kind.schema().unwrap();
    assert_eq!(ty.validate_unknown(&object), ["spec.extra", "spec.targets[0].z"]);
    ty.prune(&mut object);
    kind.default(&mut object);
    assert_eq!(object["spec"]["replicas"], 2);
    assert_eq!(object["spec"]["targets"], json!([{"name": "a", "weight": 1}]));
    assert_eq!(object["spec"]["free"]["x"]["y"], 1);
    assert_eq!(words(&kind.validate_create(&object)), Vec::<String>::new());
    for (spec, wanted) in [
        (json!({}), "spec.schedule: Required value"),
        (
            json!({"schedule": 1}),
            "spec.schedule: Invalid value: \"integer\": spec.schedule in body must be of type string: \"integer\"",
        ),
        (
            json!({"schedule": "abc"}),
            "spec.schedule: Invalid value: \"abc\": spec.schedule in body should match '^[0-9* ]+$'",
        ),
        (
            json!({"schedule": "*", "replicas": 9}),
            "spec.replicas: Invalid value: 9: spec.replicas in body should be less than or equal to 5",
        ),
        (
            json!({"schedule": "*", "mode": "X"}),
            "spec.mode: Unsupported value: \"X\": supported values: \"Full\", \"Delta\"",
        ),
        (json!({"schedule": "*", "port": true}), "spec.port"),
        (
            json!({"schedule": "*", "mode": "Delta", "replicas": 1}),
            "spec: Invalid value: \"object\": deltas need copies",
        ),
        (
            json!({"schedule": "*", "targets": [{"name": "a"}, {"name": "a"}]}),
            "spec.targets[1]: Duplicate value: {\"name\":\"a\"}",
        ),
    ] {
        let mut object = backup(spec);
        kind.default(&mut object);
        let found = words(&kind.validate_create(&object));
        assert!(found.iter().any(|w| w.starts_with(wanted)), "{wanted}: {found:?}");
    }
}

#[test]
fn transition_rules_compare_with_what_was() {
    let kinds = kinds(&definition()).unwrap();
    let kind = &kinds.stored;
    let (mut old, mut new) = (backup(json!({"schedule": "*"})), backup(json!({"schedule": "**"})));
    kind.default(&mut old);
    kind.default(&mut new);
    kind.prepare_update(&mut new, &old);
    let found = words(&kind.validate_update(&new, &old));
    assert!(found.iter().any(|w| w == "spec.schedule: Invalid value: \"object\": schedule is fixed"), "{found:?}");
    assert_eq!(new["metadata"]["generation"], 1);
}

#[test]
fn columns_and_selectors_read_paths() {
    let kinds = kinds(&definition()).unwrap();
    let kind = &kinds.stored;
    let mut object = backup(json!({"schedule": "1 2"}));
    object["status"] = json!({"conditions": [{"type": "A", "status": "x"}, {"type": "Ready", "status": "True"}]});
    assert_eq!(kind.row(&object, jiff::Timestamp::UNIX_EPOCH), [json!("a"), json!("1 2"), json!("True")]);
    assert_eq!(kind.column_definitions()[0]["name"], "Name");
    assert!(kind.selectable(&object).contains(&("spec.schedule", "1 2".to_owned())));
    assert_eq!(kind.scale.unwrap().spec_replicas, ["spec", "replicas"]);
}

#[test]
fn versions_are_ordered_as_kubernetes_orders_them() {
    let mut versions = ["v1alpha1", "foo", "v2", "v10", "v1beta2", "v1"];
    versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
    assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1alpha1", "foo"]);
}

#[test]
fn documents_show_the_schema_and_change_with_it() {
    let kinds = kinds(&definition()).unwrap();
    let document = crate::openapi::document("example.com", "v1", "v1.36.0", &kinds.served).unwrap();
    let schema = &document["components"]["schemas"]["com.example.v1.Backup"];
    assert_eq!(schema["properties"]["spec"]["properties"]["mode"]["default"], "Full");
    assert!(document["paths"]["/apis/example.com/v1/namespaces/{namespace}/backups/{name}/status"].is_object());
    let patch = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/backups/{name}"]["patch"];
    let forms = patch["requestBody"]["content"].as_object().unwrap();
    assert!(forms.len() == 3 && !forms.contains_key("application/strategic-merge-patch+json"));
    let mut other = definition();
    other["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "more".into();
    let other = super::kinds(&other).unwrap();
    let hash = |kinds| crate::openapi::hash("example.com", "v1", kinds);
    assert_ne!(hash(&kinds.served), hash(&other.served));
    let list = crate::discovery::api_resource_list("example.com", "v1", &kinds.served).unwrap();
    assert_eq!(list["resources"].as_array().unwrap().len(), 3);
}

/// The kind of a definition with this schema.
fn kind_of(schema: &Value) -> std::sync::Arc<crate::kinds::KindInfo> {
    let mut definition = definition();
    let version = &mut definition["spec"]["versions"][0];
    version["schema"]["openAPIV3Schema"] = schema.clone();
    version.as_object_mut().unwrap().retain(|k, _| matches!(k.as_str(), "name" | "served" | "storage" | "schema"));
    kinds(&definition).unwrap().stored
}

#[test]
fn what_did_not_change_is_not_held_against_a_stricter_schema() {
    let kind = kind_of(&json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "n": {"type": "integer", "maximum": 5},
            "text": {"type": "string", "x-kubernetes-validations": [{"rule": "self == 'good'"}]},
            "grows": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > oldSelf"}]},
            "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 5}}}},
            "plain": {"type": "array", "items": {"type": "integer", "maximum": 5}},
        }},
    }}));
    let custom = kind.custom.as_ref().unwrap();
    let object = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Backup", "metadata": {"name": "a"}, "spec": spec});
    let findings = |new: Value, old: Value| -> Vec<String> {
        custom.validate(&object(new), Some(&object(old))).into_iter().map(|e| e.field).collect()
    };
    let old = json!({"n": 9, "text": "bad", "keyed": [{"k": "a", "v": 9}], "plain": [9]});
    let mut new = old.clone();
    new["more"] = json!(1);
    assert_eq!(findings(new.clone(), old.clone()), [""; 0]);
    new["keyed"] = json!([{"k": "b", "v": 1}, {"k": "a", "v": 9}]);
    assert_eq!(findings(new.clone(), old.clone()), [""; 0]);
    new["keyed"][1]["v"] = json!(8);
    new["plain"] = json!([1, 9]);
    new["n"] = json!(10);
    assert_eq!(findings(new, old.clone()), ["spec.keyed[1].v", "spec.n", "spec.plain[1]"]);
    let mut new = old.clone();
    new["text"] = json!("worse");
    assert_eq!(findings(new, old.clone()), ["spec.text"]);
    // Rules about the change are asked also when there is none.
    assert_eq!(findings(json!({"grows": 1}), json!({"grows": 1})), ["spec.grows"]);
    assert_eq!(findings(json!({"grows": 2}), json!({"grows": 1})), [""; 0]);
}

fn rule_errors(schema: &Value) -> Vec<String> {
    ruletypes::check(schema, "s").into_iter().map(|e| e.to_string()).collect()
}

#[test]
fn rules_that_cannot_hold_are_refused() {
    let with = |rule: Value| {
        json!({"type": "object", "properties": {"spec": {
            "type": "object", "properties": {"x": {"type": "integer"}}, "x-kubernetes-validations": [rule],
        }}})
    };
    for (rule, wanted) in [
        (json!({"rule": "self.z == 100"}), "compilation failed: ERROR: <input>:1:5: undefined field 'z'"),
        (json!({"rule": "self.x + 1"}), "cel expression must evaluate to a bool"),
        (json!({"rule": "self.x > 0", "messageExpression": "self.x"}), "messageExpression must evaluate to a string"),
        (json!({"rule": "self.x > 0", "messageExpression": "self.y"}), "messageExpression compilation failed: ERROR"),
        (json!({"rule": "oldSelf.x > 0", "optionalOldSelf": true}), "found no matching overload"),
    ] {
        let found = rule_errors(&with(rule));
        assert!(found.len() == 1 && found[0].contains(wanted), "{wanted}: {found:?}");
    }
    let old = with(json!({"rule": "oldSelf.orValue(self).x <= self.x", "optionalOldSelf": true}));
    assert_eq!(rule_errors(&old), [""; 0]);
}

#[test]
fn rules_over_too_much_are_refused() {
    let list = |max: Option<u64>| {
        let mut list = json!({"type": "array", "items": {"type": "string"},
            "x-kubernetes-validations": [{"rule": "self.all(s, s == 'string constant')"}]});
        if let Some(max) = max {
            list["maxItems"] = max.into();
        }
        list
    };
    let nested = |outer: Value| json!({"type": "object", "properties": {"x": outer}});
    let unbounded = nested(json!({"type": "array", "items": list(None)}));
    let found = rule_errors(&unbounded);
    let wanted = "s.properties[x].items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x";
    assert!(found[0].starts_with(wanted), "{found:?}");
    assert_eq!(rule_errors(&nested(list(None))), [""; 0]);
    assert_eq!(rule_errors(&nested(json!({"type": "array", "maxItems": 10, "items": list(Some(100))}))), [""; 0]);
}

#[test]
fn rules_that_together_cost_too_much_are_named_with_the_whole_schema() {
    let list = json!({"type": "array", "items": {"type": "string"},
        "x-kubernetes-validations": [{"rule": "self.all(s, s == 'string constant')"}]});
    let schema = |count: usize| {
        let properties: serde_json::Map<String, Value> =
            (0..count).map(|i| (format!("p{i:02}"), list.clone())).collect();
        json!({"type": "object", "properties": properties})
    };
    assert_eq!(rule_errors(&schema(15)), [""; 0]);
    let found = rule_errors(&schema(20));
    let named: Vec<String> = (0..4)
        .map(|i| {
            let what = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            format!("s.properties[p{i:02}].x-kubernetes-validations[0].rule: Forbidden: {what}")
        })
        .collect();
    assert_eq!(found[..4], named);
    let whole = "s: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of 1.258290x (try simplifying the rule";
    assert!(found.len() == 5 && found[4].starts_with(whole), "{found:?}");
}

#[test]
fn messages_may_cost_as_much_as_rules_and_optional_old_values_must_be_used() {
    let with = |rule: Value| {
        json!({"type": "object", "properties": {"texts": {"type": "array", "items": {"type": "string"}}},
            "x-kubernetes-validations": [rule]})
    };
    let dear = rule_errors(&with(json!({"rule": "true", "messageExpression": "self.texts.join(' ')"})));
    let wanted = "s.x-kubernetes-validations[0].messageExpression: Forbidden: estimated messageExpression cost exceeds budget by factor of more than 100x";
    assert!(dear.iter().any(|found| found.starts_with(wanted)), "{dear:?}");
    let unused = rule_errors(&with(json!({"rule": "true", "optionalOldSelf": true})));
    let wanted = "s.x-kubernetes-validations[0].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule";
    assert_eq!(unused, [wanted]);
}

#[test]
fn old_values_are_known_only_where_items_can_be_told_apart() {
    let item = json!({"type": "object", "properties": {"k": {"type": "string"}},
        "x-kubernetes-validations": [{"rule": "self.k == oldSelf.k"}]});
    let list = |ty: &str| {
        json!({"type": "object", "properties": {"l": {
            "type": "array", "maxItems": 5, "x-kubernetes-list-type": ty, "x-kubernetes-list-map-keys": ["k"], "items": item,
        }}})
    };
    assert_eq!(rule_errors(&list("map")), [""; 0]);
    let found = rule_errors(&list("atomic"));
    assert!(
        found[0].contains("oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[l]"),
        "{found:?}"
    );
}
