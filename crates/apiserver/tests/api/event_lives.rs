//! Events, in both versions that they are served in.

use crate::common::*;
use serde_json::{Value, json};

/// A version of the events: where they are, one of a name and label, the field of their text, and whether it may change.
/// In the newer version only the series, the metadata and few more are not immutable.
struct Version {
    group: &'static str,
    text: &'static str,
    may_change: bool,
    of: fn(&str, &str) -> Value,
}

const VERSIONS: [Version; 2] = [
    Version {
        group: "/api/v1",
        text: "message",
        may_change: true,
        of: |name, label| {
            json!({
                "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "labels": {label: "true"}},
                "message": format!("This is {name}"), "reason": "Test", "type": "Normal", "count": 1,
                "involvedObject": {"namespace": "default"},
            })
        },
    },
    Version {
        group: "/apis/events.k8s.io/v1",
        text: "note",
        may_change: false,
        of: |name, label| {
            json!({
                "apiVersion": "events.k8s.io/v1", "kind": "Event",
                "metadata": {"name": name, "labels": {label: "true"}}, "regarding": {"namespace": "default"},
                "eventTime": "2017-09-19T13:49:16.000000Z", "note": format!("This is {name}"), "action": "Do",
                "reason": "Test", "type": "Normal", "reportingController": "test-controller",
                "reportingInstance": "test-node",
            })
        },
    },
];

impl Version {
    fn here(&self) -> String {
        format!("{}/namespaces/default/events", self.group)
    }
}

async fn names(admin: &Client, path: &str) -> Vec<String> {
    let list = admin.get(path).await;
    assert_eq!(list.code, 200, "{}", list.body);
    let items = list.body["items"].as_array().unwrap();
    items.iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// Without what the server changes on each write.
fn content(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.remove("resourceVersion");
    metadata.remove("managedFields");
    object
}

// conformance: [sig-instrumentation] Events should manage the lifecycle of an event
// conformance: [sig-instrumentation] Events API should ensure that an event can be fetched, patched, deleted, and listed
#[tokio::test]
async fn an_event_is_made_listed_patched_updated_and_deleted() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for version in &VERSIONS {
        let made = admin.create(&version.here(), &(version.of)("event-test", "constant")).await;
        let everywhere = format!("{}/events?labelSelector=constant%3Dtrue", version.group);
        let here = format!("{}?labelSelector=constant%3Dtrue", version.here());
        for path in [&everywhere, &here] {
            assert_eq!(names(&admin, path).await, ["event-test"]);
        }
        let one = format!("{}/event-test", version.here());
        assert_eq!(admin.get(&one).await.body, made);
        let mut change = json!({"series": {"count": 2, "lastObservedTime": "2017-09-19T13:49:11.000000Z"}});
        let mut want = content(made.clone());
        let text = json!({version.text: "another text"});
        if version.may_change {
            change[version.text] = text[version.text].clone();
            want[version.text] = text[version.text].clone();
        } else {
            let refused = admin.patch(&one, "strategic", &text).await;
            let cause = &refused.body["details"]["causes"][0];
            assert_eq!((refused.code, cause["field"].as_str()), (422, Some(version.text)), "{}", refused.body);
        }
        let patched = admin.patch(&one, "strategic", &change).await;
        assert_eq!(patched.code, 200, "{}", patched.body);
        want["series"] = change["series"].clone();
        let read = admin.get(&one).await.body;
        let revision = |o: &Value| o["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
        assert!(revision(&read) > revision(&made));
        assert_eq!(content(read), want);
        // An update without a revision is for whatever is there.
        want["series"] = json!({"count": 100, "lastObservedTime": "2017-09-19T13:49:16.000000Z"});
        let updated = admin.put(&one, &want).await;
        assert_eq!(updated.code, 200, "{}", updated.body);
        assert_eq!(content(admin.get(&one).await.body), want);
        assert_eq!(admin.delete(&one).await.code, 200);
        for path in [&everywhere, &here] {
            assert!(names(&admin, path).await.is_empty());
        }
    }
}

// conformance: [sig-instrumentation] Events should delete a collection of events
// conformance: [sig-instrumentation] Events API should delete a collection of events
#[tokio::test]
async fn events_are_deleted_by_their_labels() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for version in &VERSIONS {
        let set = format!("{}?labelSelector=set%3Dtrue", version.here());
        for name in ["one", "two", "three"] {
            admin.create(&version.here(), &(version.of)(name, "set")).await;
        }
        admin.create(&version.here(), &(version.of)("other", "alone")).await;
        assert_eq!(names(&admin, &set).await.len(), 3);
        assert_eq!(admin.delete(&set).await.code, 200);
        assert!(names(&admin, &set).await.is_empty());
        assert_eq!(names(&admin, &version.here()).await, ["other"]);
        assert_eq!(admin.delete(&format!("{}/other", version.here())).await.code, 200);
    }
}

#[tokio::test]
async fn events_are_picked_by_who_reports_them() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let [core, events] = &VERSIONS;
    admin.create(&events.here(), &(events.of)("reported", "x")).await;
    admin.create(&core.here(), &(core.of)("other", "x")).await;
    assert_eq!(names(&admin, &format!("{}?fieldSelector=source%3Dtest-controller", core.here())).await, ["reported"]);
    let by = format!("{}?fieldSelector=reportingController%3Dtest-controller", events.here());
    assert_eq!(names(&admin, &by).await, ["reported"]);
}
