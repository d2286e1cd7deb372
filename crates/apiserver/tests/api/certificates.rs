//! Certificate signing requests: who asks, approves and signs.

use crate::common::*;
use apiserver::UserInfo;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn request(name: &str, group: &str) -> Value {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, group);
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {
            "request": STANDARD.encode(pem), "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"], "username": "forged",
        },
    })
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "Test", "message": "m"})
}

async fn grant(cluster: &Cluster, user: &str, rules: Value) {
    let admin = cluster.admin();
    let role = json!({"metadata": {"name": user}, "rules": rules});
    admin.create(&format!("{RBAC}/clusterroles"), &role).await;
    let bind = json!({
        "metadata": {"name": user}, "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
    });
    admin.create(&format!("{RBAC}/clusterrolebindings"), &bind).await;
}

#[tokio::test]
async fn a_request_names_its_author_and_masters_are_refused() {
    let cluster = Cluster::start().await;
    let ann = cluster.user(UserInfo::new("ann", &["devs"]));
    grant(&cluster, "ann", json!([{"verbs": ["create"], "apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests"]}])).await;
    let made = ann.create(REQUESTS, &request("ann", "devs")).await;
    assert_eq!(made["spec"]["username"], "ann");
    assert_eq!(made["spec"]["groups"], json!(["devs", "system:authenticated"]));
    let refused = ann.post(REQUESTS, &request("eve", "system:masters")).await;
    assert!(
        refused.code == 403
            && refused.body["message"].as_str().unwrap().contains("system:masters group is not allowed")
    );
    let mut damaged = request("bob", "devs");
    damaged["spec"]["request"] = STANDARD.encode("nonsense").into();
    assert_eq!(ann.post(REQUESTS, &damaged).await.code, 422);
}

#[tokio::test]
async fn approval_and_signing_are_rights_over_the_signer() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.create(REQUESTS, &request("ann", "devs")).await;
    let (approval, status) = (format!("{REQUESTS}/ann/approval"), format!("{REQUESTS}/ann/status"));
    let write = json!({"verbs": ["update", "patch"], "apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"]});
    let over = |verb: &str| json!({"verbs": [verb], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["kubernetes.io/*"]});
    grant(&cluster, "clerk", json!([write])).await;
    grant(&cluster, "approver", json!([write, over("approve")])).await;
    grant(&cluster, "signer", json!([write, over("sign")])).await;
    let as_user = |name: &str| cluster.user(UserInfo::new(name, &[]));
    let approve = json!({"status": {"conditions": [condition("Approved")], "certificate": "YQ=="}});
    let refused = as_user("clerk").patch(&approval, "merge", &approve).await;
    let want = r#"certificatesigningrequests.certificates.k8s.io "ann" is forbidden: user not permitted to approve requests with signerName "kubernetes.io/kube-apiserver-client""#;
    assert_eq!((refused.code, refused.body["message"].as_str().unwrap()), (403, want));
    // Whoever signs does not approve, and the other way round.
    assert_eq!(as_user("signer").patch(&status, "merge", &approve).await.code, 422);
    let approved = as_user("approver").patch(&approval, "merge", &approve).await;
    assert_eq!(approved.code, 200, "{}", approved.body);
    assert!(approved.body["status"].get("certificate").is_none());
    assert!(approved.body["status"]["conditions"][0]["lastUpdateTime"].is_string());
    let denied = json!({"status": {"conditions": [condition("Denied")]}});
    assert_eq!(as_user("approver").patch(&approval, "merge", &denied).await.code, 422);
    let certificate = json!({"status": {"certificate": STANDARD.encode(cluster.server.pki().ca_pem())}});
    assert_eq!(as_user("approver").patch(&status, "merge", &certificate).await.code, 403);
    let signed = as_user("signer").patch(&status, "merge", &certificate).await;
    assert_eq!((signed.code, &signed.body["status"]["certificate"]), (200, &certificate["status"]["certificate"]));
}

/// Resources of the group with their verbs, by discovery.
async fn verbs(admin: &Client, group: &str) -> serde_json::Map<String, Value> {
    let groups = admin.get("/apis").await.body;
    let found = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == group).unwrap();
    let version = json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
    assert!(found["versions"].as_array().unwrap().contains(&version), "{found}");
    assert!(admin.get(&format!("/apis/{group}")).await.body["versions"].as_array().unwrap().contains(&version));
    let served = admin.get(&format!("/apis/{group}/v1")).await.body;
    let of = |r: &Value| (r["name"].as_str().unwrap().to_owned(), r["verbs"].clone());
    served["resources"].as_array().unwrap().iter().map(of).collect()
}

