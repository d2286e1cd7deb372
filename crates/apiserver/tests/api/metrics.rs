//! `/metrics` of the server itself.

use crate::common::*;
use apiserver::UserInfo;
use serde_json::json;

/// The value of the line with this name whose labels are among these.
fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |line: &&str| labels.iter().all(|(k, v)| line.contains(&format!("{k}=\"{v}\"")));
    let of = |line: &&str| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "));
    text.lines().filter(of).find(fits)?.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn requests_are_counted_by_what_they_ask_and_how_they_end() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.create(CONFIG_MAPS, &config_map("a")).await;
    assert_eq!(admin.post(CONFIG_MAPS, &config_map("a")).await.code, 409);
    for _ in 0..3 {
        admin.get(CONFIG_MAPS).await;
    }
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}});
    assert_eq!(admin.patch(&format!("{CONFIG_MAPS}/b?fieldManager=m"), "apply", &applied).await.code, 201);
    assert_eq!(admin.get("/api/v1/namespaces/default/sculptures/x").await.code, 404);
    let _watch = admin.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    let answer = admin.get("/metrics").await;
    assert_eq!(
        (answer.code, answer.headers["content-type"].to_str().unwrap()),
        (200, "text/plain; version=0.0.4; charset=utf-8")
    );
    let text = answer.body.as_str().unwrap();
    let total = |labels: &[(&str, &str)]| value(text, "apiserver_request_total", labels);
    let maps = ("resource", "configmaps");
    assert_eq!(total(&[("code", "201"), maps, ("scope", "namespace"), ("verb", "POST"), ("version", "v1")]), Some(1.0));
    assert_eq!(total(&[("code", "409"), maps, ("verb", "POST")]), Some(1.0));
    assert_eq!(total(&[("code", "200"), maps, ("verb", "LIST")]), Some(3.0));
    assert_eq!(total(&[("code", "201"), maps, ("scope", "resource"), ("verb", "APPLY")]), Some(1.0));
    assert_eq!(total(&[("code", "200"), maps, ("verb", "WATCH")]), Some(1.0));
    // What there is not is not named: nobody fills the server with names that he made up.
    assert_eq!(total(&[("code", "404"), ("resource", ""), ("verb", "GET")]), Some(1.0));
    assert!(!text.contains("sculptures"));
    let times = |name: &str, le: &[(&str, &str)]| {
        let labels: Vec<_> = [maps, ("verb", "LIST")].iter().chain(le).copied().collect();
        value(text, &format!("apiserver_request_duration_seconds_{name}"), &labels)
    };
    assert_eq!((times("count", &[]), times("bucket", &[("le", "+Inf")])), (Some(3.0), Some(3.0)));
    assert!(times("sum", &[]).is_some_and(|s| s > 0.0));
    let objects = |resource| value(text, "apiserver_storage_objects", &[("resource", resource)]);
    assert_eq!((objects("namespaces"), objects("deployments.apps")), (Some(4.0), Some(0.0)));
    assert_eq!(value(text, "apiserver_longrunning_requests", &[]), Some(1.0));
    assert_eq!(value(text, "apiserver_current_inflight_requests", &[("request_kind", "mutating")]), Some(0.0));
    assert_eq!(value(text, "kubernetes_build_info", &[("minor", "36")]), Some(1.0));
    assert!(value(text, "process_resident_memory_bytes", &[]).is_some_and(|b| b > 1e6));
    // Every line is one that Prometheus reads: a comment, or a name, perhaps labels, and a number.
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let (_, number) = line.rsplit_once(' ').unwrap();
        assert!(number.parse::<f64>().is_ok(), "{line}");
    }
}

#[tokio::test]
async fn metrics_are_for_those_who_may_see_them() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.user(UserInfo::new("ann", &[])).get("/metrics").await.code, 403);
    assert_eq!(cluster.user(UserInfo::new("prometheus", &["system:monitoring"])).get("/metrics").await.code, 200);
}
