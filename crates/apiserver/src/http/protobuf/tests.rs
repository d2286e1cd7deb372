use proptest::prelude::*;
use serde_json::json;

use super::*;

fn bytes(field: u32, content: &[u8]) -> Vec<u8> {
    let mut out = vec![(field << 3 | 2) as u8];
    let mut len = content.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(content);
    out
}

fn number(field: u32, value: u8) -> Vec<u8> {
    vec![(field << 3) as u8, value]
}

fn document(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw)].concat()
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
fn maps_lists_inline_messages_and_explicit_zeros() {
    let label = bytes(11, &[bytes(1, b"app"), bytes(2, b"web")].concat());
    let empty = bytes(12, &bytes(1, b"note"));
    let metadata = bytes(1, &[bytes(1, b"p"), label, empty].concat());
    // Volume{name, ^VolumeSource{emptyDir = 2}}
    let volume = bytes(1, &[bytes(1, b"v"), bytes(2, &bytes(2, &[]))].concat());
    // Container{name, image, resources{requests{cpu: Quantity}}, livenessProbe{^handler{httpGet{port}}}}
    let quantity = bytes(2, &[bytes(1, b"cpu"), bytes(2, &bytes(1, b"100m"))].concat());
    let port = bytes(2, &[number(1, 0), number(2, 80), bytes(3, b"")].concat());
    let probe = bytes(10, &bytes(1, &bytes(2, &port)));
    let container = bytes(2, &[bytes(1, b"c"), bytes(2, b"img"), bytes(8, &quantity), probe].concat());
    // terminationGracePeriodSeconds is a pointer: its zero counts. hostNetwork is not.
    let spec = bytes(2, &[volume, container, number(4, 0), number(11, 0)].concat());
    let pod = decode(&document("v1", "Pod", &[metadata, spec].concat())).unwrap();
    let want = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "labels": {"app": "web"}, "annotations": {"note": ""}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{
                "name": "c",
                "image": "img",
                "resources": {"requests": {"cpu": "100m"}},
                "livenessProbe": {"httpGet": {"port": 80}},
            }],
        },
    });
    assert_eq!(pod, want);
}

#[test]
fn unknown_kinds_ask_for_json_and_broken_bytes_are_refused() {
    assert_eq!(decode(&document("example.com/v1", "Thing", b"")).unwrap_err().code, 415);
    assert_eq!(decode(b"{}").unwrap_err().code, 400);
    assert_eq!(decode(&document("v1", "Pod", &[0x0a, 0x7f])).unwrap_err().code, 400);
    // A JSONSchema-like bomb: messages in messages cannot go deeper than types do, but FieldsV1 holds any JSON.
    let fields = bytes(1, "[".repeat(100_000).as_bytes());
    let managed = bytes(17, &bytes(7, &fields));
    assert_eq!(decode(&document("v1", "Pod", &bytes(1, &managed))).unwrap_err().code, 400);
}

#[test]
fn every_number_names_a_field_of_its_type() {
    let names: std::collections::HashMap<&str, TypeRef<'static>> = api::schema::kubernetes()
        .kinds()
        .filter_map(|(g, v, k)| api::schema::for_kind(g, v, k))
        .filter_map(|ty| Some((ty.name()?, ty)))
        .collect();
    let mut checked = 0;
    for (name, message) in messages() {
        let Some(ty) = names.get(name) else { continue };
        for field in message.values() {
            match field {
                Field::Named { name: field, .. } => assert!(ty.field(field).is_some(), "{name}.{field}"),
                Field::Inline(inline) => assert!(messages().contains_key(inline), "{name} ^{inline}"),
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked}");
}

#[test]
fn every_served_kind_can_be_read() {
    for kind in api::kinds::registry().all() {
        let bytes = document(&kind.api_version(), kind.kind, &bytes(1, &bytes(1, b"x")));
        let value = decode(&bytes).unwrap_or_else(|e| panic!("{}: {e}", kind.kind));
        assert_eq!(value["metadata"]["name"], "x", "{}", kind.kind);
    }
    for (group, kind) in
        [("authentication.k8s.io/v1", "TokenRequest"), ("policy/v1", "Eviction"), ("autoscaling/v1", "Scale")]
    {
        assert!(decode(&document(group, kind, b"")).is_ok(), "{kind}");
    }
    assert!(decode(&document("apps/v1", "DeleteOptions", &number(1, 5))).is_ok_and(|v| v["gracePeriodSeconds"] == 5));
}

proptest! {
    #[test]
    fn no_bytes_bring_the_decoder_down(raw in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..4usize) {
        let kind = ["Pod", "Service", "Node", "Secret"][kind];
        let _ = decode(&document("v1", kind, &raw));
        let _ = decode(&raw);
    }
}
