//! Roles, bindings, and what follows from them.

use crate::common::*;
use apiserver::UserInfo;
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn role(kind: &str, name: &str, rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules})
}

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": [group], "resources": resources})
}

fn binding(kind: &str, name: &str, role: [&str; 2], subject: Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "subjects": [subject],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role[0], "name": role[1]},
    })
}

fn user(name: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name})
}

fn roles(namespace: &str) -> String {
    format!("{RBAC}/namespaces/{namespace}/roles")
}

fn bindings(namespace: &str) -> String {
    format!("{RBAC}/namespaces/{namespace}/rolebindings")
}

#[tokio::test]
async fn a_role_counts_in_its_namespace_as_long_as_it_is_bound() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let ann = cluster.user(UserInfo::new("ann", &["devs"]));
    assert_eq!(ann.get(PODS).await.code, 403);
    admin.create(&roles("default"), &role("Role", "reader", json!([rule(&["get", "list"], "", &["pods"])]))).await;
    let group = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "devs"});
    admin.create(&bindings("default"), &binding("RoleBinding", "b", ["Role", "reader"], group)).await;
    assert_eq!(ann.get(PODS).await.code, 200);
    assert_eq!(ann.get(&format!("{PODS}?watch=1")).await.code, 403);
    assert_eq!(ann.get("/api/v1/pods").await.code, 403);
    assert_eq!(ann.get("/api/v1/namespaces/kube-system/pods").await.code, 403);
    assert_eq!(ann.get(&format!("{PODS}/x")).await.code, 404);
    assert_eq!(ann.get(&format!("{PODS}/x/log")).await.code, 403);
    // The role changes, then the binding goes.
    let path = format!("{}/reader", roles("default"));
    let changed = json!({"rules": [rule(&["watch"], "", &["pods"])]});
    assert_eq!(admin.patch(&path, "merge", &changed).await.code, 200);
    assert_eq!(ann.get(PODS).await.code, 403);
    let changed = json!({"rules": [rule(&["list"], "", &["*"])]});
    assert_eq!(admin.patch(&path, "merge", &changed).await.code, 200);
    assert_eq!(ann.get(CONFIG_MAPS).await.code, 200);
    assert_eq!(admin.delete(&format!("{}/b", bindings("default"))).await.code, 200);
    assert_eq!(ann.get(CONFIG_MAPS).await.code, 403);
}

#[tokio::test]
async fn accounts_names_and_paths_are_granted() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let own = "system:serviceaccounts:default";
    let robot = cluster.user(UserInfo::new("system:serviceaccount:default:robot", &["system:serviceaccounts", own]));
    let rules = json!([
        {"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"]},
        {"verbs": ["get"], "nonResourceURLs": ["/metrics"]},
    ]);
    admin.create(&format!("{RBAC}/clusterroles"), &role("ClusterRole", "own", rules)).await;
    let account = json!({"kind": "ServiceAccount", "name": "robot", "namespace": "default"});
    let bind = binding("ClusterRoleBinding", "own", ["ClusterRole", "own"], account);
    admin.create(&format!("{RBAC}/clusterrolebindings"), &bind).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(robot.get(&format!("{secrets}/mine")).await.code, 404);
    assert_eq!(robot.get(&format!("{secrets}/other")).await.code, 403);
    assert_eq!(robot.get(secrets).await.code, 403);
    assert_eq!(robot.get(&format!("{secrets}?fieldSelector=metadata.name%3Dmine")).await.code, 200);
    assert_eq!(robot.get(&format!("{secrets}?fieldSelector=metadata.name!%3Dmine")).await.code, 403);
    assert_ne!(robot.get("/metrics").await.code, 403);
    // A role that is not there is said to be missing.
    let bind = binding("RoleBinding", "lost", ["Role", "gone"], user("bob"));
    admin.create(&bindings("default"), &bind).await;
    let refused = cluster.user(UserInfo::new("bob", &[])).get(PODS).await;
    let want = r#"pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "default": RBAC: role.rbac.authorization.k8s.io "gone" not found"#;
    assert_eq!((refused.code, refused.body["message"].as_str().unwrap()), (403, want));
}

