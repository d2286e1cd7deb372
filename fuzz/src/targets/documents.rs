//! Documents and changes to them.

use api::kinds::{KindInfo, registry};
use api::schema::TypeRef;
use api::status::ApiError;
use serde_json::{Value, json};

use super::{Target, outcome};

/// What is built in, as a client would write it.
fn objects() -> Vec<Value> {
    let pod = json!({
        "serviceAccountName": "default", "restartPolicy": "Always",
        "containers": [{
            "name": "c", "image": "i:1", "ports": [{"containerPort": 80, "name": "http", "protocol": "TCP"}],
            "env": [{"name": "A", "value": "b"}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
            "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}, "runAsUser": 0},
        }],
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "p", "projected": {"sources": [{"secret": {"name": "s"}}]}}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]}}},
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}],
    });
    let meta = json!({"name": "x", "namespace": "default", "labels": {"app": "x"}, "annotations": {"a": "b"}, "uid": "u",
        "creationTimestamp": "2024-01-01T00:00:00Z", "generation": 1, "finalizers": ["example.com/f"]});
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": pod});
    let selector =
        json!({"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "app", "operator": "In", "values": ["x"]}]});
    vec![
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {"replicas": 2, "selector": selector, "template": template, "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}}}}),
        json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": meta, "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": template}}}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": {"app": "x"}, "ports": [{"port": 80, "targetPort": "http", "nodePort": 30_000}], "type": "NodePort"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": {"k": "aGVsbG8="}, "immutable": true}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta, "spec": {"rules": [{"host": "a.example", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": meta, "spec": {"maxReplicas": 5, "scaleTargetRef": {"kind": "Deployment", "name": "x"}, "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}}),
    ]
}

fn texts(values: impl IntoIterator<Item = Value>) -> Vec<Vec<u8>> {
    values.into_iter().map(|v| v.to_string().into_bytes()).collect()
}

/// Two documents in a list: what is there, and what comes.
fn pairs() -> Vec<Vec<u8>> {
    let mut pairs: Vec<Value> = objects().into_iter().map(|o| json!([o, o])).collect();
    let all = objects();
    pairs.extend(all.windows(2).map(|two| json!(two)));
    texts(pairs)
}

fn two(input: &[u8]) -> Option<(Value, Value)> {
    match serde_json::from_slice(input).ok()? {
        Value::Array(list) => <[Value; 2]>::try_from(list).ok().map(|[a, b]| (a, b)),
        _ => None,
    }
}

/// The type of what is there; a pod when it does not say.
fn kind_of(object: &Value) -> &'static KindInfo {
    let (group, version) = api::kinds::split_api_version(object["apiVersion"].as_str().unwrap_or("v1"));
    let kind = object["kind"].as_str().unwrap_or("Pod");
    let all = registry().all();
    let found = all.iter().find(|k| k.group == group && k.version == version && k.kind == kind);
    found.or_else(|| all.iter().find(|k| k.kind == "Pod")).unwrap_or(&all[0])
}

fn schema_of(object: &Value) -> Option<TypeRef<'static>> {
    kind_of(object).schema()
}

fn told(result: Result<Value, ApiError>) -> String {
    outcome(result.map_err(|e| format!("{} {}", e.code, e.message)))
}

/// Bodies of JSON.
pub const JSON: Target = Target {
    name: "json",
    about: "request bodies of JSON",
    json: false,
    seeds: || texts(objects()),
    run: |input| outcome(apiserver::fuzz::json(input).map_err(|e| e.message)),
};

/// Bodies of YAML.
pub const YAML: Target = Target {
    name: "yaml",
    about: "request bodies of YAML",
    json: false,
    seeds: || {
        let blocks = [
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  labels: &l {a: b, c: 'd'}\ndata:\n  text: |\n    x\n     y\n  more: >-\n    z\n  n: \"\\u0041\"\n",
            "a: &a [1, 2]\nb: [*a, *a]\n<<: {c: 0x1F, d: 1e3, e: .inf, f: ~, g: 2024-01-01}\n? key\n: value\n--- \n- x\n...\n",
            "spec:\n- {name: a, value: no}\n- name: b\n  value: !!str 1\n",
        ];
        blocks.into_iter().map(|b| b.as_bytes().to_vec()).chain(texts(objects())).collect()
    },
    run: |input| outcome(apiserver::fuzz::yaml(input).map_err(|e| e.message)),
};

/// Protobuf: what is decoded is encoded to what is decoded the same.
pub const PROTOBUF: Target = Target {
    name: "protobuf",
    about: "request bodies of protobuf, decoded, encoded and decoded again",
    json: false,
    seeds: || objects().iter().filter_map(api::protobuf::encode).collect(),
    run: |input| {
        let object = match api::protobuf::decode(input) {
            Ok(object) => object,
            Err(error) => return error.message,
        };
        let Some(bytes) = api::protobuf::encode(&object) else { return "not encoded".to_owned() };
        match api::protobuf::decode(&bytes) {
            Ok(again) => format!("ok {}", again == object),
            Err(error) => panic!("what was encoded is not decoded: {}", error.message),
        }
    },
};

/// Objects of built-in kinds: decoded, pruned, defaulted, validated.
pub const OBJECT: Target = Target {
    name: "object",
    about: "objects of built-in kinds: types, defaults, validation, tables, protobuf",
    json: true,
    seeds: || texts(objects()),
    run: |input| {
        let Ok(mut object) = serde_json::from_slice::<Value>(input) else { return "no JSON".to_owned() };
        let (kind, Some(ty)) = (kind_of(&object), schema_of(&object)) else { return "no schema".to_owned() };
        if !object.is_object() || !object["metadata"].is_object() {
            return "no object".to_owned();
        }
        let _ = ty.validate_unknown(&object);
        if let Err(error) = ty.type_check(&object) {
            return error.message;
        }
        ty.prune(&mut object);
        kind.default(&mut object);
        let mut once_more = object.clone();
        kind.default(&mut once_more);
        assert_eq!(once_more, object, "defaults of defaults");
        let findings: Vec<String> = kind.validate_create(&object).iter().map(ToString::to_string).collect();
        let _ = (kind.selectable(&object), kind.warnings(&object), api::protobuf::encode(&object));
        let _ = api::table::table(kind, [&object], jiff::Timestamp::UNIX_EPOCH, api::table::IncludeObject::Object);
        if findings.is_empty() { "ok".to_owned() } else { findings.join("; ") }
    },
};

/// JSON patches (RFC 6902).
pub const JSON_PATCH: Target = Target {
    name: "json-patch",
    about: "JSON patches: [document, operations]",
    json: true,
    seeds: || {
        let operations = json!([
            {"op": "test", "path": "/metadata/name", "value": "x"},
            {"op": "add", "path": "/metadata/labels/a~1b~0c", "value": {"x": [1, null]}},
            {"op": "remove", "path": "/spec/containers/0/env/1"},
            {"op": "replace", "path": "/spec/containers/0/image", "value": "j"},
            {"op": "move", "from": "/spec/containers/0/ports", "path": "/spec/x"},
            {"op": "copy", "from": "/spec", "path": "/metadata/y"},
            {"op": "add", "path": "/spec/containers/-", "value": {}},
        ]);
        texts(objects().into_iter().take(2).map(|o| json!([o, operations])))
    },
    run: |input| two(input).map_or("no pair".to_owned(), |(doc, patch)| told(api::patch::json_patch(&doc, &patch))),
};

/// Merge patches (RFC 7396).
pub const MERGE_PATCH: Target = Target {
    name: "merge-patch",
    about: "merge patches: [document, patch]",
    json: true,
    seeds: pairs,
    run: |input| two(input).map_or("no pair".to_owned(), |(doc, patch)| told(api::patch::merge_patch(&doc, &patch))),
};

/// Strategic merge patches.
pub const STRATEGIC_PATCH: Target = Target {
    name: "strategic-patch",
    about: "strategic merge patches: [document, patch]",
    json: true,
    seeds: || {
        let marks = json!({"spec": {
            "$setElementOrder/containers": [{"name": "d"}, {"name": "c"}],
            "containers": [{"name": "c", "$patch": "replace"}, {"name": "d", "image": "i"}, {"name": "e", "$patch": "delete"}],
            "volumes": [{"name": "v", "$retainKeys": ["name"]}, {"$patch": "merge"}],
            "$deleteFromPrimitiveList/finalizers": ["a"],
        }});
        let mut seeds = pairs();
        seeds.extend(texts(objects().into_iter().take(2).map(|o| json!([o, marks]))));
        seeds
    },
    run: |input| {
        let Some((doc, patch)) = two(input) else { return "no pair".to_owned() };
        let Some(schema) = schema_of(&doc) else { return "no schema".to_owned() };
        told(api::patch::strategic_merge(schema, &doc, &patch))
    },
};

/// Server-side apply: the same configuration twice changes nothing.
pub const APPLY: Target = Target {
    name: "apply",
    about: "server-side apply: [live, applied], twice, and by another manager",
    json: true,
    seeds: || {
        let mut seeds = pairs();
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}}}}});
        let entry = json!([{"manager": "m", "operation": "Apply", "apiVersion": "v1", "time": "2024-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields}]);
        let (mut live, applied) = (objects().swap_remove(0), objects().swap_remove(0));
        live["metadata"]["managedFields"] = entry;
        seeds.extend(texts([json!([live, applied])]));
        seeds
    },
    run: |input| {
        let Some((live, applied)) = two(input) else { return "no pair".to_owned() };
        let (kind, Some(schema)) = (kind_of(&live), schema_of(&live)) else { return "no schema".to_owned() };
        // What is there has passed its type check when it was written.
        if !live["metadata"].is_object() || schema.type_check(&live).is_err() {
            return "no live object".to_owned();
        }
        let api_version = kind.api_version();
        let options = |manager| api::ssa::ApplyOptions {
            manager,
            force: manager == "n",
            now: "2024-01-02T00:00:00Z",
            api_version: &api_version,
            subresource: "",
        };
        let once = match api::ssa::apply(schema, Some(&live), &applied, &options("m")) {
            Ok(once) => once,
            Err(error) => return format!("{} {}", error.code, error.message),
        };
        let twice = api::ssa::apply(schema, Some(&once), &applied, &options("m"));
        assert_eq!(twice.as_ref(), Ok(&once), "the same again changes nothing");
        told(api::ssa::apply(schema, Some(&once), &applied, &options("n")))
    },
};

/// Definitions of custom resources, and objects of theirs.
pub const DEFINITION: Target = Target {
    name: "definition",
    about: "custom resources: [definition, object]",
    json: true,
    seeds: || {
        let schema = json!({"type": "object", "required": ["spec"], "properties": {
            "spec": {"type": "object", "properties": {
                "schedule": {"type": "string", "pattern": "^[a-z]+$", "minLength": 1, "default": "a"},
                "replicas": {"type": "integer", "minimum": 0, "maximum": 10, "format": "int32"},
                "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "maxItems": 5,
                    "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "maxLength": 9}}}},
                "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "nullable": true},
            }, "x-kubernetes-validations": [{"rule": "self.replicas < 5", "message": "few", "fieldPath": ".replicas"}]},
            "status": {"type": "object", "additionalProperties": {"type": "number"}},
        }});
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.example.com"},
            "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}},
                    "additionalPrinterColumns": [{"name": "S", "type": "string", "jsonPath": ".spec.list[?(@.name=='a')].name"}]}]},
            "status": {"acceptedNames": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"}, "conditions": [{"type": "Established", "status": "True"}]}});
        let object = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a", "namespace": "default"},
            "spec": {"schedule": "a", "replicas": 1, "port": "http", "list": [{"name": "a"}], "any": null}, "status": {"a": 1.5}});
        texts([json!([definition, object])])
    },
    run: |input| {
        let Some((mut definition, mut object)) = two(input) else { return "no pair".to_owned() };
        let kind = kind_of(&json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}));
        let Some(ty) = kind.schema() else { return "no schema".to_owned() };
        if !definition["metadata"].is_object() || !object["metadata"].is_object() {
            return "no object".to_owned();
        }
        if let Err(error) = ty.type_check(&definition) {
            return error.message;
        }
        ty.prune(&mut definition);
        kind.default(&mut definition);
        let findings: Vec<String> = kind.validate_create(&definition).iter().map(ToString::to_string).collect();
        if !findings.is_empty() {
            return findings.join("; ");
        }
        let kinds = match api::crd::kinds(&definition) {
            Ok(kinds) => kinds,
            Err(error) => return error.to_string(),
        };
        let custom = kinds.stored;
        custom.default(&mut object);
        let findings: Vec<String> = custom.validate_create(&object).iter().map(ToString::to_string).collect();
        format!("ok {}", findings.join("; "))
    },
};
