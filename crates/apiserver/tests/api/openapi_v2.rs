//! `/openapi/v2`: the models of everything served, for clients that know no OpenAPI v3.

use crate::common::*;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The fields of a protobuf message: numbers, and the bytes of those that have a length.
fn fields(mut message: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(from: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = from[0];
            *from = &from[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }
    let mut out = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        match key & 7 {
            0 => drop(varint(&mut message)),
            1 => message = &message[8..],
            2 => {
                let length = usize::try_from(varint(&mut message)).unwrap();
                out.push((key >> 3, &message[..length]));
                message = &message[length..];
            }
            other => panic!("wire type {other}"),
        }
    }
    out
}

/// Names of the entries below a field of the document, of all its parts.
fn names(document: &[u8], field: u64, entry: u64) -> Vec<String> {
    let maps = fields(document).into_iter().filter(|(n, _)| *n == field);
    let entries = maps.flat_map(|(_, map)| fields(map)).filter(|(n, _)| *n == entry);
    entries.map(|(_, e)| String::from_utf8(fields(e).first().unwrap().1.to_vec()).unwrap()).collect()
}

async fn bytes(client: &Client) -> (http::HeaderMap, Vec<u8>) {
    let (parts, body) = client.raw("GET", "/openapi/v2", "", "").await.into_parts();
    (parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

fn definition(kind: &str) -> Value {
    let plural = format!("{}s", kind.to_lowercase());
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.example.com")}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "description": "What is wanted.",
                    "properties": {"size": {"type": "integer", "nullable": true}}}}}}}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn built_in_and_custom_kinds_have_models_in_both_forms() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let first = admin.get("/openapi/v2").await;
    assert_eq!((first.code, first.body["swagger"].as_str()), (200, Some("2.0")));
    assert_eq!(first.headers["content-type"], "application/json");
    let pod = &first.body["definitions"]["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod["x-kubernetes-group-version-kind"], json!([{"group": "", "version": "v1", "kind": "Pod"}]));
    // Known: nothing is sent.
    let etag = first.headers["etag"].to_str().unwrap();
    let known = admin.header("if-none-match", etag).get("/openapi/v2").await;
    assert_eq!((known.code, &known.body, known.headers["etag"].to_str().unwrap()), (304, &json!(""), etag));
    admin.create(CRDS, &definition("Widget")).await;
    let second = loop {
        let second = admin.header("if-none-match", etag).get("/openapi/v2").await;
        if second.code == 200 {
            break second;
        }
        tokio::task::yield_now().await;
    };
    let widget = &second.body["definitions"]["com.example.v1.Widget"];
    assert_eq!(widget["properties"]["spec"]["description"], "What is wanted.");
    assert_eq!(widget["properties"]["spec"]["properties"]["size"], json!({}), "null is allowed");
    assert_eq!(
        widget["properties"]["metadata"]["$ref"],
        "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    assert!(second.body["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets"]["post"].is_object());
    let (headers, wire) = bytes(&admin.header("accept", PROTOBUF)).await;
    assert_eq!(headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    let sorted = |mut list: Vec<String>| {
        list.sort();
        list
    };
    let keys = |key: &str| sorted(second.body[key].as_object().unwrap().keys().cloned().collect());
    assert_eq!(sorted(names(&wire, 9, 1)), keys("definitions"));
    assert_eq!(sorted(names(&wire, 8, 2)), keys("paths"));
    let (headers, zipped) = bytes(&admin.header("accept-encoding", "gzip")).await;
    assert_eq!(headers["content-encoding"], "gzip");
    assert!(zipped.len() < 1 << 20 && zipped.starts_with(&[0x1f, 0x8b]), "{}", zipped.len());
    assert_eq!(admin.header("accept", "text/csv").get("/openapi/v2").await.code, 406);
}
