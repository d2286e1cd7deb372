//! Admission webhooks on loopback.

use std::sync::Arc;

use crate::common::hooks::{Hooks, MUTATING, VALIDATING, configuration, patch};
use crate::common::*;
use serde_json::{Value, json};

#[tokio::test]
async fn webhooks_change_and_refuse_what_their_rules_name() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let hooks = Hooks::serve(&cluster, |path, request| match path {
        "/label.x.example" => patch(&json!([{"op": "add", "path": "/metadata/labels", "value": {"seen": "yes"}}])),
        _ if request["object"]["data"]["k"] == "bad" => {
            json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "bad data"}})
        }
        _ => json!({"allowed": true, "warnings": ["look out"]}),
    })
    .await;
    let label = hooks.hook("label.x.example", &["CREATE"], &["configmaps"], json!({}));
    admin.create(MUTATING, &configuration("MutatingWebhookConfiguration", "m", &[label])).await;
    let check = hooks.hook("check.x.example", &["CREATE", "UPDATE", "DELETE"], &["configmaps"], json!({}));
    admin.create(VALIDATING, &configuration("ValidatingWebhookConfiguration", "v", &[check])).await;
    let made = admin.post(CONFIG_MAPS, &config_map("a")).await;
    assert_eq!((made.code, &made.body["metadata"]["labels"]["seen"]), (201, &"yes".into()), "{}", made.body);
    assert_eq!(made.headers["warning"], r#"299 - "look out""#);
    assert_eq!(hooks.paths(), ["/label.x.example", "/check.x.example"]);
    let refused = admin.patch(&format!("{CONFIG_MAPS}/a"), "merge", &json!({"data": {"k": "bad"}})).await;
    let want = r#"admission webhook "check.x.example" denied the request: bad data"#;
    assert_eq!((refused.code, refused.body["message"].as_str()), (403, Some(want)));
    let (_, request) = hooks.seen.lock().pop().unwrap();
    assert_eq!((&request["operation"], &request["oldObject"]["data"]["k"]), (&"UPDATE".into(), &"v".into()));
    assert_eq!(request["userInfo"]["username"], "kubernetes-admin");
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(admin.delete(&format!("{CONFIG_MAPS}/a")).await.code, 200);
    let (_, request) = hooks.seen.lock().pop().unwrap();
    assert_eq!((&request["operation"], &request["object"]), (&"DELETE".into(), &Value::Null));
    assert_eq!(request["oldObject"]["metadata"]["name"], "a");
    // Configurations themselves are never asked about.
    let all = hooks.hook("all.x.example", &["*"], &["*"], json!({}));
    admin.create(VALIDATING, &configuration("ValidatingWebhookConfiguration", "w", &[all])).await;
    hooks.paths();
    assert_eq!(admin.delete(&format!("{VALIDATING}/w")).await.code, 200);
    assert!(hooks.paths().is_empty());
}

#[tokio::test]
async fn the_failure_policy_decides_about_those_that_do_not_answer() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let hooks = Hooks::serve(&cluster, |_, _| json!({"allowed": true})).await;
    let dead = |policy: &str| {
        let gone = json!({"url": "https://127.0.0.1:1/x", "caBundle": hooks.bundle});
        hooks.hook(
            "dead.x.example",
            &["CREATE"],
            &["configmaps"],
            json!({"failurePolicy": policy, "clientConfig": gone}),
        )
    };
    let path = format!("{VALIDATING}/v");
    let with = |policy: &str| configuration("ValidatingWebhookConfiguration", "v", &[dead(policy)]);
    admin.create(VALIDATING, &with("Fail")).await;
    let refused = admin.post(CONFIG_MAPS, &config_map("a")).await;
    let message = refused.body["message"].as_str().unwrap();
    let want = r#"Internal error occurred: failed calling webhook "dead.x.example": failed to call webhook: Post "https://127.0.0.1:1/x?timeout=10s": dial tcp 127.0.0.1:1: connect: connection refused"#;
    assert!(refused.code == 500 && message == want, "{message}");
    assert_eq!(admin.put(&path, &with("Ignore")).await.code, 200);
    admin.create(CONFIG_MAPS, &config_map("a")).await;
    // Another authority is another server.
    let mut wrong = with("Fail");
    let url = format!("https://127.0.0.1:{}/x", hooks.port);
    wrong["webhooks"][0]["clientConfig"] = json!({"url": url});
    assert_eq!(admin.put(&path, &wrong).await.code, 200);
    assert_eq!(admin.post(CONFIG_MAPS, &config_map("b")).await.code, 500);
}

