//! Lists, pages, selectors, watches, and the forms they come in.

use std::time::Duration;

use crate::common::*;
use serde_json::{Value, json};

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect()
}

async fn many(client: &Client, count: usize) {
    for i in 0..count {
        client
            .create(CONFIG_MAPS, &labelled(&format!("m{i:02}"), "parity", if i % 2 == 0 { "even" } else { "odd" }))
            .await;
    }
}

#[tokio::test]
async fn selectors_pick_by_label_and_field() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    many(&admin, 4).await;
    assert_eq!(names(&admin.get(&format!("{CONFIG_MAPS}?labelSelector=parity%3Deven")).await.body), ["m00", "m02"]);
    assert_eq!(
        names(&admin.get(&format!("{CONFIG_MAPS}?labelSelector=parity+notin+(even)")).await.body),
        ["m01", "m03"]
    );
    assert_eq!(names(&admin.get(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dm03")).await.body), ["m03"]);
    assert_eq!(
        names(
            &admin.get("/api/v1/configmaps?fieldSelector=metadata.name!%3Dm03&labelSelector=parity%3Dodd").await.body
        ),
        ["m01"]
    );
    default_account(&admin).await;
    let mut bound = pod("b");
    bound["spec"]["nodeName"] = "n1".into();
    admin.create(PODS, &bound).await;
    admin.create(PODS, &pod("a")).await;
    assert_eq!(names(&admin.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.body), ["b"]);
    assert_eq!(names(&admin.get("/api/v1/pods?fieldSelector=spec.nodeName%3D").await.body), ["a"]);
}

#[tokio::test]
async fn pages_show_one_revision_whatever_happens_between_them() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    many(&admin, 5).await;
    let first = admin.get(&format!("{CONFIG_MAPS}?limit=2")).await.body;
    assert_eq!(names(&first), ["m00", "m01"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    let second = admin.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.body;
    assert_eq!(names(&second), ["m02", "m03"]);
    admin.delete(&format!("{CONFIG_MAPS}/m02")).await;
    admin.create(CONFIG_MAPS, &config_map("m02a")).await;
    let again = admin.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.body;
    assert_eq!(names(&again), ["m02", "m03"]);
    assert_eq!(again["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = again["metadata"]["continue"].as_str().unwrap();
    let last = admin.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.body;
    assert_eq!((names(&last), last["metadata"]["continue"].as_str()), (vec!["m04"], None));
    let selected = admin.get(&format!("{CONFIG_MAPS}?limit=1&labelSelector=parity%3Dodd")).await.body;
    assert_eq!((names(&selected), &selected["metadata"]["remainingItemCount"]), (vec!["m01"], &Value::Null));
    assert!(selected["metadata"]["continue"].is_string());
    let all: Vec<String> = {
        let (mut out, mut cont) = (Vec::new(), String::new());
        loop {
            let page =
                admin.get(&format!("{CONFIG_MAPS}?limit=1&labelSelector=parity%3Dodd&continue={cont}")).await.body;
            out.extend(names(&page).into_iter().map(str::to_owned));
            match page["metadata"]["continue"].as_str() {
                Some(next) => cont = next.to_owned(),
                None => break out,
            }
        }
    };
    assert_eq!(all, ["m01", "m03"]);
    for bad in ["zzz", "eyJ2IjoieCJ9", "%00"] {
        assert_eq!(admin.get(&format!("{CONFIG_MAPS}?limit=2&continue={bad}")).await.code, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_compacted_page_is_expired_and_offers_to_go_on() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    many(&admin, 4).await;
    let first = admin.get(&format!("{CONFIG_MAPS}?limit=2")).await.body;
    let token = first["metadata"]["continue"].as_str().unwrap();
    admin.delete(&format!("{CONFIG_MAPS}/m02")).await;
    cluster.store.compact(cluster.store.revision()).await.unwrap();
    let gone = admin.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await;
    assert_eq!((gone.code, gone.body["reason"].as_str()), (410, Some("Expired")));
    let token = gone.body["metadata"]["continue"].as_str().expect("a token to go on with");
    assert_eq!(names(&admin.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.body), ["m03"]);
}

#[tokio::test]
async fn revisions_are_minimums_exact_or_in_the_future() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let one = admin.create(CONFIG_MAPS, &config_map("a")).await;
    let revision = one["metadata"]["resourceVersion"].as_str().unwrap();
    admin.create(CONFIG_MAPS, &config_map("b")).await;
    assert_eq!(names(&admin.get(&format!("{CONFIG_MAPS}?resourceVersion=0")).await.body).len(), 2);
    assert_eq!(names(&admin.get(&format!("{CONFIG_MAPS}?resourceVersion={revision}")).await.body).len(), 2);
    let exact = admin.get(&format!("{CONFIG_MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact")).await.body;
    assert_eq!((names(&exact), exact["metadata"]["resourceVersion"].as_str()), (vec!["a"], Some(revision)));
    let newer = format!("{CONFIG_MAPS}?resourceVersion={revision}&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&admin.get(&newer).await.body).len(), 2);
    for bad in ["resourceVersionMatch=Exact", "resourceVersion=0&resourceVersionMatch=Exact", "sendInitialEvents=true"]
    {
        assert_eq!(admin.get(&format!("{CONFIG_MAPS}?{bad}")).await.code, 422, "{bad}");
    }
    tokio::time::pause();
    let future = admin.get(&format!("{CONFIG_MAPS}?resourceVersion=99999")).await;
    assert_eq!((future.code, future.body["reason"].as_str()), (504, Some("Timeout")));
    assert_eq!(future.headers["retry-after"], "1");
}

#[tokio::test]
async fn tables_and_partial_metadata() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    many(&admin, 2).await;
    let table = admin.header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");
    let body = table.get(CONFIG_MAPS).await.body;
    assert_eq!((body["kind"].as_str(), body["columnDefinitions"][0]["name"].as_str()), (Some("Table"), Some("Name")));
    assert_eq!(body["rows"][1]["cells"][0], "m01");
    assert_eq!(body["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert!(body["metadata"]["resourceVersion"].is_string());
    let one = table.get(&format!("{CONFIG_MAPS}/m00?includeObject=Object")).await.body;
    assert_eq!(one["rows"][0]["object"]["data"]["k"], "v");
    let partial = admin.header("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io");
    let body = partial.get(CONFIG_MAPS).await.body;
    assert_eq!((body["kind"].as_str(), &body["items"][0]["data"]), (Some("PartialObjectMetadataList"), &Value::Null));
    let one = admin.header("accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io");
    assert_eq!(one.get(&format!("{CONFIG_MAPS}/m00")).await.body["kind"], "PartialObjectMetadata");
    let unsayable = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io";
    assert_eq!(admin.header("accept", unsayable).get(CONFIG_MAPS).await.code, 406);
    let mut watch = table.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    let (first, second) = (watch.next().await.unwrap(), watch.next().await.unwrap());
    assert_eq!(
        (first["object"]["kind"].as_str(), first["object"]["rows"][0]["cells"][0].as_str()),
        (Some("Table"), Some("m00"))
    );
    assert!(first["object"]["columnDefinitions"].is_array() && second["object"]["columnDefinitions"].is_null());
}

#[tokio::test]
async fn large_lists_are_streamed_and_compressed_on_request() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for i in 0..40 {
        let mut object = config_map(&format!("big{i:02}"));
        object["data"]["k"] = "x".repeat(20_000).into();
        admin.create(CONFIG_MAPS, &object).await;
    }
    let plain = admin.get(CONFIG_MAPS).await;
    assert_eq!(names(&plain.body).len(), 40);
    let reply = admin.header("accept-encoding", "gzip").raw("GET", CONFIG_MAPS, "", "").await;
    assert_eq!(reply.headers()["content-encoding"], "gzip");
    let bytes = http_body_util::BodyExt::collect(reply.into_body()).await.unwrap().to_bytes();
    assert!(bytes.len() < 50_000);
    let value: Value = serde_json::from_reader(flate2::read::GzDecoder::new(&bytes[..])).unwrap();
    assert_eq!(value, plain.body);
    let small = admin.header("accept-encoding", "gzip").get(&format!("{CONFIG_MAPS}/big00")).await;
    assert!(!small.headers.contains_key("content-encoding"));
}

#[tokio::test]
async fn a_watch_from_a_revision_misses_nothing_and_repeats_nothing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.create(CONFIG_MAPS, &config_map("a")).await;
    let list = admin.get(CONFIG_MAPS).await.body;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    admin.create(CONFIG_MAPS, &config_map("b")).await;
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={revision}")).await;
    admin.patch(&format!("{CONFIG_MAPS}/a"), "merge", &json!({"data": {"k": "w"}})).await;
    admin.delete(&format!("{CONFIG_MAPS}/b")).await;
    assert_eq!(watch.brief().await, ("ADDED".into(), "b".into()));
    assert_eq!(watch.brief().await, ("MODIFIED".into(), "a".into()));
    let deleted = watch.next().await.unwrap();
    assert_eq!(
        (deleted["type"].as_str(), deleted["object"]["metadata"]["name"].as_str()),
        (Some("DELETED"), Some("b"))
    );
    let now = admin.get(CONFIG_MAPS).await.body;
    assert_eq!(deleted["object"]["metadata"]["resourceVersion"], now["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn objects_enter_and_leave_the_view_of_a_selector() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=true&labelSelector=show%3Dyes")).await;
    admin.create(CONFIG_MAPS, &config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let label = |v: Value| json!({"metadata": {"labels": {"show": v}}});
    admin.patch(&path, "merge", &label("yes".into())).await;
    assert_eq!(watch.brief().await, ("ADDED".into(), "a".into()));
    admin.patch(&path, "merge", &json!({"data": {"k": "2"}})).await;
    assert_eq!(watch.brief().await, ("MODIFIED".into(), "a".into()));
    let gone = admin.patch(&path, "merge", &label("no".into())).await.body;
    let left = watch.next().await.unwrap();
    assert_eq!(left["type"], "DELETED");
    assert_eq!(left["object"]["metadata"]["labels"]["show"], "yes");
    assert_eq!(left["object"]["metadata"]["resourceVersion"], gone["metadata"]["resourceVersion"]);
    admin.delete(&path).await;
    admin.create(CONFIG_MAPS, &labelled("b", "show", "yes")).await;
    assert_eq!(watch.brief().await, ("ADDED".into(), "b".into()));
    let mut one = admin.watch(&format!("{CONFIG_MAPS}/b?watch=true")).await;
    admin.create(CONFIG_MAPS, &labelled("c", "show", "yes")).await;
    admin.delete(&format!("{CONFIG_MAPS}/b")).await;
    assert_eq!(one.brief().await, ("ADDED".into(), "b".into()));
    assert_eq!(one.brief().await, ("DELETED".into(), "b".into()));
}

#[tokio::test]
async fn streaming_lists_end_with_a_marked_bookmark() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    many(&admin, 3).await;
    let path = format!(
        "{CONFIG_MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut watch = admin.watch(&path).await;
    for name in ["m00", "m01", "m02"] {
        assert_eq!(watch.brief().await, ("ADDED".into(), name.into()));
    }
    let mark = watch.next().await.unwrap();
    assert_eq!((mark["type"].as_str(), mark["object"]["kind"].as_str()), (Some("BOOKMARK"), Some("ConfigMap")));
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let now = admin.get(CONFIG_MAPS).await.body;
    assert_eq!(mark["object"]["metadata"]["resourceVersion"], now["metadata"]["resourceVersion"]);
    admin.create(CONFIG_MAPS, &config_map("z")).await;
    assert_eq!(watch.brief().await, ("ADDED".into(), "z".into()));
    assert_eq!(admin.get(&format!("{CONFIG_MAPS}?watch=1&sendInitialEvents=true")).await.code, 422);
}

#[tokio::test]
async fn bookmarks_come_now_and_then_and_at_the_end() {
    let cluster = Cluster::with(|limits| limits.bookmark_interval = Duration::from_millis(50)).await;
    let admin = cluster.admin();
    let revision = admin.get(CONFIG_MAPS).await.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let path = format!("{CONFIG_MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion={revision}");
    let mut watch = admin.watch(&path).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    let other = admin.create("/api/v1/namespaces/default/secrets", &secret).await;
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["resourceVersion"], other["metadata"]["resourceVersion"]);
    assert!(watch.next().await.is_none(), "the watch ends after its timeout");
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_told_to_start_over() {
    let cluster = Cluster::with(|limits| limits.ring_events = 4).await;
    let admin = cluster.admin();
    many(&admin, 10).await;
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=1")).await;
    let error = watch.next().await.unwrap();
    assert_eq!((error["type"].as_str(), error["object"]["code"].as_i64()), (Some("ERROR"), Some(410)));
    assert_eq!(error["object"]["reason"], "Expired");
    assert!(error["object"]["message"].as_str().unwrap().starts_with("too old resource version: 1 ("));
    assert!(watch.next().await.is_none());
    // One that does not read while more changes come than are kept.
    let mut slow = admin.watch(&format!("{CONFIG_MAPS}?watch=1&labelSelector=never")).await;
    admin.create(CONFIG_MAPS, &labelled("x", "never", "")).await;
    assert_eq!(slow.brief().await, ("ADDED".into(), "x".into()));
    for i in 0..8 {
        admin.create(CONFIG_MAPS, &config_map(&format!("n{i}"))).await;
    }
    assert_eq!(slow.next().await.unwrap()["object"]["code"], 410);
    assert!(slow.next().await.is_none());
}

// conformance: [sig-api-machinery] server version should find the server version
#[tokio::test]
async fn the_version_is_of_whole_numbers() {
    let version = Cluster::start().await.admin().get("/version").await.body;
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("36")));
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.36."), "{version}");
}

// conformance: [sig-api-machinery] Servers with support for Table transformation should return a 406 for a backend which does not implement metadata
#[tokio::test]
async fn what_has_no_metadata_is_no_table() {
    let cluster = Cluster::start().await;
    let table = cluster.admin().header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let spec = json!({"nonResourceAttributes": {"path": "/", "verb": "get"}});
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec});
    let refused = table.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await;
    assert_eq!((refused.code, refused.body["code"].as_u64()), (406, Some(406)), "{}", refused.body);
}

#[tokio::test]
async fn discovery_and_openapi_documents() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    assert_eq!(admin.get("/api").await.body["versions"][0], "v1");
    let groups = admin.get("/apis").await.body;
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "apps"));
    assert!(
        admin.get("/apis/apps/v1").await.body["resources"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| r["name"] == "deployments/scale")
    );
    assert_eq!(admin.get("/apis/apps").await.body["preferredVersion"]["groupVersion"], "apps/v1");
    assert_eq!(admin.get("/apis/none").await.code, 404);
    let form = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let aggregated = admin.header("accept", form).get("/apis").await;
    assert_eq!(
        (aggregated.body["kind"].as_str(), &aggregated.headers["content-type"]),
        (Some("APIGroupDiscoveryList"), &form.parse().unwrap())
    );
    let etag = aggregated.headers["etag"].to_str().unwrap().to_owned();
    let cached = admin.header("accept", form).header("if-none-match", &etag).get("/apis").await;
    assert_eq!(cached.code, 304);
    let index = admin.get("/openapi/v3").await.body;
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = admin.get(url).await;
    assert_eq!(document.body["openapi"], "3.0.0");
    assert!(document.headers["cache-control"].to_str().unwrap().contains("immutable"));
    let version = admin.get("/version").await.body;
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.36."));
    assert_eq!(admin.get("/openid/v1/jwks").await.body["keys"][0]["crv"], "P-256");
    let head = admin.send("HEAD", CONFIG_MAPS, "", "").await;
    assert_eq!((head.code, head.body.as_str()), (200, Some("")));
}

