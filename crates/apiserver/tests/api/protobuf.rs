//! Answers in protobuf: documents, lists of any length, watches; and which clients get them.

use std::time::Duration;

use crate::common::*;
use api::protobuf::{MEDIA, WATCH_MEDIA, decode};
use apiserver::Body;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

async fn bytes(client: &Client, path: &str) -> (String, Bytes) {
    let (parts, body) = client.raw("GET", path, "", "").await.into_parts();
    assert_eq!(parts.status, 200, "{path}");
    let kind = parts.headers["content-type"].to_str().unwrap().to_owned();
    (kind, body.collect().await.unwrap().to_bytes())
}

/// An open watch in protobuf.
struct Frames {
    body: Body,
    buffer: Vec<u8>,
}

impl Frames {
    async fn open(client: &Client, path: &str) -> Self {
        let reply = client.raw("GET", path, "", "").await;
        assert_eq!((reply.status().as_u16(), &reply.headers()["content-type"]), (200, &WATCH_MEDIA.parse().unwrap()));
        Frames { body: reply.into_body(), buffer: Vec::new() }
    }

    /// Type and object of the next event.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((head, rest)) = self.buffer.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*head) as usize;
                if rest.len() >= length {
                    let event: Vec<u8> = self.buffer.drain(..4 + length).skip(4).collect();
                    return Some(event_of(&event));
                }
            }
            let frame = tokio::time::timeout(Duration::from_secs(60), self.body.frame()).await;
            match frame.expect("the watch says something in time") {
                Some(frame) => self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap()),
                None => return None,
            }
        }
    }
}

/// Reads `meta.v1.WatchEvent` by hand: the decoder reads documents only.
fn event_of(event: &[u8]) -> (String, Value) {
    fn field(bytes: &[u8]) -> (u8, &[u8], &[u8]) {
        let (mut length, mut at, mut shift) = (0usize, 1, 0);
        loop {
            length |= usize::from(bytes[at] & 0x7f) << shift;
            (at, shift) = (at + 1, shift + 7);
            if bytes[at - 1] < 0x80 {
                break;
            }
        }
        (bytes[0], &bytes[at..at + length], &bytes[at + length..])
    }
    let (tag, word, rest) = field(event);
    assert_eq!(tag, 0x0a);
    let (tag, extension, rest) = field(rest);
    assert!(tag == 0x12 && rest.is_empty());
    let (tag, document, rest) = field(extension);
    assert!(tag == 0x0a && rest.is_empty());
    (String::from_utf8(word.to_vec()).unwrap(), decode(document).unwrap())
}

fn brief(event: &(String, Value)) -> (&str, &str) {
    (&event.0, event.1["metadata"]["name"].as_str().unwrap_or(""))
}

#[tokio::test]
async fn documents_and_lists_of_any_length_say_the_same_as_json() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let go = admin.header("accept", MEDIA);
    for i in 0..12 {
        let mut object = labelled(&format!("m{i:02}"), "parity", if i % 2 == 0 { "even" } else { "odd" });
        object["data"]["k"] = "x".repeat(60_000).into();
        admin.create(CONFIG_MAPS, &object).await;
    }
    let paths = [
        format!("{CONFIG_MAPS}/m03"),
        CONFIG_MAPS.to_owned(),
        format!("{CONFIG_MAPS}?limit=2&labelSelector=parity%3Dodd"),
        format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dnothing"),
        "/api/v1/namespaces".into(),
        "/api/v1/services".into(),
    ];
    for path in paths {
        let want = admin.get(&path).await.body;
        let (kind, document) = bytes(&go, &path).await;
        assert_eq!(kind, MEDIA, "{path}");
        let mut got = decode(&document).unwrap();
        let mut items = want["items"].as_array().cloned().unwrap_or_default();
        for item in &mut items {
            // In a list of one kind protobuf says it once.
            let item = item.as_object_mut().unwrap();
            item.remove("kind");
            item.remove("apiVersion");
        }
        let mut want = want;
        if want.get("items").is_some() {
            want["items"] = items.into();
            if got.get("items").is_none() {
                got["items"] = json!([]);
            }
        }
        assert_eq!(got, want, "{path}");
    }
    // A large one is made as it is sent.
    let reply = go.raw("GET", CONFIG_MAPS, "", "").await;
    assert!(matches!(reply.body(), Body::Stream(_)));
}

