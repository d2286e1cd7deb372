//! Who gets in, and who may do what.

use crate::common::*;
use apiserver::UserInfo;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

fn node(name: &str) -> UserInfo {
    UserInfo::new(format!("system:node:{name}"), &["system:nodes"])
}

fn account(namespace: &str, name: &str) -> UserInfo {
    let own = format!("system:serviceaccounts:{namespace}");
    UserInfo::new(format!("system:serviceaccount:{namespace}:{name}"), &["system:serviceaccounts", &own])
}

#[tokio::test]
async fn service_accounts_see_what_is_served_and_nothing_else() {
    let cluster = Cluster::start().await;
    let robot = cluster.user(account("default", "robot"));
    for path in ["/api", "/apis", "/apis/apps/v1", "/openapi/v3", "/version"] {
        assert_eq!(robot.get(path).await.code, 200, "{path}");
    }
    let refused = robot.get(PODS).await;
    let want = r#"pods is forbidden: User "system:serviceaccount:default:robot" cannot list resource "pods" in API group "" in the namespace "default""#;
    assert_eq!(
        (refused.code, refused.body["message"].as_str(), refused.body["reason"].as_str()),
        (403, Some(want), Some("Forbidden"))
    );
    assert_eq!(robot.get("/metrics").await.code, 403);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let who = robot.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await;
    assert_eq!(who.body["status"]["userInfo"]["username"], "system:serviceaccount:default:robot");
    let may = |verb: &str| json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(robot.post(path, &may("list")).await.body["status"]["allowed"], false);
    assert_eq!(cluster.admin().post(path, &may("list")).await.body["status"]["allowed"], true);
}

#[tokio::test]
async fn a_node_reads_what_pods_need_and_writes_only_its_own() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let me = cluster.user(node("n1"));
    let own = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1";
    for path in [own, "/api/v1/services", "/api/v1/persistentvolumes", "/api/v1/namespaces"] {
        assert_eq!(me.get(path).await.code, 200, "{path}");
    }
    let other = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2";
    for path in [other, "/api/v1/pods", "/api/v1/secrets", "/api/v1/nodes", "/api/v1/configmaps", "/api/v1/nodes/n2"] {
        assert_eq!(me.get(path).await.code, 403, "{path}");
    }
    let object = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    me.create("/api/v1/nodes", &object("n1")).await;
    assert_eq!(me.post("/api/v1/nodes", &object("n2")).await.code, 403);
    admin.create("/api/v1/nodes", &object("n2")).await;
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(me.patch("/api/v1/nodes/n1/status", "strategic", &status).await.code, 200);
    assert_eq!(me.patch("/api/v1/nodes/n2/status", "strategic", &status).await.code, 403);
    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {"holderIdentity": name}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    me.create(leases, &lease("n1")).await;
    assert_eq!(me.post(leases, &lease("n2")).await.code, 403);
    for (name, host) in [("mine", "n1"), ("other", "n2")] {
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = host.into();
        admin.create(PODS, &pod).await;
    }
    let running = json!({"status": {"phase": "Running"}});
    assert_eq!(me.patch(&format!("{PODS}/mine/status"), "merge", &running).await.code, 200);
    assert_eq!(me.patch(&format!("{PODS}/other/status"), "merge", &running).await.code, 403);
    assert_eq!(
        me.patch(&format!("{PODS}/mine"), "merge", &json!({"metadata": {"labels": {"a": "b"}}})).await.code,
        403
    );
    assert_eq!(me.delete(&format!("{PODS}/other")).await.code, 403);
    assert_eq!(me.post(PODS, &pod("new")).await.code, 403);
    assert_eq!(me.post(CONFIG_MAPS, &config_map("a")).await.code, 403);
    assert_eq!(me.delete("/api/v1/nodes/n1").await.code, 403);

    let request =
        |kind: &str, name: &str| json!({"spec": {"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name}}});
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    assert_eq!(me.post(tokens, &request("Pod", "mine")).await.code, 201);
    assert_eq!(me.post(tokens, &request("Pod", "other")).await.code, 403);
    assert_eq!(me.post(tokens, &json!({"spec": {}})).await.code, 403);
    assert_eq!(me.delete(&format!("{PODS}/mine?gracePeriodSeconds=0")).await.code, 200);
}

#[tokio::test]
async fn a_node_reads_what_its_pods_refer_to_as_long_as_they_run() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let me = cluster.user(node("n1"));
    admin.create(CONFIG_MAPS, &config_map("c")).await;
    admin.create(CONFIG_MAPS, &config_map("other")).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    admin.create(secrets, &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})).await;
    let (map, secret) = (format!("{CONFIG_MAPS}/c"), format!("{secrets}/s"));
    let watch = format!("{secrets}?fieldSelector=metadata.name%3Ds");
    assert_eq!(me.get(&map).await.code, 403);
    let mut using = pod("p");
    using["spec"]["volumes"] = json!([{"name": "c", "configMap": {"name": "c"}}]);
    using["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "s"}}]);
    admin.create(PODS, &using).await;
    assert_eq!(me.get(&map).await.code, 403, "it runs nowhere yet");
    let target = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(admin.post(&format!("{PODS}/p/binding"), &target).await.code, 201);
    for path in [&map, &secret, &watch] {
        assert_eq!(me.get(path).await.code, 200, "{path}");
        assert_eq!(cluster.user(node("n2")).get(path).await.code, 403, "{path}");
    }
    let refused = me.get(&format!("{CONFIG_MAPS}/other")).await;
    assert!(
        refused.body["message"].as_str().unwrap().ends_with("no relationship found between node 'n1' and this object")
    );
    assert_eq!(me.get(secrets).await.code, 403);
    assert_eq!(me.get("/api/v1/namespaces/default/serviceaccounts/default").await.code, 200);
    assert_eq!(me.delete(&secret).await.code, 403);
    assert_eq!(admin.delete(&format!("{PODS}/p?gracePeriodSeconds=0")).await.code, 200);
    assert_eq!(me.get(&map).await.code, 403);
}