#[tokio::test]
async fn a_new_cluster_has_the_default_roles_and_restores_them() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let all = admin.get(&format!("{RBAC}/clusterroles")).await.body;
    let names: Vec<&str> =
        all["items"].as_array().unwrap().iter().map(|r| r["metadata"]["name"].as_str().unwrap()).collect();
    for name in ["cluster-admin", "admin", "edit", "view", "system:basic-user", "system:controller:job-controller"] {
        assert!(names.contains(&name), "{name} of {names:?}");
    }
    let path = format!("{RBAC}/clusterroles/system:basic-user");
    assert_eq!(admin.patch(&path, "merge", &json!({"rules": []})).await.code, 200);
    let config = apiserver::Config::new(
        cluster.pki.path().join("pki"),
        "127.0.0.1:6443".parse().unwrap(),
        "10.96.0.0/20".parse().unwrap(),
    );
    let again = apiserver::ApiServer::new(cluster.store.clone(), config).await.unwrap();
    let revision = again.revision();
    let restored = Cluster { server: again, ..cluster };
    let rules = restored.admin().get(&path).await.body["rules"].as_array().unwrap().len();
    assert_eq!(rules, 2);
    assert_eq!(restored.admin().get(&path).await.body["metadata"]["resourceVersion"], revision.to_string());
}

#[tokio::test]
async fn nobody_grants_what_he_does_not_have() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let ann = cluster.user(UserInfo::new("ann", &[]));
    let rules = json!([
        rule(&["*"], "rbac.authorization.k8s.io", &["roles", "rolebindings", "clusterroles"]),
        rule(&["get"], "", &["pods"]),
    ]);
    let mut rules = rules;
    rules[0]["verbs"] = json!(["get", "list", "create", "update", "patch"]);
    admin.create(&format!("{RBAC}/clusterroles"), &role("ClusterRole", "granter", rules)).await;
    let bind = binding("ClusterRoleBinding", "granter", ["ClusterRole", "granter"], user("ann"));
    admin.create(&format!("{RBAC}/clusterrolebindings"), &bind).await;
    ann.create(&roles("default"), &role("Role", "pods", json!([rule(&["get"], "", &["pods"])]))).await;
    let wide = role("Role", "wide", json!([rule(&["get", "list"], "", &["pods", "secrets"])]));
    let refused = ann.post(&roles("default"), &wide).await;
    let want = "roles.rbac.authorization.k8s.io \"wide\" is forbidden: user \"ann\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}";
    assert_eq!((refused.code, refused.body["message"].as_str().unwrap()), (403, want));
    let path = format!("{}/pods", roles("default"));
    let more = json!({"rules": [rule(&["delete"], "", &["pods"])]});
    assert_eq!(ann.patch(&path, "merge", &more).await.code, 403);
    assert_eq!(ann.patch(&path, "merge", &json!({"metadata": {"labels": {"a": "b"}}})).await.code, 200);
    // Bindings: to what is held, to what is not, to what is not there.
    let to = |name: &str, kind: &str, role: &str| binding("RoleBinding", name, [kind, role], user("bob"));
    ann.create(&bindings("default"), &to("ok", "Role", "pods")).await;
    let refused = ann.post(&bindings("default"), &to("admin", "ClusterRole", "cluster-admin")).await;
    assert!(
        refused.code == 403 && refused.body["message"].as_str().unwrap().contains("not currently held"),
        "{}",
        refused.body
    );
    assert_eq!(ann.post(&bindings("default"), &to("none", "Role", "none")).await.code, 404);
    let mut collector = role("ClusterRole", "collector", json!([]));
    collector["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]});
    let refused = ann.post(&format!("{RBAC}/clusterroles"), &collector).await;
    assert!(
        refused.body["message"]
            .as_str()
            .unwrap()
            .ends_with("must have cluster-admin privileges to use the aggregationRule")
    );
    // The verbs that lead around it.
    let rules = json!([
        rule(&["escalate"], "rbac.authorization.k8s.io", &["roles"]),
        {"verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["cluster-admin"]},
    ]);
    admin.create(&roles("default"), &role("Role", "around", rules)).await;
    let bind = binding("RoleBinding", "around", ["Role", "around"], user("ann"));
    admin.create(&bindings("default"), &bind).await;
    ann.create(&roles("default"), &wide).await;
    ann.create(&bindings("default"), &to("admin", "ClusterRole", "cluster-admin")).await;
    assert_eq!(ann.post(&bindings("default"), &to("edit", "ClusterRole", "system:aggregate-to-edit")).await.code, 403);
}

#[tokio::test]
async fn reviews_tell_what_is_allowed_and_why() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let ann = cluster.user(UserInfo::new("ann", &[]));
    let status = ann.post(path, &review).await.body["status"].clone();
    assert_eq!(status["incomplete"], false);
    let of = |status: &Value, verb: &str, resource: &str| {
        status["resourceRules"].as_array().unwrap().iter().any(|r| {
            r["verbs"].as_array().unwrap().contains(&json!(verb))
                && r["resources"].as_array().unwrap().contains(&json!(resource))
        })
    };
    assert!(of(&status, "create", "selfsubjectaccessreviews") && !of(&status, "list", "pods"));
    assert!(status["nonResourceRules"].to_string().contains("/healthz"));
    admin.create(&roles("default"), &role("Role", "pods", json!([rule(&["list"], "", &["pods"])]))).await;
    admin.create(&bindings("default"), &binding("RoleBinding", "b", ["Role", "pods"], user("ann"))).await;
    assert!(of(&ann.post(path, &review).await.body["status"], "list", "pods"));
    assert_eq!(ann.post(path, &json!({"spec": {}})).await.code, 400);
    let ask = |verb: &str| {
        json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": "ann", "resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}},
        })
    };
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    assert_eq!(ann.post(path, &ask("list")).await.code, 403);
    let status = admin.post(path, &ask("list")).await.body["status"].clone();
    let why = r#"RBAC: allowed by RoleBinding "b/default" of Role "pods" to User "ann""#;
    assert_eq!(status, json!({"allowed": true, "reason": why}));
    assert_eq!(admin.post(path, &ask("get")).await.body["status"], json!({"allowed": false}));
}