/// A client that lists one object and watches from there must hear of its deletion: the list's revision may not be newer
/// than what it shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_list_by_name_never_claims_a_deletion_that_it_does_not_show() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let begin = admin.get(CONFIG_MAPS).await.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let one = format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dx");
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (admin, one, done) = (cluster.admin(), one.clone(), done.clone());
            tokio::spawn(async move {
                let revision = |o: &Value| o["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
                let mut seen = Vec::new();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let list = admin.get(&one).await.body;
                    if let Some(item) = list["items"].get(0) {
                        seen.push((revision(item), revision(&list)));
                    }
                }
                seen
            })
        })
        .collect();
    const ROUNDS: usize = 150;
    for _ in 0..ROUNDS {
        admin.create(CONFIG_MAPS, &config_map("x")).await;
        assert_eq!(admin.delete(&format!("{CONFIG_MAPS}/x")).await.code, 200);
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut watch = admin.watch(&format!("{one}&watch=true&resourceVersion={begin}")).await;
    let mut deletions = Vec::new();
    while deletions.len() < ROUNDS {
        let event = watch.next().await.unwrap();
        if event["type"] == "DELETED" {
            deletions.push(event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap());
        }
    }
    let mut lists = 0;
    for reader in readers {
        for (shown, claimed) in reader.await.unwrap() {
            let hidden = deletions.iter().find(|d| shown < **d && **d <= claimed);
            assert_eq!(hidden, None, "the object of {shown} in a list of {claimed}");
            lists += 1;
        }
    }
    assert!(lists > 0, "the object was never seen");
}

