//! Service accounts and what is asked about them.

use crate::common::*;
use serde_json::{Value, json};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "labels": {"of": "test"}}})
}

// conformance: [sig-auth] ServiceAccounts should run through the lifecycle of a ServiceAccount
#[tokio::test]
async fn an_account_is_watched_patched_listed_and_deleted() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut watch = admin.watch(&format!("{ACCOUNTS}?watch=true&labelSelector=of%3Dtest")).await;
    let made = admin.create(ACCOUNTS, &account("a")).await;
    let seen = watch.next().await.unwrap();
    assert_eq!((&seen["type"], &seen["object"]), (&json!("ADDED"), &made));
    assert_eq!(made["metadata"]["labels"], json!({"of": "test"}));
    let off = json!({"automountServiceAccountToken": false});
    let patched = admin.patch(&format!("{ACCOUNTS}/a"), "strategic", &off).await;
    assert_eq!((patched.code, &patched.body["automountServiceAccountToken"]), (200, &json!(false)));
    assert_eq!(watch.next().await.unwrap(), json!({"type": "MODIFIED", "object": patched.body}));
    let list = admin.get("/api/v1/serviceaccounts?labelSelector=of%3Dtest").await.body;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let found = &list["items"][0];
    assert_eq!((&found["metadata"]["name"], &found["automountServiceAccountToken"]), (&json!("a"), &json!(false)));
    assert_eq!(admin.delete(&format!("{ACCOUNTS}?labelSelector=of%3Dtest")).await.code, 200);
    assert_eq!(watch.brief().await, ("DELETED".into(), "a".into()));
    assert_eq!(admin.get(&format!("{ACCOUNTS}/a")).await.code, 404);
}

// conformance: [sig-auth] ServiceAccounts should update a ServiceAccount
#[tokio::test]
async fn an_account_is_updated() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut object = admin.create(ACCOUNTS, &account("a")).await;
    for automount in [true, false] {
        object["automountServiceAccountToken"] = automount.into();
        let updated = admin.put(&format!("{ACCOUNTS}/a"), &object).await;
        assert_eq!((updated.code, &updated.body["automountServiceAccountToken"]), (200, &json!(automount)));
        object = admin.get(&format!("{ACCOUNTS}/a")).await.body;
        assert_eq!(object, updated.body);
    }
}

// conformance: [sig-auth] ServiceAccounts should create a serviceAccountToken and ensure a successful TokenReview
#[tokio::test]
async fn a_token_that_was_asked_for_is_good() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let made = admin.create(ACCOUNTS, &account("a")).await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let request = admin.create(&format!("{ACCOUNTS}/a/token"), &request).await;
    let token = request["status"]["token"].as_str().unwrap();
    assert!(!token.is_empty() && request["status"]["expirationTimestamp"].is_string(), "{request}");
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let status = admin.create("/apis/authentication.k8s.io/v1/tokenreviews", &review).await["status"].clone();
    assert_eq!((&status["authenticated"], status.get("error")), (&json!(true), None), "{status}");
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:a");
    assert_eq!(status["user"]["uid"], made["metadata"]["uid"]);
}

// conformance: [sig-auth] SubjectReview should support SubjectReview API operations
#[tokio::test]
async fn reviews_of_an_account_say_what_its_requests_are_told() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let made = admin.create(ACCOUNTS, &account("a")).await;
    let (name, uid) = ("system:serviceaccount:default:a", made["metadata"]["uid"].as_str().unwrap());
    let groups = ["system:authenticated", "system:serviceaccounts", "system:serviceaccounts:default"];
    let mut impersonated = admin.header("impersonate-user", name).header("impersonate-uid", uid);
    for group in groups {
        impersonated = impersonated.header("impersonate-group", group);
    }
    let allowed = async || {
        let attributes = json!({"verb": "list", "resource": "configmaps", "namespace": "default", "version": "v1"});
        let mut said = Vec::new();
        for (kind, path, place) in [
            ("SubjectAccessReview", "subjectaccessreviews", json!({})),
            (
                "LocalSubjectAccessReview",
                "namespaces/default/localsubjectaccessreviews",
                json!({"namespace": "default"}),
            ),
        ] {
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": kind, "metadata": place,
                "spec": {"resourceAttributes": attributes, "user": name, "groups": groups, "uid": uid},
            });
            let review = admin.create(&format!("/apis/authorization.k8s.io/v1/{path}"), &review).await;
            said.push(review["status"]["allowed"].as_bool().unwrap());
        }
        said.push(match impersonated.get(CONFIG_MAPS).await.code {
            200 => true,
            403 => false,
            other => panic!("{other}"),
        });
        said
    };
    assert_eq!(allowed().await, [false; 3]);
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({
        "metadata": {"name": "r"}, "rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["configmaps"]}],
    });
    admin.create(&format!("{rbac}/roles"), &role).await;
    let binding = json!({
        "metadata": {"name": "r"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "a", "namespace": "default"}],
    });
    admin.create(&format!("{rbac}/rolebindings"), &binding).await;
    assert_eq!(allowed().await, [true; 3]);
}
