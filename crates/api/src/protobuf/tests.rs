use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::table::{Field, Form, Label, Table, Type};
use super::*;
use crate::kinds::registry;
use crate::schema::{self, Scalar, Shape, TypeRef};

/// A field that holds bytes.
fn bytes(field: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_bytes(&mut out, field, content);
    out
}

fn number(field: u32, value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_number(&mut out, field, value);
    out
}

fn enveloped(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw), bytes(3, b""), bytes(4, b"")].concat()
}

fn error(body: &[u8]) -> (u16, String) {
    let error = decode(body).unwrap_err();
    (error.code, error.message)
}

#[test]
fn what_kubectl_sends_for_a_namespace() {
    let body = [
        0x6b, 0x38, 0x73, 0, 0x0a, 0x0f, 0x0a, 2, 0x76, 0x31, 0x12, 9, 0x4e, 0x61, 0x6d, 0x65, 0x73, 0x70, 0x61, 0x63,
        0x65, 0x12, 0x1c, 0x0a, 0x14, 0x0a, 4, 0x74, 0x65, 0x61, 0x6d, 0x12, 0, 0x1a, 0, 0x22, 0, 0x2a, 0, 0x32, 0,
        0x38, 0, 0x42, 0, 0x12, 0, 0x1a, 2, 0x0a, 0, 0x1a, 0, 0x22, 0,
    ];
    let want = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}, "spec": {}, "status": {}});
    assert_eq!(decode(&body).unwrap(), want);
}

#[test]
fn zeros_stay_where_they_are_meant_and_go_where_json_leaves_them_out() {
    // terminationGracePeriodSeconds is a pointer, hostNetwork is not.
    let spec = bytes(2, &[number(4, 0), number(11, 0), bytes(3, b"")].concat());
    let pod = decode(&enveloped("v1", "Pod", &spec)).unwrap();
    assert_eq!(pod["spec"], json!({"terminationGracePeriodSeconds": 0}));
    let spec = bytes(2, &[number(1, 0), number(5, 0), number(7, 0)].concat());
    let deployment = decode(&enveloped("apps/v1", "Deployment", &spec)).unwrap();
    assert_eq!(deployment["spec"], json!({"replicas": 0}));
    // A service's target port is a struct that Go writes always; of its zero there is nothing to keep.
    let port = bytes(
        1,
        &[bytes(1, b""), number(3, 80), bytes(4, &[number(1, 0), number(2, 0), bytes(3, b"")].concat())].concat(),
    );
    let service = decode(&enveloped("v1", "Service", &bytes(2, &port))).unwrap();
    assert_eq!(service["spec"]["ports"], json!([{"port": 80}]));
}

#[test]
fn every_kind_of_value_has_its_json_form_and_comes_back() {
    let objects = [
        json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": false,
            "metadata": {"name": "s", "creationTimestamp": "2024-02-29T23:59:59Z", "labels": {"a": "", "b": "c"},
                "managedFields": [{"manager": "m", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {".": {}}}}]},
            "data": {"empty": "", "text": "aGVsbG8="}}),
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
            "spec": {"leaseDurationSeconds": 40, "renewTime": "2024-01-02T03:04:05.000006Z"}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "w", "configMap": {"name": "c", "defaultMode": 0}}],
            "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "100m"}},
                "livenessProbe": {"httpGet": {"port": "web", "path": "/"}, "periodSeconds": 3},
                "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}],
            "securityContext": {"runAsUser": 0, "supplementalGroups": [1, -2]}, "priority": -5},
            "status": {}}),
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "c"},
            "spec": {"group": "g", "names": {"plural": "p", "kind": "K"}, "scope": "Namespaced", "versions": [
                {"name": "v1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object",
                    "properties": {"a": {"additionalProperties": true}, "b": {"additionalProperties": {"type": "string"}},
                        "c": {"items": {"type": "integer"}, "default": [1], "maximum": 2.5}, "d": {"items": [{"type": "null"}]}},
                    "x-kubernetes-preserve-unknown-fields": false}}}]},
            "status": {"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []}}),
        json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {}, "data": {"x": [null, 1.5]}, "revision": 0}),
        json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": 404, "reason": "NotFound",
            "details": {"name": "x", "causes": [{"reason": "r", "message": "m", "field": "f"}]}}),
        json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Orphan"}),
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": {"dryRun": ["All"]}}),
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "p"}}),
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {},
            "status": {"authenticated": true, "user": {"username": "u", "extra": {"k": ["a", "b"]}}}}),
    ];
    for mut object in objects {
        let back = decode(&encode(&object).unwrap_or_else(|| panic!("{object}"))).unwrap();
        // An empty list and no list are the same on the wire.
        drop_empty_lists(&mut object);
        assert_eq!(back, object);
    }
}

