//! API Priority and Fairness: how requests are classified, what becomes of those that are too many, and the default objects.

use std::time::Duration;

use crate::common::*;
use apiserver::UserInfo;
use serde_json::{Value, json};

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
const SCHEMA_UID: &str = "x-kubernetes-pf-flowschema-uid";
const LEVEL_UID: &str = "x-kubernetes-pf-prioritylevel-uid";

fn level(name: &str, limited: Value) -> Value {
    json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": name}, "spec": {"type": "Limited", "limited": limited}})
}

fn schema(name: &str, level: &str, user: &str) -> Value {
    let everything =
        json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]);
    json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
        "spec": {"matchingPrecedence": 1000, "priorityLevelConfiguration": {"name": level},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": user}}], "resourceRules": everything}]}})
}

/// Watches until an object is as `wanted` says.
async fn until(admin: &Client, all: &str, name: &str, wanted: impl Fn(&str, &Value) -> bool) -> Value {
    let mut watch = admin.watch(&format!("{all}?watch=1&fieldSelector=metadata.name%3D{name}")).await;
    loop {
        let mut event = watch.next().await.expect("the watch goes on");
        let object = event["object"].take();
        if wanted(event["type"].as_str().unwrap(), &object) {
            return object;
        }
    }
}

fn dangling<'a>(object: &'a Value, status: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c: &'a Value| c["type"] == "Dangling" && c["status"] == status))
}

#[tokio::test]
async fn requests_are_classified_and_say_by_what() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let made = admin.post(SCHEMAS, &schema("testing", "testing", "noxu")).await;
    assert_eq!((made.code, made.headers.get("warning")), (201, None));
    until(&admin, SCHEMAS, "testing", |_, o| dangling(o, "True")).await;
    let limited = json!({"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}});
    let level = admin.create(LEVELS, &level("testing", limited)).await;
    let schema = until(&admin, SCHEMAS, "testing", |_, o| dangling(o, "False")).await;

    let uids = |answer: &Answer| [SCHEMA_UID, LEVEL_UID].map(|h| answer.headers[h].to_str().unwrap().to_owned());
    let uid = |object: &Value| object["metadata"]["uid"].as_str().unwrap().to_owned();
    let noxu = cluster.user(UserInfo::new("noxu", &[])).get("/api/v1/namespaces").await;
    assert_eq!(noxu.code, 403, "what is refused was classified as well");
    assert_eq!(uids(&noxu), [uid(&schema), uid(&level)]);
    let of = async |path: &str, name: &str| uid(&admin.get(&format!("{path}/{name}")).await.body);
    let impersonated = admin.header("impersonate-user", "noxu").get(CONFIG_MAPS).await;
    assert_eq!(uids(&impersonated), [uid(&schema), uid(&level)]);
    let other = cluster.user(UserInfo::new("foo", &[])).get("/api/v1/namespaces").await;
    assert_eq!(uids(&other), [of(SCHEMAS, "global-default").await, of(LEVELS, "global-default").await]);
    let mine = admin.get("/apis").await;
    assert_eq!(uids(&mine), [of(SCHEMAS, "exempt").await, of(LEVELS, "exempt").await]);
    let watching = admin.raw("GET", &format!("{CONFIG_MAPS}?watch=1"), "", "").await;
    assert!(watching.headers().contains_key(SCHEMA_UID), "a watch counts until it has begun");
}

#[tokio::test]
async fn default_objects_come_back_and_go_back() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    assert_eq!(admin.get(SCHEMAS).await.body["items"].as_array().unwrap().len(), 11);
    assert_eq!(admin.get(LEVELS).await.body["items"].as_array().unwrap().len(), 8);
    let first = admin.get(&format!("{SCHEMAS}/catch-all")).await.body;
    assert!(dangling(&first, "False"));
    for (all, name) in [(SCHEMAS, "catch-all"), (LEVELS, "exempt"), (LEVELS, "workload-high")] {
        let old = admin.get(&format!("{all}/{name}")).await.body;
        assert_eq!(admin.delete(&format!("{all}/{name}")).await.code, 200);
        let new = until(&admin, all, name, |word, _| word == "ADDED").await;
        assert_ne!(new["metadata"]["uid"], old["metadata"]["uid"]);
        assert_eq!(new["spec"], old["spec"]);
    }
    let more = json!({"spec": {"limited": {"nominalConcurrencyShares": 77}}});
    let path = format!("{LEVELS}/system");
    let changed = admin.patch(&path, "merge", &more).await;
    assert_eq!((changed.code, &changed.body["metadata"]["generation"]), (200, &json!(2)));
    let shares = |n: i64| move |_: &str, o: &Value| o["spec"]["limited"]["nominalConcurrencyShares"] == n;
    until(&admin, LEVELS, "system", shares(30)).await;
    // Who says so keeps what he changed. Both in one write: between two the object could be set right.
    let mut own = more.clone();
    own["metadata"] = json!({"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}});
    assert_eq!(admin.patch(&path, "merge", &own).await.code, 200);
    admin.delete(&format!("{LEVELS}/node-high")).await;
    until(&admin, LEVELS, "node-high", |word, _| word == "ADDED").await;
    assert!(shares(77)("", &admin.get(&path).await.body));
    // After a restart nothing is written anew.
    let again = cluster.again().await;
    assert!(shares(77)("", &again.admin().get(&path).await.body));
}

#[tokio::test]
async fn a_level_without_seats_keeps_its_requests_out_and_nobody_elses() {
    let cluster = Cluster::with(|limits| limits.request_timeout = Duration::from_secs(3600)).await;
    let admin = cluster.admin();
    for (name, response) in [
        ("jailed", json!({"type": "Reject"})),
        ("waiting", json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 2}})),
    ] {
        let limited = json!({"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": response});
        admin.create(LEVELS, &level(name, limited)).await;
        admin.create(SCHEMAS, &schema(name, name, name)).await;
        until(&admin, SCHEMAS, name, |_, o| dangling(o, "False")).await;
    }
    let user = |name: &str| cluster.user(UserInfo::new(name, &["system:masters-of-nothing"]));
    let refused = user("jailed").get(CONFIG_MAPS).await;
    assert_eq!((refused.code, &refused.body["reason"]), (429, &json!("TooManyRequests")));
    assert_eq!(refused.headers["retry-after"], "1");
    assert!(refused.headers.contains_key(LEVEL_UID));
    assert_eq!(user("jailed").get(&format!("{CONFIG_MAPS}?watch=1")).await.code, 429);
    // Two wait, the third is turned away.
    let waiting = user("waiting");
    let mut two = [Box::pin(waiting.get(CONFIG_MAPS)), Box::pin(waiting.get(CONFIG_MAPS))];
    for one in &mut two {
        assert!(futures::poll!(one.as_mut()).is_pending());
    }
    assert_eq!(waiting.get(CONFIG_MAPS).await.code, 429);
    let [first, second] = two;
    drop(first);
    let mut third = Box::pin(waiting.get(CONFIG_MAPS));
    assert!(futures::poll!(third.as_mut()).is_pending(), "who left made room");
    assert_eq!(user("somebody").get(CONFIG_MAPS).await.code, 403, "others go on");
    assert_eq!(admin.get(CONFIG_MAPS).await.code, 200);
    let some = json!({"spec": {"limited": {"nominalConcurrencyShares": 1000}}});
    assert_eq!(admin.patch(&format!("{LEVELS}/waiting"), "merge", &some).await.code, 200);
    assert_eq!((second.await.code, third.await.code), (403, 403), "seats let them in");
}