#[tokio::test]
async fn a_watch_shows_additions_changes_and_removals_in_frames() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let go =
        admin.header("accept", "application/vnd.kubernetes.protobuf;stream=watch,application/json;stream=watch;q=0.5");
    admin.create(CONFIG_MAPS, &labelled("a", "k", "1")).await;
    let path = format!(
        "{CONFIG_MAPS}?watch=1&labelSelector=k%3D1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    let mut all = Frames::open(&go, &path).await;
    let mut second = Frames::open(&go, &path).await;
    admin.create(CONFIG_MAPS, &labelled("b", "k", "1")).await;
    admin.patch(&format!("{CONFIG_MAPS}/b"), "merge", &json!({"data": {"k": "w"}})).await;
    admin.patch(&format!("{CONFIG_MAPS}/b"), "merge", &json!({"metadata": {"labels": {"k": "2"}}})).await;
    admin.delete(&format!("{CONFIG_MAPS}/a")).await;
    for watch in [&mut all, &mut second] {
        assert_eq!(brief(&watch.next().await.unwrap()), ("ADDED", "a"));
        let (word, bookmark) = watch.next().await.unwrap();
        assert_eq!((word.as_str(), bookmark["kind"].as_str()), ("BOOKMARK", Some("ConfigMap")));
        assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
        assert_eq!(brief(&watch.next().await.unwrap()), ("ADDED", "b"));
        let changed = watch.next().await.unwrap();
        assert_eq!((brief(&changed), &changed.1["data"]["k"]), (("MODIFIED", "b"), &json!("w")));
        assert_eq!(brief(&watch.next().await.unwrap()), ("DELETED", "b"));
        assert_eq!(brief(&watch.next().await.unwrap()), ("DELETED", "a"));
    }
    let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
    let mut partial = Frames::open(&admin.header("accept", partial), &format!("{CONFIG_MAPS}?watch=1")).await;
    let (word, object) = partial.next().await.unwrap();
    assert_eq!((word.as_str(), object["kind"].as_str()), ("ADDED", Some("PartialObjectMetadata")));
    assert!(object["metadata"]["name"].is_string());
}

#[tokio::test]
async fn a_watch_from_too_long_ago_ends_with_a_status_in_a_frame() {
    let cluster = Cluster::with(|limits| limits.ring_events = 2).await;
    let admin = cluster.admin();
    let first = admin.create(CONFIG_MAPS, &config_map("a")).await;
    for name in ["b", "c", "d"] {
        admin.create(CONFIG_MAPS, &config_map(name)).await;
    }
    let from = first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}");
    let mut watch = Frames::open(&admin.header("accept", MEDIA), &path).await;
    let (word, status) = watch.next().await.unwrap();
    assert_eq!((word.as_str(), &status["code"], &status["reason"]), ("ERROR", &json!(410), &json!("Expired")));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn converted_kinds_come_in_the_version_asked_for() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2024-01-01T00:00:00.000000Z", "reason": "R", "action": "A", "reportingController": "a/b",
        "reportingInstance": "i", "type": "Normal", "regarding": {"kind": "Pod", "name": "x", "namespace": "default"}});
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    admin.create(path, &event).await;
    let go = admin.header("accept", MEDIA);
    let list = decode(&bytes(&go, path).await.1).unwrap();
    assert_eq!((&list["kind"], &list["items"][0]["regarding"]["name"]), (&json!("EventList"), &json!("x")));
    let core = decode(&bytes(&go, "/api/v1/namespaces/default/events").await.1).unwrap();
    assert_eq!(core["items"][0]["involvedObject"]["name"], "x");
    let mut watch = Frames::open(&go, &format!("{path}?watch=1")).await;
    assert_eq!(watch.next().await.unwrap().1["regarding"]["name"], "x");
}

#[tokio::test]
async fn who_takes_nothing_that_is_served_is_told_what_is() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let wants = |accept: &str| admin.header("accept", accept);
    let refused = wants("application/cbor").get(CONFIG_MAPS).await;
    let message = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    assert_eq!(
        (refused.code, &refused.body["reason"], &refused.body["message"]),
        (406, &json!("NotAcceptable"), &json!(message))
    );
    let refused = wants("text/html").get(&format!("{CONFIG_MAPS}?watch=1")).await;
    let message = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    assert_eq!((refused.code, &refused.body["message"]), (406, &json!(message)));
    let both = wants("application/vnd.kubernetes.protobuf;q=0.3, application/json;q=0.4");
    assert_eq!(both.get(CONFIG_MAPS).await.headers["content-type"], "application/json");
    // Custom kinds have no messages.
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    admin.create(CRDS, &definition).await;
    let things = "/apis/example.com/v1/namespaces/default/things";
    assert_eq!(wants(MEDIA).get(things).await.code, 406);
    let kubectl = wants("application/vnd.kubernetes.protobuf,application/json").get(things).await;
    assert_eq!((kubectl.code, &kubectl.headers["content-type"]), (200, &"application/json".parse().unwrap()));
    let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    assert_eq!(wants(partial).get(things).await.headers["content-type"], MEDIA);
}