/// Conditions and the certificate are written through the parts of a request.
async fn approved_and_signed(cluster: &Cluster, one: &str, uid: &Value) {
    let admin = cluster.admin();
    let note = |name: &str| json!({"metadata": {"annotations": {name: "true"}}});
    let certificate = STANDARD.encode(cluster.server.pki().ca_pem());
    for (part, patch, update) in [
        ("approval", json!({"conditions": [condition("ApprovalPatch")]}), "Approved"),
        ("status", json!({"certificate": certificate}), "StatusUpdate"),
    ] {
        let path = format!("{one}/{part}");
        let read = admin.get(&path).await.body;
        assert_eq!((&read["kind"], &read["metadata"]["uid"]), (&json!("CertificateSigningRequest"), uid));
        let mut change = note(part);
        change["status"] = patch.clone();
        let patched = admin.patch(&path, "merge", &change).await;
        assert_eq!(
            (patched.code, &patched.body["metadata"]["annotations"][part]),
            (200, &json!("true")),
            "{}",
            patched.body
        );
        let mut changed = patched.body;
        match part {
            "approval" => assert_eq!(changed["status"]["conditions"][0]["type"], "ApprovalPatch"),
            _ => assert_eq!(changed["status"]["certificate"], certificate),
        }
        changed["status"]["conditions"].as_array_mut().unwrap().push(condition(update));
        let count = changed["status"]["conditions"].as_array().unwrap().len();
        let updated = admin.put(&path, &changed).await;
        assert_eq!(updated.code, 200, "{}", updated.body);
        let conditions = updated.body["status"]["conditions"].as_array().unwrap();
        assert_eq!((conditions.len(), &conditions[count - 1]["type"]), (count, &json!(update)));
    }
}

// conformance: [sig-auth] Certificates API [Privileged:ClusterAdmin] should support CSR API operations
#[tokio::test]
async fn a_request_is_found_by_discovery_and_lives_through_all_its_verbs() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let served = verbs(&admin, "certificates.k8s.io").await;
    let all = json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]);
    assert_eq!(served["certificatesigningrequests"], all);
    for part in ["approval", "status"] {
        assert_eq!(served[&format!("certificatesigningrequests/{part}")], json!(["get", "patch", "update"]));
    }
    let labelled = format!("{REQUESTS}?labelSelector=of%3Dtest");
    let list = async || admin.get(&labelled).await.body;
    for name in ["one", "two", "three"] {
        let mut object = request(name, "devs");
        object["metadata"]["labels"] = json!({"of": "test"});
        object["spec"]["expirationSeconds"] = 3600.into();
        object["spec"]["signerName"] = "example.com/test".into();
        let made = admin.create(REQUESTS, &object).await;
        assert_eq!(made["spec"]["expirationSeconds"], 3600);
        assert_eq!(admin.get(&format!("{REQUESTS}/{name}")).await.body, made);
    }
    assert_eq!(list().await["items"].as_array().unwrap().len(), 3);
    let from = list().await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch = admin.watch(&format!("{labelled}&watch=true&resourceVersion={from}")).await;
    let one = format!("{REQUESTS}/one");
    let note = |name: &str| json!({"metadata": {"annotations": {name: "true"}}});
    let patched = admin.patch(&one, "merge", &note("patched")).await;
    assert_eq!((patched.code, &patched.body["metadata"]["annotations"]["patched"]), (200, &json!("true")));
    let mut object = patched.body.clone();
    object["metadata"]["annotations"]["updated"] = "true".into();
    let updated = admin.put(&one, &object).await;
    assert_eq!((updated.code, &updated.body["metadata"]["annotations"]["updated"]), (200, &json!("true")));
    for seen in [&patched.body, &updated.body] {
        assert_eq!(watch.next().await.unwrap(), json!({"type": "MODIFIED", "object": seen}));
    }
    approved_and_signed(&cluster, &one, &object["metadata"]["uid"]).await;
    assert_eq!(admin.delete(&one).await.code, 200);
    assert_eq!(admin.get(&one).await.code, 404);
    assert_eq!(list().await["items"].as_array().unwrap().len(), 2);
    assert_eq!(admin.delete(&labelled).await.code, 200);
    assert!(list().await["items"].as_array().unwrap().is_empty());
}

#[test]
fn agents_are_known_by_what_they_request() {
    let of = |name: &str, group: &str, signer: &str, usages: &[&str]| {
        let pem = STANDARD.decode(request(name, group)["spec"]["request"].as_str().unwrap()).unwrap();
        let usages: Vec<String> = usages.iter().map(|&u| u.to_owned()).collect();
        apiserver::pki::agent_of(&apiserver::pki::SigningRequest { pem: &pem, signer, usages: &usages, seconds: None })
    };
    let (node, client) = ("system:node:n1", "kubernetes.io/kube-apiserver-client-kubelet");
    let usages = ["client auth", "digital signature"];
    assert_eq!(of(node, "system:nodes", client, &usages).as_deref(), Some(node));
    assert_eq!(of(node, "system:masters", client, &usages), None);
    // What a node serves with, a person approves.
    let serving = ["digital signature", "server auth"];
    assert_eq!(of(node, "system:nodes", "kubernetes.io/kubelet-serving", &serving), None);
    assert_eq!(of("ann", "system:nodes", client, &usages), None);
    assert_eq!(of(node, "system:nodes", "kubernetes.io/kube-apiserver-client", &usages), None);
    assert_eq!(of(node, "system:nodes", client, &["client auth", "digital signature", "server auth"]), None);
}