#[tokio::test]
async fn selectors_subresources_and_dry_runs_are_heeded() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let hooks = Hooks::serve(&cluster, |_, _| json!({"allowed": true})).await;
    let list = [
        hooks.hook("a.x.example", &["*"], &["configmaps"], json!({"objectSelector": {"matchLabels": {"app": "x"}}})),
        hooks.hook("b.x.example", &["*"], &["configmaps"], json!({"namespaceSelector": {"matchLabels": {"no": "no"}}})),
        hooks.hook("c.x.example", &["UPDATE"], &["deployments/scale"], json!({})),
    ];
    admin.create(VALIDATING, &configuration("ValidatingWebhookConfiguration", "v", &list)).await;
    admin.create(CONFIG_MAPS, &config_map("plain")).await;
    admin.create(CONFIG_MAPS, &labelled("marked", "app", "x")).await;
    assert_eq!(hooks.paths(), ["/a.x.example"]);
    admin.create(DEPLOYMENTS, &deployment("d")).await;
    let scaled = admin.patch(&format!("{DEPLOYMENTS}/d/scale"), "merge", &json!({"spec": {"replicas": 3}})).await;
    assert_eq!(scaled.code, 200, "{}", scaled.body);
    let (path, request) = hooks.seen.lock().pop().unwrap();
    assert_eq!((path.as_str(), &request["subResource"]), ("/c.x.example", &"scale".into()));
    assert_eq!((&request["object"]["kind"], &request["object"]["spec"]["replicas"]), (&"Scale".into(), &json!(3)));
    let dry = admin.post(&format!("{CONFIG_MAPS}?dryRun=All"), &labelled("dry", "app", "x")).await;
    assert_eq!(dry.code, 201, "{}", dry.body);
    let (_, request) = hooks.seen.lock().pop().unwrap();
    assert_eq!((&request["dryRun"], &request["options"]["dryRun"]), (&json!(true), &json!(["All"])));
}

