//! Usage and metrics, for those whom the API server allows.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::fake::RUNNING;
use super::{ADMIN, Fixture, NodeFacts, Who, fixture_of};

/// An API server that knows the token `good` of `prometheus`, who may see metrics.
fn reviewer(asked: Arc<AtomicUsize>) -> kube::Client {
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        asked.fetch_add(1, Ordering::Relaxed);
        async move {
            let bytes = request.into_body().collect().await.unwrap().to_bytes();
            let mut review: Value = serde_json::from_slice(&bytes).unwrap();
            review["metadata"] = json!({});
            review["status"] = match review["kind"].as_str().unwrap() {
                "TokenReview" if review["spec"]["token"] == "good" => {
                    json!({"authenticated": true, "user": {"username": "prometheus", "groups": ["monitoring"]}})
                }
                "TokenReview" => json!({"authenticated": false}),
                _ => {
                    assert_eq!(review["spec"]["resourceAttributes"]["name"], "n");
                    json!({"allowed": review["spec"]["resourceAttributes"]["subresource"] == "metrics"})
                }
            };
            let body = kube::client::Body::from(review.to_string().into_bytes());
            Ok::<_, Infallible>(Response::builder().status(201).body(body).unwrap())
        }
    });
    kube::Client::new(service, "default")
}

async fn node() -> (Fixture, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "uid"}, "status": {"startTime": "2024-01-01T00:00:00Z"},
    }))
    .unwrap();
    let client = reviewer(asked.clone());
    let facts = NodeFacts {
        name: "n".into(),
        client,
        cpus: 2,
        memory_bytes: 1 << 30,
        data: "/".into(),
        volumes: Arc::default(),
    };
    let f = fixture_of(vec![pod], Some(facts)).await;
    f.fake.web("/none".into(), RUNNING);
    (f, asked)
}

#[tokio::test]
async fn who_may_see_metrics_is_asked_of_the_api_server_and_remembered() {
    let (f, asked) = node().await;
    let good = Who::Token("good");
    assert_eq!(f.get(good, "/metrics/resource").await.0, StatusCode::OK);
    assert_eq!(f.get(good, "/metrics/resource").await.0, StatusCode::OK);
    assert_eq!(asked.load(Ordering::Relaxed), 2, "one question about the token, one about the right");
    let (status, body) = f.get(good, "/pods").await;
    let refused = "Forbidden (user=prometheus, verb=get, resource=nodes, subresource(s)=[pods proxy])";
    assert_eq!((status, body.as_str()), (StatusCode::FORBIDDEN, refused));
    assert_eq!(f.get(Who::Token("bad"), "/metrics/resource").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(f.get(Who::Nobody, "/metrics/resource").await.0, StatusCode::UNAUTHORIZED);
    // A certificate of somebody else is a name to ask about.
    assert_eq!(f.get(Who::Named("somebody", None), "/metrics/cadvisor").await.0, StatusCode::OK);
    assert_eq!(f.get(Who::Named("somebody", None), "/stats/summary").await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn usage_is_told_for_containers_pods_and_the_node() {
    let (f, _) = node().await;
    let text = f.get(ADMIN, "/metrics/resource").await.1;
    let line = "container_memory_working_set_bytes{container=\"c\",namespace=\"ns\",pod=\"web\"} 0 ";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("node_cpu_usage_seconds_total ") && text.contains("pod_cpu_usage_seconds_total{"), "{text}");
    assert!(f.get(ADMIN, "/metrics").await.1.contains("kubelet_running_pods 1\n"));
    let text = f.get(ADMIN, "/metrics/cadvisor").await.1;
    assert!(text.contains("machine_cpu_cores 2\n") && text.contains("container_threads{"), "{text}");
    let summary: Value = serde_json::from_str(&f.get(ADMIN, "/stats/summary").await.1).unwrap();
    assert_eq!(summary["node"]["nodeName"], "n");
    let pod = &summary["pods"][0];
    assert_eq!(pod["podRef"], json!({"name": "web", "namespace": "ns", "uid": "uid"}));
    assert_eq!(
        (&pod["containers"][0]["name"], &pod["containers"][0]["rootfs"]["usedBytes"]),
        (&json!("c"), &json!(4096))
    );
    assert_eq!(pod["containers"][0]["cpu"]["usageNanoCores"], 0);
}