fn drop_empty_lists(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| *v != json!([]));
            map.values_mut().for_each(drop_empty_lists);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_empty_lists),
        _ => {}
    }
}

#[test]
fn lists_and_watch_events_hold_objects() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "resourceVersion": "7"}, "spec": {"containers": [{"name": "c"}]}});
    let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "9", "remainingItemCount": 3},
        "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]});
    assert_eq!(decode(&encode(&list).unwrap()).unwrap(), list);
    let frame = watch_frame("ADDED", &pod).unwrap();
    assert_eq!(frame.len() - 4, u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize);
    let event = decode(&enveloped("v1", "WatchEvent", &frame[4..])).unwrap();
    assert_eq!(event, json!({"apiVersion": "v1", "kind": "WatchEvent", "type": "ADDED", "object": pod}));
}

#[test]
fn an_object_encoded_once_goes_into_documents_lists_and_events() {
    for length in [0, 1, 127, 128, 16_383, 16_384, 3_000_000] {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "x".repeat(length)}});
        let fields = message(&object).unwrap();
        assert_eq!(document_of("v1", "ConfigMap", &fields), encode(&object).unwrap());
        assert_eq!(watch_frame_of("MODIFIED", "v1", "ConfigMap", &fields), watch_frame("MODIFIED", &object));
        let metadata = json!({"resourceVersion": "9", "continue": "c", "remainingItemCount": 3});
        let list =
            json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": metadata, "items": [object, object]});
        let mut parts = list_head("v1", "ConfigMapList", &metadata, 2 * item_length(fields.len())).unwrap();
        put_item(&mut parts, &fields);
        put_item(&mut parts, &fields);
        parts.extend_from_slice(DOCUMENT_END);
        assert_eq!(parts, encode(&list).unwrap());
    }
}

#[test]
fn all_lists_have_their_parts_under_the_same_numbers() {
    let mut lists = 0;
    for kind in registry().all() {
        let Some(index) = Table::get().of_kind(kind.group, kind.version, kind.list_kind) else { continue };
        let fields: Vec<_> = Table::get().message(index).fields.iter().map(|f| (f.number, f.name)).collect();
        assert_eq!(fields, [(1, "metadata"), (2, "items")], "{}", kind.list_kind);
        lists += 1;
    }
    assert!(lists > 50, "{lists}");
    assert!(is_encodable("apps", "v1", "Deployment") && !is_encodable("example.com", "v1", "Thing"));
}