#[tokio::test]
async fn impersonation_is_a_right_for_each_part() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let rules = json!([
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"]},
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["groups"], "resourceNames": ["devs"]},
        {"verbs": ["impersonate"], "apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "resourceNames": ["view"]},
    ]);
    admin.create(&format!("{RBAC}/clusterroles"), &role("ClusterRole", "as", rules)).await;
    let bind = binding("ClusterRoleBinding", "as", ["ClusterRole", "as"], user("ann"));
    admin.create(&format!("{RBAC}/clusterrolebindings"), &bind).await;
    let ann = cluster.user(UserInfo::new("ann", &[])).header("impersonate-user", "bob");
    let who = |client: Client| async move {
        client.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await
    };
    let bob = who(ann.header("impersonate-group", "devs").header("impersonate-extra-scopes", "view")).await;
    let want = json!({"username": "bob", "groups": ["devs", "system:authenticated"], "extra": {"scopes": ["view"]}});
    assert_eq!(bob.body["status"]["userInfo"], want);
    let refused = who(ann.header("impersonate-group", "system:masters")).await;
    let want = r#"groups "system:masters" is forbidden: User "ann" cannot impersonate resource "groups" in API group "" at the cluster scope"#;
    assert_eq!((refused.code, refused.body["message"].as_str().unwrap()), (403, want));
    assert_eq!(who(ann.header("impersonate-extra-scopes", "edit")).await.code, 403);
    assert_eq!(who(ann.header("impersonate-extra-other", "view")).await.code, 403);
    assert_eq!(who(ann.header("impersonate-uid", "1")).await.code, 403);
    let eve = cluster.user(UserInfo::new("eve", &[])).header("impersonate-user", "bob");
    assert_eq!(who(eve).await.code, 403);
}