#[tokio::test]
async fn a_service_is_asked_at_its_endpoint_and_again_after_later_changes() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let hooks = Hooks::serve(&cluster, |path, request| {
        let containers = request["object"]["spec"]["containers"].as_array().unwrap();
        if path == "/b" && containers.len() == 1 {
            let sidecar = json!({"name": "sidecar", "image": "s"});
            return patch(&json!([{"op": "add", "path": "/spec/containers/-", "value": sidecar}]));
        }
        json!({"allowed": true})
    })
    .await;
    let reached = |name: &str, path: &str, more: Value| {
        let service = json!({"namespace": "default", "name": "hook", "path": path, "port": 8443});
        let mut hook = hooks.hook(name, &["CREATE"], &["pods"], more);
        hook["clientConfig"] = json!({"service": service, "caBundle": hooks.bundle});
        hook
    };
    let list = [
        reached("a.x.example", "/a", json!({"reinvocationPolicy": "IfNeeded"})),
        reached("b.x.example", "/b", json!({})),
    ];
    admin.create(MUTATING, &configuration("MutatingWebhookConfiguration", "m", &list)).await;
    let refused = admin.post(PODS, &pod("p")).await;
    assert!(refused.body["message"].as_str().unwrap().ends_with(r#"service "hook" not found"#), "{}", refused.body);
    let spec = json!({"ports": [{"port": 8443}], "clusterIP": "None"});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"}, "spec": spec});
    admin.create(SERVICES, &service).await;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": hooks.port, "protocol": "TCP"}],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let mut made = admin.create(slices, &slice).await;
    // Loopback is no valid endpoint; the store holds one here as only this test may put it there.
    made["endpoints"][0]["addresses"] = json!(["127.0.0.1"]);
    made["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let key = "/registry/discovery.k8s.io/endpointslices/default/hook-1";
    let op = store::Op::Put { key: key.into(), value: made.to_string().into(), lease_ttl_s: None };
    cluster.store.txn(store::Txn { compare: Vec::new(), ops: vec![op] }).await.unwrap();
    let made = admin.create(PODS, &pod("p")).await;
    assert_eq!(hooks.paths(), ["/a", "/b", "/a"]);
    // What the server itself adds is in the container that came late, too.
    let sidecar = &made["spec"]["containers"][1];
    assert_eq!(sidecar["volumeMounts"][0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(sidecar["terminationMessagePath"], "/dev/termination-log");
}

#[tokio::test]
async fn reviews_and_tokens_pass_the_webhooks_and_no_policy() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let hooks = Hooks::serve(&cluster, |path, request| match path {
        "/short.x.example" => patch(&json!([{"op": "replace", "path": "/spec/expirationSeconds", "value": 700}])),
        _ => json!({"allowed": request["object"]["spec"]["token"] != "bad", "status": {"code": 403, "message": "no"}}),
    })
    .await;
    let short = hooks.hook("short.x.example", &["CREATE"], &["serviceaccounts/token"], json!({}));
    admin.create(MUTATING, &configuration("MutatingWebhookConfiguration", "m", &[short])).await;
    let all = hooks.hook("all.x.example", &["CREATE"], &["tokenreviews", "subjectaccessreviews"], json!({}));
    admin.create(VALIDATING, &configuration("ValidatingWebhookConfiguration", "v", &[all])).await;
    let request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["a"]}});
    let token = admin.create("/api/v1/namespaces/default/serviceaccounts/default/token", &request).await;
    assert_eq!(token["spec"]["expirationSeconds"], 700, "{token}");
    let seen = hooks.seen.lock().drain(..).next().unwrap().1;
    assert_eq!(
        (&seen["kind"]["kind"], &seen["resource"]["resource"]),
        (&json!("TokenRequest"), &json!("serviceaccounts"))
    );
    assert_eq!((&seen["subResource"], &seen["name"]), (&json!("token"), &json!("default")));
    assert_eq!(seen["object"]["spec"]["expirationSeconds"], 3600);
    let review = |token: &str| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let refused = admin.post(reviews, &review("bad")).await;
    assert_eq!((refused.code, hooks.paths()), (403, vec!["/all.x.example".to_owned()]), "{}", refused.body);
    assert_eq!(admin.post(reviews, &review("other")).await.code, 201);
    // Policies leave reviews alone, whatever they say they match.
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"},
        "spec": {"validations": [{"expression": "false"}], "matchConstraints": {"resourceRules": [{
            "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "operations": ["*"],
        }]}},
    });
    let group = "/apis/admissionregistration.k8s.io/v1";
    admin.create(&format!("{group}/validatingadmissionpolicies"), &policy).await;
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]},
    });
    admin.create(&format!("{group}/validatingadmissionpolicybindings"), &binding).await;
    assert_eq!(admin.post(reviews, &review("other")).await.code, 201);
    assert_eq!(admin.post(CONFIG_MAPS, &config_map("c")).await.code, 422);
}