#[tokio::test]
async fn tokens_live_as_long_as_what_they_are_bound_to() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    admin.create(PODS, &pod("p")).await;
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let ask = |spec: Value| {
        let admin = admin.clone();
        async move { admin.post(tokens, &json!({"spec": spec})).await }
    };
    let bound = ask(json!({"boundObjectRef": {"kind": "Pod", "name": "p"}})).await.body["status"]["token"].clone();
    let review = |token: &Value, audiences: Value| {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": audiences}});
        let admin = admin.clone();
        async move { admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &body).await.body["status"].clone() }
    };
    let good = review(&bound, json!([])).await;
    assert_eq!(good["authenticated"], true);
    assert_eq!(good["user"]["extra"]["authentication.kubernetes.io/pod-name"][0], "p");
    assert_eq!(good["user"]["groups"][1], "system:serviceaccounts:default");
    assert_eq!(review(&bound, json!(["vault"])).await["authenticated"], Value::Null);
    admin.delete(&format!("{PODS}/p")).await;
    assert_eq!(review(&bound, json!([])).await["error"], "pod of the token no longer exists");
    admin.create(PODS, &pod("p")).await;
    assert_eq!(review(&bound, json!([])).await["authenticated"], Value::Null, "another pod of the same name");
    let other = ask(json!({"audiences": ["vault"], "expirationSeconds": 600})).await.body["status"]["token"].clone();
    assert_eq!(review(&other, json!(["vault"])).await["authenticated"], true);
    assert_eq!(ask(json!({"expirationSeconds": 5})).await.code, 422);
    let forged = format!("{}x", other.as_str().unwrap());
    assert_eq!(review(&forged.into(), json!(["vault"])).await["authenticated"], Value::Null);
    admin.delete("/api/v1/namespaces/default/serviceaccounts/default").await;
    assert_eq!(review(&other, json!(["vault"])).await["authenticated"], Value::Null);
}

#[tokio::test]
async fn impersonation_takes_rights_away_and_must_be_allowed() {
    let cluster = Cluster::start().await;
    let jane = cluster.admin().header("impersonate-user", "jane").header("impersonate-group", "devs");
    let refused = jane.get(PODS).await;
    assert_eq!(refused.code, 403);
    assert!(refused.body["message"].as_str().unwrap().contains("User \"jane\""));
    let masters = cluster
        .user(account("default", "r"))
        .header("impersonate-user", "root")
        .header("impersonate-group", "system:masters");
    assert_eq!(masters.get(PODS).await.code, 403);
    assert_eq!(cluster.admin().header("impersonate-group", "devs").get(PODS).await.code, 400);
}