#[tokio::test]
async fn constrained_impersonation_takes_the_right_to_be_and_the_right_to_do() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let authentication = "authentication.k8s.io";
    let rules = json!([
        {"verbs": ["impersonate:user-info"], "apiGroups": [authentication], "resources": ["users"], "resourceNames": ["bob"]},
        {"verbs": ["impersonate:user-info"], "apiGroups": [authentication], "resources": ["groups"], "resourceNames": ["*"]},
        {"verbs": ["impersonate-on:user-info:list"], "apiGroups": [""], "resources": ["configmaps"]},
        {"verbs": ["impersonate:associated-node"], "apiGroups": [authentication], "resources": ["nodes"]},
        {"verbs": ["impersonate-on:associated-node:list"], "apiGroups": [""], "resources": ["pods"]},
    ]);
    admin.create(&format!("{RBAC}/clusterroles"), &role("ClusterRole", "as", rules)).await;
    for (name, who) in [("ann", "ann"), ("agent", "system:serviceaccount:default:agent"), ("masters", "ann")] {
        let bind = binding("ClusterRoleBinding", name, ["ClusterRole", "as"], user(who));
        admin.create(&format!("{RBAC}/clusterrolebindings"), &bind).await;
    }
    let view = json!([{"verbs": ["list", "get"], "apiGroups": [""], "resources": ["configmaps"]}]);
    admin.create(&format!("{RBAC}/clusterroles"), &role("ClusterRole", "see", view)).await;
    let bind = binding("ClusterRoleBinding", "see", ["ClusterRole", "see"], user("bob"));
    admin.create(&format!("{RBAC}/clusterrolebindings"), &bind).await;
    let ann = cluster.user(UserInfo::new("ann", &[]));
    let bob = ann.header("impersonate-user", "bob");
    assert_eq!(bob.get(CONFIG_MAPS).await.code, 200);
    // What bob may do himself is not all that ann may do as bob.
    assert_eq!(bob.get(&format!("{CONFIG_MAPS}/kube-root-ca.crt")).await.code, 403);
    assert_eq!(ann.header("impersonate-user", "eve").get(CONFIG_MAPS).await.code, 403);
    assert_eq!(bob.header("impersonate-group", "system:masters").get(CONFIG_MAPS).await.code, 403);
    let mut agent = UserInfo::new("system:serviceaccount:default:agent", &[]);
    agent.extra.insert("authentication.kubernetes.io/node-name".into(), vec!["n1".into()]);
    let pods = |node: &str| {
        let as_node = cluster.user(agent.clone()).header("impersonate-user", &format!("system:node:{node}"));
        async move { as_node.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.code }
    };
    assert_eq!(pods("n1").await, 200);
    assert_eq!(pods("n2").await, 403);
}

#[tokio::test]
async fn what_makes_something_needs_the_right_to_make_it() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let ann = cluster.user(UserInfo::new("ann", &[]));
    let rules = json!([
        rule(&["update", "patch"], "", &["endpoints", "configmaps"]),
        rule(&["get"], "", &["pods/exec", "pods/log"]),
    ]);
    admin.create(&roles("default"), &role("Role", "changer", rules)).await;
    admin.create(&bindings("default"), &binding("RoleBinding", "b", ["Role", "changer"], user("ann"))).await;
    let all = "/api/v1/namespaces/default/endpoints";
    let new = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "new"}});
    let refused = ann.put(&format!("{all}/new"), &new).await;
    assert!(
        refused.code == 403 && refused.body["message"].as_str().unwrap().contains("cannot create"),
        "{}",
        refused.body
    );
    let applied = format!("{CONFIG_MAPS}/new?fieldManager=ann");
    assert_eq!(ann.patch(&applied, "apply", &config_map("new")).await.code, 403);
    admin.create(all, &new).await;
    assert_eq!(ann.put(&format!("{all}/new"), &new).await.code, 200);
    // Web sockets to a container begin with GET.
    let refused = ann.get(&format!("{PODS}/p/exec?command=sh")).await;
    assert!(
        refused.code == 403
            && refused.body["message"].as_str().unwrap().contains("cannot create resource \"pods/exec\"")
    );
    assert_eq!(ann.get(&format!("{PODS}/p/log")).await.code, 404);
}