#[tokio::test]
async fn match_conditions_ask_for_rights_and_compile_or_are_refused() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let hooks = Hooks::serve(&cluster, |_, _| json!({"allowed": false})).await;
    let conditions = json!({"matchConditions": [
        {"name": "mortal", "expression": "!authorizer.group('').resource('secrets').check('break-glass').allowed()"},
        {"name": "not-me", "expression": "object.metadata.name != 'skip-me'"},
    ]});
    let hook = hooks.hook("no.x.example", &["CREATE"], &["configmaps"], conditions);
    admin.create(VALIDATING, &configuration("ValidatingWebhookConfiguration", "v", &[hook])).await;
    assert_eq!(admin.post(CONFIG_MAPS, &config_map("a")).await.code, 201);
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}],
    });
    admin.create(&format!("{rbac}/roles"), &role).await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}],
    });
    admin.create(&format!("{rbac}/rolebindings"), &binding).await;
    let eve = cluster.user(apiserver::UserInfo::new("eve", &[]));
    assert_eq!(eve.post(CONFIG_MAPS, &config_map("b")).await.code, 400);
    assert_eq!(eve.post(CONFIG_MAPS, &config_map("skip-me")).await.code, 201);
    for (path, kind) in [(VALIDATING, "ValidatingWebhookConfiguration"), (MUTATING, "MutatingWebhookConfiguration")] {
        let conditions = json!({"matchConditions": [{"name": "bad", "expression": "... [] bad expression"}]});
        let hook = hooks.hook("bad.x.example", &["CREATE"], &["configmaps"], conditions);
        let refused = admin.post(path, &configuration(kind, "bad", &[hook])).await;
        assert_eq!(refused.code, 422);
        assert!(refused.body["message"].as_str().unwrap().contains("compilation failed"), "{}", refused.body);
    }
}

#[tokio::test]
async fn what_webhooks_do_is_in_the_audit_log() {
    let dir = tempfile::tempdir().unwrap();
    let pki = tempfile::tempdir().unwrap();
    let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
    let rules = "rules: [{level: Request, resources: [{group: '', resources: [configmaps]}]}]";
    std::fs::write(
        &policy,
        format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n{rules}"),
    )
    .unwrap();
    let mut config = apiserver::Config::new(
        pki.path().join("pki"),
        "127.0.0.1:6443".parse().unwrap(),
        "10.96.0.0/20".parse().unwrap(),
    );
    config.audit = Some(apiserver::AuditConfig { policy, log: log.clone(), max_bytes: 1 << 20, max_backups: 2 });
    let store: Arc<dyn store::Store> = Arc::new(store::memory::MemoryStore::new());
    let server = apiserver::ApiServer::new(store.clone(), config).await.unwrap();
    let cluster = Cluster { server, store, pki };
    let admin = cluster.admin();
    let hooks = Hooks::serve(&cluster, |path, _| match path {
        "/label.x.example" => patch(&json!([{"op": "add", "path": "/metadata/labels", "value": {"seen": "yes"}}])),
        _ => json!({"allowed": true, "auditAnnotations": {"key": "value"}}),
    })
    .await;
    let label = hooks.hook("label.x.example", &["CREATE"], &["configmaps"], json!({}));
    admin.create(MUTATING, &configuration("MutatingWebhookConfiguration", "m", &[label])).await;
    let check = hooks.hook("check.x.example", &["CREATE"], &["configmaps"], json!({}));
    let mut absent = hooks.hook("absent.x.example", &["CREATE"], &["configmaps"], json!({"failurePolicy": "Ignore"}));
    absent["clientConfig"]["url"] = "https://127.0.0.253:9/".into();
    admin.create(VALIDATING, &configuration("ValidatingWebhookConfiguration", "v", &[check, absent])).await;
    admin.create(CONFIG_MAPS, &config_map("c")).await;
    let text = std::fs::read_to_string(&log).unwrap();
    let event: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let annotations = &event["annotations"];
    assert_eq!(annotations["check.x.example/key"], "value", "{event}");
    let read = |key: &str| -> Value { serde_json::from_str(annotations[key].as_str().unwrap()).unwrap() };
    let mutated = read("mutation.webhook.admission.k8s.io/round_0_index_0");
    assert_eq!(mutated, json!({"configuration": "m", "webhook": "label.x.example", "mutated": true}));
    let patched = read("patch.webhook.admission.k8s.io/round_0_index_0");
    assert_eq!((&patched["patchType"], &patched["patch"][0]["op"]), (&json!("JSONPatch"), &json!("add")));
    let open = "failed-open.validating.webhook.admission.k8s.io/round_0_index_1";
    assert_eq!(annotations[open], "absent.x.example");
}