#[test]
fn what_cannot_be_said_is_not_encoded() {
    assert_eq!(encode(&json!({"apiVersion": "example.com/v1", "kind": "Thing"})), None);
    assert_eq!(encode(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": 5}})), None);
    assert_eq!(encode(&json!({"apiVersion": "v1", "kind": "Secret", "data": {"k": "not base64!"}})), None);
    assert_eq!(
        encode(&json!({"apiVersion": "v1", "kind": "ReplicationController", "spec": {"replicas": 1u64 << 40}})),
        None
    );
    assert_eq!(encode(&json!([])), None);
}

#[test]
fn malformed_documents_are_refused_with_their_fault() {
    assert_eq!(decode(&enveloped("example.com/v1", "Thing", b"")).unwrap_err().code, 415);
    assert!(error(b"{}").1.ends_with("it does not begin with the magic number"));
    assert!(error(b"k8s\0\x0a\x05v1").1.ends_with("it ends too early"));
    assert!(error(&enveloped("v1", "Pod", &[0xff; 12])).1.ends_with("a number is too long"));
    assert!(error(&enveloped("v1", "Pod", &[0, 0])).1.ends_with("it has an illegal tag"));
    assert!(error(&enveloped("v1", "Pod", &number(1, 1))).1.ends_with("field \"metadata\" has the wrong wire type"));
    assert!(error(&enveloped("v1", "Pod", &bytes(1, &bytes(1, b"\xff")))).1.ends_with("a string is not UTF-8"));
    let time = bytes(8, &number(1, i64::MAX));
    assert!(error(&enveloped("v1", "Pod", &bytes(1, &time))).1.ends_with("a time is out of range"));
    let data = bytes(2, &bytes(1, b"{"));
    assert!(error(&enveloped("apps/v1", "ControllerRevision", &data)).1.ends_with("embedded JSON is malformed"));
    assert_eq!(error(&enveloped("v1", "Pod", b"\x08")).0, 400);
}

#[test]
fn depth_and_number_of_values_are_bounded() {
    // spec.versions.schema.openAPIV3Schema, and therein "not" again and again.
    let mut schema = Vec::new();
    for number in std::iter::repeat_n(28, 200).chain([1, 4, 7, 2]) {
        schema = bytes(number, &schema);
    }
    let crd = enveloped("apiextensions.k8s.io/v1", "CustomResourceDefinition", &schema);
    assert!(error(&crd).1.ends_with("it is nested too deeply"));
    let mut list = Vec::new();
    for _ in 0..200 {
        list = enveloped("v1", "List", &bytes(2, &bytes(1, &list)));
    }
    assert!(error(&list).1.ends_with("it is nested too deeply"));
    let finalizers = bytes(14, b"").repeat(VALUES + 1);
    assert!(error(&enveloped("v1", "Pod", &bytes(1, &finalizers))).1.ends_with("it has too many values"));
}

/// Every field a client can set must be there under the same name and type, or protobuf clients would lose it.
#[test]
fn every_field_of_the_schema_has_a_number() {
    let mut seen = BTreeSet::new();
    let mut missing = Vec::new();
    for kind in registry().all() {
        for name in [kind.kind, kind.list_kind] {
            let ty = schema::for_kind(kind.group, kind.version, name).unwrap();
            walk(ty, &mut seen, &mut missing);
        }
    }
    assert!(seen.len() > 200, "{}", seen.len());
    assert_eq!(missing, Vec::<String>::new());
}

fn walk(ty: TypeRef<'static>, seen: &mut BTreeSet<&'static str>, missing: &mut Vec<String>) {
    let Some(name) = ty.name().filter(|n| seen.insert(n)) else { return };
    let Some(message) = Table::get().find(name) else { return missing.push(name.to_owned()) };
    let fields = flat(message);
    let top =
        schema::kubernetes().kinds().any(|(g, v, k)| schema::for_kind(g, v, k).and_then(TypeRef::name) == Some(name));
    for field in ty.fields() {
        if top && matches!(field.name, "apiVersion" | "kind") {
            continue;
        }
        match fields.iter().find(|f| f.name == field.name) {
            Some(found) if agrees(found, field.ty) => {}
            _ => missing.push(format!("{name}.{}", field.name)),
        }
        let inner = match field.ty.shape() {
            Shape::List { item, .. } => item,
            Shape::Map { value, .. } => value,
            _ => field.ty,
        };
        walk(inner, seen, missing);
    }
}

fn flat(message: u16) -> Vec<Field> {
    let mut out = Vec::new();
    for field in &Table::get().message(message).fields {
        match (field.label, field.ty) {
            (Label::Inline, Type::Message(inner)) => out.extend(flat(inner)),
            _ => out.push(*field),
        }
    }
    out
}

fn agrees(field: &Field, ty: TypeRef<'static>) -> bool {
    let inner = match (field.label, ty.shape()) {
        (Label::List, Shape::List { item, .. }) => item,
        (Label::Map, Shape::Map { value, .. }) => value,
        (Label::One, _) => ty,
        _ => return false,
    };
    match (field.ty, inner.shape()) {
        (Type::String, Shape::Scalar(Scalar::String))
        | (Type::Bytes, Shape::Scalar(Scalar::Bytes))
        | (Type::Bool, Shape::Scalar(Scalar::Boolean))
        | (Type::Int32, Shape::Scalar(Scalar::Int32))
        | (Type::Int64, Shape::Scalar(Scalar::Int64))
        | (Type::Double, Shape::Scalar(Scalar::Number))
        | (Type::Time | Type::MicroTime, Shape::Scalar(Scalar::Time))
        | (Type::Quantity, Shape::Scalar(Scalar::Quantity))
        | (Type::IntOrString, Shape::Scalar(Scalar::IntOrString))
        | (Type::Json, Shape::Any | Shape::Struct { .. }) => true,
        (Type::Message(index), Shape::List { .. }) => Table::get().message(index).form == Form::List,
        (Type::Message(index), _) => inner.name().is_none_or(|name| Table::get().find(name) == Some(index)),
        _ => false,
    }
}

/// A value of the type that survives the way there and back.
fn value_of(ty: Type, depth: u32) -> BoxedStrategy<Value> {
    match ty {
        Type::String => "[a-zé]{1,8}".prop_map(Value::from).boxed(),
        Type::Bytes => Just(json!("aGk=")).boxed(),
        Type::Bool => Just(json!(true)).boxed(),
        Type::Int32 => prop_oneof![Just(i32::MIN), 1..i32::MAX].prop_map(Value::from).boxed(),
        Type::Int64 => prop_oneof![Just(i64::MIN), 1..i64::MAX].prop_map(Value::from).boxed(),
        Type::Double => Just(json!(-0.5)).boxed(),
        Type::Time => (-60_000_000_000i64..250_000_000_000)
            .prop_map(|s| crate::meta::format_time(jiff::Timestamp::new(s, 0).unwrap()).into())
            .boxed(),
        Type::MicroTime => (-60_000_000_000i64..250_000_000_000, 0i64..1_000_000)
            .prop_map(|(s, us)| {
                let time = jiff::Timestamp::new(s, 0).unwrap() + jiff::SignedDuration::from_micros(us);
                crate::meta::format_micro_time(time).into()
            })
            .boxed(),
        Type::Quantity => Just(json!("1500m")).boxed(),
        Type::IntOrString => prop_oneof![Just(json!("50%")), Just(json!(-7))].boxed(),
        Type::Json => Just(json!({"f:a": {".": {}}})).boxed(),
        Type::Message(index) => object_of(index, depth),
    }
}

fn object_of(index: u16, depth: u32) -> BoxedStrategy<Value> {
    let message = Table::get().message(index);
    match message.form {
        Form::List => return prop::collection::vec(value_of(Type::String, 0), 1..3).prop_map(Value::from).boxed(),
        Form::OrList | Form::OrBool => return value_of(message.fields[0].ty, 0),
        Form::Object => {}
    }
    let fields: Vec<_> = flat(index)
        .into_iter()
        .filter(|f| depth > 0 || !matches!(f.ty, Type::Message(_)))
        .map(|field| {
            let value = value_of(field.ty, depth.saturating_sub(1));
            let value = match field.label {
                Label::List => prop::collection::vec(value, 1..3).prop_map(Value::from).boxed(),
                Label::Map => prop::collection::btree_map("[a-z]{1,3}", value, 1..3)
                    .prop_map(|m| Value::Object(m.into_iter().collect()))
                    .boxed(),
                _ => value,
            };
            (Just(field.name), prop::option::of(value))
        })
        .collect();
    fields
        .prop_map(|fields| {
            fields.into_iter().filter_map(|(n, v)| Some((n.to_owned(), v?))).collect::<Map<_, _>>().into()
        })
        .boxed()
}

const SAMPLES: &[(&str, &str, &str)] =
    &[("", "v1", "Pod"), ("", "v1", "Service"), ("apps", "v1", "Deployment"), ("coordination.k8s.io", "v1", "Lease")];

fn sample() -> impl Strategy<Value = Value> {
    prop::sample::select(SAMPLES).prop_flat_map(|(group, version, kind)| {
        let index = Table::get().of_kind(group, version, kind).unwrap();
        object_of(index, 3).prop_map(move |mut object| {
            object["apiVersion"] = crate::kinds::join_api_version(group, version).into();
            object["kind"] = kind.into();
            object
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_encoded_is_decoded_to_the_same(object in sample()) {
        let bytes = encode(&object).unwrap();
        prop_assert_eq!(decode(&bytes).unwrap(), object);
    }

    #[test]
    fn damaged_documents_never_panic(object in sample(), cut in any::<prop::sample::Index>(), bits in 1u8..) {
        let mut bytes = encode(&object).unwrap();
        let at = cut.index(bytes.len());
        let _ = decode(&bytes[..at]);
        bytes[at] ^= bits;
        let _ = decode(&bytes);
    }

    #[test]
    fn bytes_of_any_kind_never_panic(raw in prop::collection::vec(any::<u8>(), 0..200), sample in prop::sample::select(SAMPLES)) {
        let _ = decode(&raw);
        let _ = decode(&[MAGIC, &raw].concat());
        let _ = decode(&enveloped(&crate::kinds::join_api_version(sample.0, sample.1), sample.2, &raw));
    }
}

#[test]
fn every_message_of_the_table_is_reached_by_position_and_number() {
    let table = Table::get();
    for (name, index) in table.names() {
        for field in &table.message(index).fields {
            assert_eq!(table.message(index).field(field.number).map(|f| f.name), Some(field.name), "{name}");
        }
        assert!(table.message(index).field(0).is_none());
        assert!(table.message(index).field(u32::MAX).is_none());
    }
}
