//! Who may do what.

use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;

use super::{ADMIN, Who, fixture};

#[tokio::test]
async fn health_needs_no_certificate_and_all_else_does() {
    let f = fixture(vec![]).await;
    assert_eq!(f.get(Who::Nobody, "/healthz").await, (StatusCode::OK, "ok".to_owned()));
    for path in ["/pods", "/containerLogs/ns/web/c", "/exec/ns/web/c?command=sh&output=1", "/nothing"] {
        assert_eq!(f.get(Who::Nobody, path).await.0, StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[tokio::test]
async fn only_masters_and_the_api_server_are_served() {
    let f = fixture(vec![]).await;
    let stranger = Who::Named("system:node:a", Some("system:nodes"));
    let (status, body) = f.get(stranger, "/pods").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body.contains("user=system:node:a"), "{body}");
    assert_eq!(f.get(ADMIN, "/pods").await.0, StatusCode::OK);
    assert_eq!(f.get(Who::Named("windlass-apiserver", None), "/pods").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_not_accepted() {
    let (f, other) = (fixture(vec![]).await, fixture(vec![]).await);
    // The client trusts the server, but shows what another authority signed.
    let mixed = super::Fixture { ca_pem: f.ca_pem.clone(), address: f.address, ..other };
    let attempt = tokio::spawn(async move { mixed.get(ADMIN, "/pods").await.0 }).await;
    assert!(attempt.is_err(), "{attempt:?}");
}

#[tokio::test]
async fn pods_are_listed_as_the_api_server_has_them() {
    let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"name": "web", "namespace": "ns"}})).unwrap();
    let f = fixture(vec![pod]).await;
    let list: serde_json::Value = serde_json::from_str(&f.get(ADMIN, "/pods").await.1).unwrap();
    assert_eq!(list["kind"], "PodList");
    assert_eq!(list["items"][0]["metadata"]["name"], "web");
}

#[tokio::test]
async fn what_is_not_there_is_said_so() {
    let f = fixture(vec![]).await;
    assert_eq!(f.get(ADMIN, "/nothing").await.0, StatusCode::NOT_FOUND);
    let (status, body) = f.get(ADMIN, "/containerLogs/ns/web/c").await;
    assert_eq!((status, body.as_str()), (StatusCode::NOT_FOUND, "pod \"web\" does not exist"));
    assert_eq!(f.get(ADMIN, "/exec/ns/web/c?command=sh&output=1").await.1, "Upgrade request required");
    assert_eq!(f.get(ADMIN, "/exec/ns/web/c?output=1").await.1, "no command specified");
    let none = "you must specify at least 1 of stdin, stdout, stderr";
    assert_eq!(f.get(ADMIN, "/attach/ns/web/c").await.1, none);
}