#[tokio::test]
async fn bootstrap_tokens_are_users_until_they_expire() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let secret = |expiration: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bootstrap-token-abcdef"},
            "type": "bootstrap.kubernetes.io/token",
            "stringData": {
                "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
                "auth-extra-groups": "system:bootstrappers:workers", "expiration": expiration,
            },
        })
    };
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    admin.create(secrets, &secret("2999-01-01T00:00:00Z")).await;
    let review = async |token: &str| {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        admin.create("/apis/authentication.k8s.io/v1/tokenreviews", &review).await["status"].clone()
    };
    let known = review("abcdef.0123456789abcdef").await;
    assert_eq!(known["authenticated"], true, "{known}");
    let groups = json!(["system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"]);
    assert_eq!((&known["user"]["username"], &known["user"]["groups"]), (&json!("system:bootstrap:abcdef"), &groups));
    assert!(review("abcdef.0123456789abcdee").await.get("authenticated").is_none());
    let over = json!({"stringData": {"expiration": "2020-01-01T00:00:00Z"}});
    assert_eq!(admin.patch(&format!("{secrets}/bootstrap-token-abcdef"), "merge", &over).await.code, 200);
    assert!(review("abcdef.0123456789abcdef").await.get("authenticated").is_none());
}

/// One HTTPS request with the tools at hand.
async fn curl(url: &str, args: &[&str]) -> (String, String) {
    let mut command = tokio::process::Command::new("curl");
    command.args(["-s", "-o", "-", "-w", "\n%{http_code}"]).args(args).arg(url);
    let output = command.output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').unwrap();
    (code.to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_https_strangers_learn_only_that_the_server_lives() {
    if tokio::process::Command::new("curl").arg("--version").output().await.is_err() {
        println!("skipped: needs curl");
        return;
    }
    let cluster = Cluster::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let drain = CancellationToken::new();
    let serving = tokio::spawn(cluster.server.clone().serve(listener, drain.clone()));
    let dir = cluster.pki.path().join("pki");
    let file = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let ca = file("ca.crt");
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping", "/version"] {
        assert_eq!(curl(&format!("{base}{path}"), &["--cacert", &ca]).await.0, "200", "{path}");
    }
    for path in ["/api", "/api/v1/pods", "/nothing", "/metrics"] {
        let (code, body) = curl(&format!("{base}{path}"), &["--cacert", &ca]).await;
        assert_eq!(code, "401", "{path}");
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["reason"], "Unauthorized");
    }
    let pods = format!("{base}/api/v1/pods");
    let auth = |token: &str| format!("Authorization: Bearer {token}");
    assert_eq!(curl(&pods, &["--cacert", &ca, "-H", &auth("wrong")]).await.0, "401");
    assert_eq!(curl(&pods, &["--cacert", &ca, "-H", &auth("abcdef.0123456789abcdef")]).await.0, "401");
    assert_eq!(curl(&pods, &["--cacert", &ca, "-H", &auth("the-admin-token")]).await.0, "200");
    for version in ["--http1.1", "--http2"] {
        let args = ["--cacert", &ca, "--cert", &file("admin.crt"), "--key", &file("admin.key"), version];
        assert_eq!(curl(&pods, &args).await.0, "200", "{version}");
    }
    let agent = cluster.server.pki().agent("n1").unwrap();
    drop(agent);
    let args = ["--cacert", &ca, "--cert", &file("agent-n1.crt"), "--key", &file("agent-n1.key")];
    assert_eq!(curl(&format!("{pods}?fieldSelector=spec.nodeName%3Dn1"), &args).await.0, "200");
    assert_eq!(curl(&format!("{base}/apis/apps/v1/deployments"), &args).await.0, "403");
    // A watch under way ends when the server drains, and the server with it.
    let watch = format!("{base}/api/v1/pods?watch=1");
    let key = auth("the-admin-token");
    let args = ["--cacert", ca.as_str(), "-H", key.as_str()];
    let watching = curl(&watch, &args);
    let draining = async {
        let mut more = cluster.admin().watch(&format!("{CONFIG_MAPS}?watch=1")).await;
        assert_eq!(more.brief().await.0, "ADDED");
        drain.cancel();
        assert!(more.next().await.is_none());
    };
    cluster.admin().create(CONFIG_MAPS, &config_map("a")).await;
    let _ = tokio::join!(watching, draining);
    tokio::time::timeout(std::time::Duration::from_secs(15), serving).await.unwrap().unwrap();
    assert_eq!(cluster.admin().get("/readyz").await.code, 500);
}