#[tokio::test]
async fn a_server_that_starts_reads_more_than_a_page_of_its_store() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let made = admin.create(CONFIG_MAPS, &config_map("a")).await;
    // Written past the server: what matters is how they are read.
    let put = |n: usize| {
        let mut object = made.clone();
        object["metadata"]["name"] = format!("m-{n:05}").into();
        object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        let key = format!("/registry/core/configmaps/default/m-{n:05}");
        store::Op::Put { key: key.into(), value: object.to_string().into(), lease_ttl_s: None }
    };
    let key = cluster.store.range(store::RangeRequest::prefix("/registry/")).await.unwrap().kvs;
    let own = key.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).find(|k| k.ends_with("/default/a"));
    assert_eq!(own.as_deref(), Some("/registry/core/configmaps/default/a"));
    for start in (0..5000).step_by(50) {
        let ops = (start..start + 50).map(put).collect();
        cluster.store.txn(store::Txn { compare: Vec::new(), ops }).await.unwrap();
    }
    let again = cluster.again().await;
    let list = again.admin().get(CONFIG_MAPS).await.body;
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!((names.len(), names[0], names[1], names[5000]), (5001, "a", "m-00000", "m-04999"));
    assert_eq!(again.admin().get("/api/v1/namespaces").await.body["items"].as_array().unwrap().len(), 4);
}
