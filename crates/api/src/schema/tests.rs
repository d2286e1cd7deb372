use serde_json::{Value, json};

use super::*;

fn ty(group: &str, version: &str, kind: &str) -> TypeRef<'static> {
    for_kind(group, version, kind).expect("a stable kind")
}

fn at<'a>(mut ty: TypeRef<'a>, path: &str) -> Field<'a> {
    let mut found = None;
    for name in path.split('.') {
        let field = ty.field(name).unwrap_or_else(|| panic!("{path}: no field {name}"));
        ty = field.ty.item().unwrap_or(field.ty);
        found = Some(field);
    }
    found.expect("a path has a field")
}

#[test]
fn every_stable_kind_decodes_and_memory_stays_small() {
    let schema = kubernetes();
    assert!(schema.kinds().count() > 100);
    assert!(schema.struct_count() > 500);
    assert!(schema.memory_bytes() < 300_000, "{} bytes", schema.memory_bytes());
    for (group, version, kind) in schema.kinds() {
        let ty = for_kind(group, version, kind).expect("listed kinds are found");
        assert!(ty.is_object(), "{group}/{version} {kind}");
        assert!(ty.fields().len() > 0, "{group}/{version} {kind}");
    }
}

#[test]
fn only_stable_versions_are_known() {
    assert!(for_kind("", "v1", "Pod").is_some());
    assert!(for_kind("apps", "v1", "Deployment").is_some());
    assert!(for_kind("apps", "v1beta1", "Deployment").is_none());
    assert!(for_kind("apps", "v1", "Pod").is_none());
}

#[test]
fn fields_carry_their_merge_rules() {
    let pod = ty("", "v1", "Pod");
    let containers = at(pod, "spec.containers");
    assert!(containers.required && containers.strategy.merge);
    assert_eq!(containers.merge_key, Some("name"));
    let ports = at(pod, "spec.containers.ports");
    let Some(ListType::Map(keys)) = ports.ty.list_type() else { panic!("ports merge by key") };
    assert_eq!(keys.iter().collect::<Vec<_>>(), ["containerPort", "protocol"]);
    assert_eq!(at(pod, "spec.containers.ports.protocol").default, Some("TCP"));
    assert!(matches!(at(pod, "spec.containers.command").ty.list_type(), Some(ListType::Atomic)));
    assert!(matches!(at(pod, "metadata.finalizers").ty.list_type(), Some(ListType::Set)));
    let volumes = at(pod, "spec.volumes");
    assert!(volumes.strategy.merge && volumes.strategy.retain_keys);
    assert!(at(pod, "spec.nodeSelector").ty.is_atomic());
    assert!(!at(pod, "metadata.labels").ty.is_atomic());
    let deployment = ty("apps", "v1", "Deployment");
    assert!(at(deployment, "spec.selector").ty.is_atomic());
    assert!(at(deployment, "spec.strategy").strategy.retain_keys);
    let budget = ty("policy", "v1", "PodDisruptionBudget");
    assert!(at(budget, "spec.selector").strategy.replace);
}

#[test]
fn a_field_may_overrule_its_type_on_granularity() {
    let claim = at(ty("", "v1", "PersistentVolume"), "spec.claimRef");
    assert!(!claim.ty.is_atomic());
    let target = at(ty("", "v1", "Endpoints"), "subsets.addresses.targetRef");
    assert!(target.ty.is_atomic());
    assert_eq!(target.ty.name(), claim.ty.name());
}

#[test]
fn unknown_fields_are_named_with_indices() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"any": "thing"}, "color": 1},
        "spec": {"containers": [{"name": "a"}, {"name": "b", "imagePolicy": "x"}], "foo": {}},
    });
    let unknown = ty("", "v1", "Pod").validate_unknown(&pod);
    assert_eq!(unknown, ["metadata.color", "spec.containers[1].imagePolicy", "spec.foo"]);
    let findings: Vec<String> = unknown.iter().map(|p| format!("unknown field {p:?}")).collect();
    assert_eq!(
        strict_decoding_error(&findings[1..]),
        r#"strict decoding error: unknown field "spec.containers[1].imagePolicy", unknown field "spec.foo""#
    );
}

#[test]
fn pruning_takes_unknown_fields_and_leaves_the_rest() {
    let mut pod =
        json!({"spec": {"containers": [{"name": "b", "x": 1}], "nodeSelector": {"k": "v"}, "foo": {}}, "top": 1});
    ty("", "v1", "Pod").prune(&mut pod);
    assert_eq!(pod, json!({"spec": {"containers": [{"name": "b"}], "nodeSelector": {"k": "v"}}}));
}

#[test]
fn untyped_fields_accept_anything() {
    let revision = json!({"data": {"spec": {"template": [1, {"x": null}]}}, "revision": 3});
    let ty = ty("apps", "v1", "ControllerRevision");
    assert_eq!(ty.validate_unknown(&revision), Vec::<String>::new());
    assert_eq!(ty.type_check(&revision), Ok(()));
}