#[tokio::test]
async fn the_levels_are_shown_to_those_who_may_see_them() {
    let cluster = Cluster::start().await;
    let dump = "/debug/api_priority_and_fairness/dump_priority_levels";
    let ann = cluster.user(UserInfo::new("ann", &[]));
    assert_eq!(ann.get(dump).await.code, 403);
    let shown = cluster.admin().get(dump).await;
    let text = shown.body.as_str().unwrap();
    let mut rows = text.lines().map(|line| line.split(',').map(str::trim).collect::<Vec<_>>());
    let columns = rows.next().unwrap();
    assert_eq!((shown.code, columns[0], columns.len()), (200, "PriorityLevelName", 10));
    let row = rows.find(|row| row[0] == "global-default").unwrap();
    let of = |name: &str| row[columns.iter().position(|c| *c == name).unwrap()];
    // The request of a moment ago, which was let run to be refused.
    assert_eq!((of("DispatchedRequests"), of("ExecutingRequests"), of("IsIdle")), ("1", "0", "true"), "{text}");
}

/// A page of the debug tables: its columns, and its rows.
async fn table(admin: &Client, page: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let answer = admin.get(&format!("/debug/api_priority_and_fairness/{page}")).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    let text = answer.body.as_str().unwrap().to_owned();
    let mut rows = text.lines().map(|line| line.split(',').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    (rows.next().unwrap(), rows.collect())
}

#[tokio::test]
async fn queues_and_the_requests_in_them_are_shown() {
    let cluster = Cluster::with(|limits| limits.request_timeout = Duration::from_secs(3600)).await;
    let admin = cluster.admin();
    let response = json!({"type": "Queue", "queuing": {"queues": 2, "handSize": 1, "queueLengthLimit": 5}});
    let limited = json!({"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": response});
    admin.create(LEVELS, &level("waiting", limited)).await;
    admin.create(SCHEMAS, &schema("those", "waiting", "waiting")).await;
    until(&admin, SCHEMAS, "those", |_, o| dangling(o, "False")).await;
    let user = cluster.user(UserInfo::new("waiting", &[]));
    let path = format!("{CONFIG_MAPS}/a");
    let mut two = [Box::pin(user.get(&path)), Box::pin(user.get(&path))];
    for one in &mut two {
        assert!(futures::poll!(one.as_mut()).is_pending());
    }
    let (columns, rows) = table(&admin, "dump_requests?includeRequestDetails=1").await;
    let rows: Vec<_> = rows.iter().filter(|row| row[0] == "waiting").collect();
    let of = |row: usize, name: &str| rows[row][columns.iter().position(|c| c == name).unwrap()].as_str();
    assert_eq!((columns.len(), rows.len()), (18, 2), "{rows:?}");
    for (name, want) in [
        ("FlowSchemaName", "those"),
        ("FlowDistingsher", "waiting"),
        ("RequestIndexInQueue", "1"),
        ("InitialSeats", "1"),
        ("FinalSeats", "0"),
        ("AdditionalLatency", "0s"),
        ("StartTime", "0001-01-01T00:00:00Z"),
        ("UserName", "waiting"),
        ("Verb", "get"),
        ("APIPath", path.as_str()),
        ("Namespace", "default"),
        ("Name", "a"),
        ("APIVersion", "v1"),
        ("Resource", "configmaps"),
        ("SubResource", ""),
    ] {
        assert_eq!(of(1, name), want, "{name}");
    }
    let queue = of(1, "QueueIndex").to_owned();
    let (columns, rows) = table(&admin, "dump_queues").await;
    let rows: Vec<_> = rows.iter().filter(|row| row[0] == "waiting").collect();
    let column = |name: &str| columns.iter().position(|c| c == name).unwrap();
    assert_eq!((columns.len(), rows.len()), (9, 2));
    let mine = rows.iter().find(|row| row[column("Index")] == queue).unwrap();
    let shown: Vec<&str> = ["PendingRequests", "ExecutingRequests", "SeatsInUse", "InitialSeatsSum"]
        .map(|n| mine[column(n)].as_str())
        .into();
    assert_eq!(shown, ["2", "0", "0", "2"]);
    let [one, other] = two;
    drop((one, other));
    let (columns, rows) = table(&admin, "dump_requests").await;
    assert_eq!((columns.len(), rows.iter().filter(|row| row[0] == "waiting").count()), (10, 0));
    assert_eq!(admin.get("/debug/api_priority_and_fairness/dump_nothing").await.code, 404);
    let ann = cluster.user(UserInfo::new("ann", &[]));
    assert_eq!(ann.get("/debug/api_priority_and_fairness/dump_requests").await.code, 403);
}

#[tokio::test]
async fn a_write_that_many_watch_takes_more_seats() {
    let cluster = Cluster::with(|limits| limits.request_timeout = Duration::from_secs(3600)).await;
    let admin = cluster.admin();
    let response = json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 5}});
    let limited = json!({"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": response});
    admin.create(LEVELS, &level("waiting", limited)).await;
    admin.create(SCHEMAS, &schema("those", "waiting", "waiting")).await;
    until(&admin, SCHEMAS, "those", |_, o| dangling(o, "False")).await;
    let mut watches = Vec::new();
    for _ in 0..25 {
        watches.push(admin.watch(&format!("{CONFIG_MAPS}?watch=1")).await);
    }
    let user = cluster.user(UserInfo::new("waiting", &[]));
    let object = config_map("a");
    let width = async || {
        let mut write = Box::pin(user.post(CONFIG_MAPS, &object));
        assert!(futures::poll!(write.as_mut()).is_pending());
        let (columns, rows) = table(&admin, "dump_requests").await;
        let row = rows.into_iter().find(|row| row[0] == "waiting").unwrap();
        let column = |name: &str| row[columns.iter().position(|c| c == name).unwrap()].clone();
        [column("InitialSeats"), column("FinalSeats"), column("AdditionalLatency")]
    };
    // Three seats' worth of watches, where one request may have one seat.
    assert_eq!(width().await, ["1", "1", "15ms"]);
    watches.truncate(9);
    eventually("the watches have ended", async || width().await == ["1", "0", "0s"]).await;
}