#[test]
fn wrong_types_are_worded_as_the_decoder_does() {
    let deployment = ty("apps", "v1", "Deployment");
    let pod = ty("", "v1", "Pod");
    let secret = ty("", "v1", "Secret");
    let config = ty("", "v1", "ConfigMap");
    let prefix = "json: cannot unmarshal";
    let cases: Vec<(TypeRef<'_>, Value, String)> = vec![
        (
            deployment,
            json!({"spec": {"replicas": "3"}}),
            format!("{prefix} string into Go struct field DeploymentSpec.spec.replicas of type int32"),
        ),
        (
            deployment,
            json!({"spec": {"replicas": 1.5}}),
            format!("{prefix} number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        ),
        (
            deployment,
            json!({"spec": {"replicas": 3_000_000_000_i64}}),
            format!("{prefix} number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        ),
        (
            pod,
            json!({"spec": {"containers": [{"env": [{"name": "A", "value": 1}]}]}}),
            format!("{prefix} number into Go struct field EnvVar.spec.containers.env.value of type string"),
        ),
        (
            pod,
            json!({"spec": {"containers": {"name": "a"}}}),
            format!("{prefix} object into Go struct field PodSpec.spec.containers of type []v1.Container"),
        ),
        (pod, json!({"spec": []}), format!("{prefix} array into Go struct field Pod.spec of type v1.PodSpec")),
        (
            config,
            json!({"data": {"a": true}}),
            format!("{prefix} bool into Go struct field ConfigMap.data of type string"),
        ),
        (
            config,
            json!({"metadata": {"labels": ["a"]}}),
            format!("{prefix} array into Go struct field ObjectMeta.metadata.labels of type map[string]string"),
        ),
        (config, json!("x"), format!("{prefix} string into Go value of type v1.ConfigMap")),
        (secret, json!({"data": {"a": "%%%"}}), "illegal base64 data at input byte 0".into()),
        (
            pod,
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1 core"}}}]}}),
            r"quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".into(),
        ),
        (
            pod,
            json!({"spec": {"containers": [{"livenessProbe": {"httpGet": {"port": true}}}]}}),
            format!("{prefix} bool into Go value of type int32"),
        ),
        (
            pod,
            json!({"metadata": {"creationTimestamp": "yesterday"}}),
            r#"parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#.into(),
        ),
    ];
    for (ty, value, message) in cases {
        let error = ty.type_check(&value).expect_err("a mismatch");
        assert_eq!(error.message, message, "{value}");
    }
    let message = decode_error("Pod", "v1", "json: x");
    assert_eq!(message, r#"Pod in version "v1" cannot be handled as a Pod: json: x"#);
}

#[test]
fn right_types_and_nulls_pass() {
    let pod = json!({
        "metadata": {"name": "a", "creationTimestamp": "2024-05-06T07:08:09Z", "deletionGracePeriodSeconds": null},
        "spec": {"containers": [{
            "name": "a", "image": null, "resources": {"limits": {"cpu": 1, "memory": "1.5Gi", "x": "-2e3"}},
            "livenessProbe": {"httpGet": {"port": "http"}}, "readinessProbe": {"tcpSocket": {"port": 80}},
        }], "terminationGracePeriodSeconds": 9_000_000_000_i64},
    });
    assert_eq!(ty("", "v1", "Pod").type_check(&pod), Ok(()));
    let secret = json!({"data": {"a": "aGVsbG8=", "b": "", "c": "aGVs\nbG8="}});
    assert_eq!(ty("", "v1", "Secret").type_check(&secret), Ok(()));
    let lease = json!({"spec": {"renewTime": "2024-05-06T07:08:09.123456Z"}});
    assert_eq!(ty("coordination.k8s.io", "v1", "Lease").type_check(&lease), Ok(()));
}

#[test]
fn bad_schema_text_names_its_line() {
    let error = Schema::from_text("=core.v1.A\nname string\nsize furlong\n").expect_err("no such type");
    assert_eq!(error.line, 3);
    assert_eq!(Schema::from_text("name string\n").expect_err("no struct").line, 1);
}

#[test]
fn a_structural_schema_reads_like_a_built_in_one() {
    let root = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer"},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                "items": {"type": "object", "properties": {"id": {"type": "string", "default": "x"}}}},
            "port": {"x-kubernetes-int-or-string": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "half": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"n": {"type": "number"}}},
            "tags": {"type": "object", "additionalProperties": {"type": "string"}, "x-kubernetes-map-type": "atomic"},
        }},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }});
    let options = StructuralOptions { group: "example.com", version: "v1", kind: "Widget", status_subresource: false };
    let schema = Schema::from_structural(&root, options);
    let widget = schema.kind("example.com", "v1", "Widget").expect("the kind is there");
    assert!(!widget.has_status_subresource());
    assert!(at(widget, "spec.size").required);
    assert_eq!(at(widget, "spec.parts.id").default, Some("x"));
    assert!(matches!(at(widget, "metadata.ownerReferences").ty.list_type(), Some(ListType::Map(_))));
    assert!(at(widget, "spec.tags").ty.is_atomic());
    let object = json!({
        "apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a", "bad": 1},
        "spec": {"size": 1, "port": "http", "free": {"a": {"b": 1}}, "half": {"n": 1.5, "m": 2}, "bad": 2},
    });
    assert_eq!(widget.validate_unknown(&object), ["metadata.bad", "spec.bad"]);
    assert_eq!(widget.type_check(&object), Ok(()));
    let error = widget.type_check(&json!({"spec": {"half": {"n": "x"}}})).expect_err("a mismatch");
    assert_eq!(error.field, "spec.half.n");
}
