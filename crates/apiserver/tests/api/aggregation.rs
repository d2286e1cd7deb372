//! Group-versions that a Service serves: registered, discovered, passed on to, and missed when they are gone.

use std::convert::Infallible;
use std::net::SocketAddr;

use crate::common::*;
use apiserver::UserInfo;
use futures::StreamExt as _;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const SERVICES_OF_API: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const GROUP: &str = "/apis/wardle.example.com/v1alpha1";
const FLUNDERS: &str = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";
const NAME: &str = "v1alpha1.wardle.example.com";

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn whole(code: u16, value: &Value) -> Response<Body> {
    let body = Full::from(value.to_string()).boxed_unsync();
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

/// An aggregated API server in miniature: it serves flunders, and shows who asks.
async fn sample(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let all = |name: &str| -> Vec<String> {
        parts.headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    };
    let path = parts.uri.path();
    let verbs = json!(["create", "get", "list", "watch"]);
    match (parts.method.as_str(), path) {
        ("GET", GROUP) => whole(
            200,
            &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1", "resources": [
                {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": verbs},
                {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]}]}),
        ),
        ("GET", "/openapi/v3") => {
            let url = format!("/openapi/v3{GROUP}?hash=ABC");
            whole(200, &json!({"paths": {"apis/wardle.example.com/v1alpha1": {"serverRelativeURL": url}}}))
        }
        ("GET", "/openapi/v3/apis/wardle.example.com/v1alpha1") => {
            whole(200, &json!({"openapi": "3.0.0", "asked": parts.uri.query(), "user": all("x-remote-user")}))
        }
        ("GET", "/openapi/v2") => {
            let own = format!("{GROUP}/namespaces/{{namespace}}/flunders");
            let flunder = json!({"type": "object", "description": "A flunder.", "x-kubernetes-group-version-kind": [
                {"group": "wardle.example.com", "version": "v1alpha1", "kind": "Flunder"}]});
            whole(
                200,
                &json!({"swagger": "2.0", "paths": {own: {"get": {"operationId": "listFlunder"}}, "/healthz": {}},
                "definitions": {"com.example.wardle.v1alpha1.Flunder": flunder}}),
            )
        }
        ("GET", FLUNDERS) if parts.uri.query().is_some_and(|q| q.contains("watch=true")) => {
            let events = futures::stream::iter(0..2).map(|i| {
                let event = json!({"type": "ADDED", "object": {"metadata": {"name": format!("f{i}")}}});
                Ok(Frame::data(Bytes::from(format!("{event}\n"))))
            });
            // It stays open.
            let body = StreamBody::new(events.chain(futures::stream::pending())).boxed_unsync();
            Response::builder().header("content-type", "application/json").body(body).unwrap()
        }
        ("GET", FLUNDERS) => {
            let who = json!({"user": all("x-remote-user"), "groups": all("x-remote-group"),
                "scopes": all("x-remote-extra-scopes"), "authorization": all("authorization")});
            whole(200, &json!({"kind": "FlunderList", "who": who, "query": parts.uri.query()}))
        }
        ("GET", path) if path.ends_with("/moved") => {
            let reply = Response::builder().status(302).header("location", "https://elsewhere.example/");
            reply.body(Full::default().boxed_unsync()).unwrap()
        }
        ("POST", FLUNDERS) => {
            let sent = body.collect().await.unwrap().to_bytes();
            whole(201, &serde_json::from_slice(&sent).unwrap())
        }
        _ => whole(404, &json!({"kind": "Status", "code": 404, "message": path})),
    }
}

/// The server: it lets in whoever shows a certificate of the authority in the ConfigMap, and nobody else.
async fn serve(cluster: &Cluster, end: CancellationToken) -> SocketAddr {
    let map = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let data = until(&cluster.admin(), map, |answer| answer.code == 200).await.body["data"].clone();
    assert_eq!(data["requestheader-allowed-names"], r#"["front-proxy-client"]"#);
    assert_eq!(data["client-ca-file"], cluster.server.pki().ca_pem());
    let authority = data["requestheader-client-ca-file"].as_str().unwrap();
    let tls = wire::acceptor(cluster, &["sample-api.default.svc"], Some(authority));
    wire::serve(tls, end, sample).await
}

async fn until_condition(client: &Client, reason: &str) -> Value {
    let path = format!("{SERVICES_OF_API}/{NAME}");
    let answer = until(client, &path, |a| a.body["status"]["conditions"][0]["reason"] == reason).await;
    answer.body["status"]["conditions"][0].clone()
}

fn api_service(cluster: &Cluster) -> Value {
    json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": NAME}, "spec": {
        "group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
        "caBundle": cluster.bundle(), "service": {"namespace": "default", "name": "sample-api", "port": 7443}}})
}

/// Loopback is no valid endpoint; the store holds one here as only a test may put it there.
async fn slice(cluster: &Cluster, endpoints: Value, port: u16) {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "sample-api-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "sample-api"}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": port, "protocol": "TCP"}],
    });
    let key = "/registry/discovery.k8s.io/endpointslices/default/sample-api-1";
    let op = store::Op::Put { key: key.into(), value: slice.to_string().into(), lease_ttl_s: None };
    cluster.store.txn(store::Txn { compare: Vec::new(), ops: vec![op] }).await.unwrap();
}

async fn service(cluster: &Cluster) {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sample-api"},
        "spec": {"ports": [{"port": 7443, "targetPort": 443}]}});
    cluster.admin().create(SERVICES, &service).await;
}

/// A cluster with the sample server registered and available.
async fn registered() -> (Cluster, CancellationToken) {
    let (cluster, end) = (Cluster::start().await, CancellationToken::new());
    let address = serve(&cluster, end.clone()).await;
    service(&cluster).await;
    slice(&cluster, json!([{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]), address.port()).await;
    cluster.admin().create(SERVICES_OF_API, &api_service(&cluster)).await;
    let condition = until_condition(&cluster.admin(), "Passed").await;
    assert_eq!(
        (condition["status"].as_str(), condition["message"].as_str()),
        (Some("True"), Some("all checks passed"))
    );
    (cluster, end)
}

#[tokio::test]
async fn requests_are_passed_on_in_the_name_of_their_user() {
    let (cluster, _end) = registered().await;
    let mut ann = UserInfo::new("ann", &["devs", "system:masters"]);
    ann.extra.insert("scopes".into(), vec!["a".into(), "b".into()]);
    let ann = cluster.user(ann).header("x-remote-user", "root").header("authorization", "Bearer x");
    for _ in 0..3 {
        let list = ann.get(&format!("{FLUNDERS}?limit=5")).await;
        assert_eq!((list.code, list.body["query"].as_str()), (200, Some("limit=5")));
        assert_eq!(
            list.body["who"],
            json!({"user": ["ann"], "groups": ["devs", "system:masters", "system:authenticated"], "scopes": ["a", "b"],
                "authorization": []})
        );
    }
    let made = json!({"kind": "Flunder", "metadata": {"name": "f"}});
    let created = ann.post(FLUNDERS, &made).await;
    assert_eq!((created.code, &created.body), (201, &made));
    // What the other server refuses it refuses in its own words.
    let none = ann.get(&format!("{GROUP}/namespaces/default/fischers/x/deep/er")).await;
    assert_eq!((none.code, &none.body["kind"]), (404, &json!("Status")));
    assert_eq!(ann.get(&format!("{FLUNDERS}/moved")).await.code, 502);
    // The rights are this server's as well.
    let nobody = cluster.user(UserInfo::new("eve", &[]));
    assert_eq!(nobody.get(FLUNDERS).await.code, 403);
    let mut watch = ann.watch(&format!("{FLUNDERS}?watch=true")).await;
    assert_eq!(watch.brief().await, ("ADDED".into(), "f0".into()));
    assert_eq!(watch.brief().await, ("ADDED".into(), "f1".into()));
}

#[tokio::test]
async fn what_others_serve_is_discovered_and_explained() {
    let (cluster, _end) = registered().await;
    let admin = cluster.admin();
    let list = admin.get(GROUP).await;
    assert_eq!((list.code, list.body["resources"][0]["name"].as_str()), (200, Some("flunders")));
    let group = admin.get("/apis/wardle.example.com").await.body;
    assert_eq!(group["preferredVersion"]["groupVersion"], "wardle.example.com/v1alpha1");
    let groups = admin.get("/apis").await.body;
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "wardle.example.com"));
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = admin.header("accept", accept).get("/apis").await.body;
    let items = all["items"].as_array().unwrap();
    let wardle = items.iter().find(|i| i["metadata"]["name"] == "wardle.example.com").unwrap();
    let version = &wardle["versions"][0];
    assert_eq!(
        (version["freshness"].as_str(), version["resources"][0]["resource"].as_str()),
        (Some("Current"), Some("flunders"))
    );
    assert_eq!(version["resources"][0]["subresources"][0]["subresource"], "status");
    let index = admin.get("/openapi/v3").await.body;
    let url = index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"].as_str().unwrap();
    let ann = cluster.user(UserInfo::new("ann", &[]));
    let document = ann.get(url).await;
    assert_eq!((document.code, document.body["asked"].as_str()), (200, Some("hash=ABC")));
    assert_eq!(document.body["user"], json!(["system:kube-aggregator"]), "documents are the same for everybody");
    let models = ann.get("/openapi/v2").await.body;
    assert_eq!(models["definitions"]["com.example.wardle.v1alpha1.Flunder"]["description"], "A flunder.");
    assert!(models["paths"][format!("{GROUP}/namespaces/{{namespace}}/flunders")].is_object());
    assert!(models["paths"].get("/healthz").is_none() && models["paths"].get("/api/v1/pods").is_some());
}

#[tokio::test]
async fn the_condition_says_what_is_missing() {
    let (cluster, end) = (Cluster::start().await, CancellationToken::new());
    let admin = cluster.admin();
    let address = serve(&cluster, end.clone()).await;
    let made = admin.create(SERVICES_OF_API, &api_service(&cluster)).await;
    assert!(made.get("status").is_none_or(|s| s["conditions"].is_null()));
    let condition = until_condition(&admin, "ServiceNotFound").await;
    assert_eq!(condition["message"], r#"service/sample-api in "default" is not present"#);
    let refused = admin.get(FLUNDERS).await;
    assert_eq!((refused.code, refused.body.as_str()), (503, Some("service unavailable\n")));
    let other = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sample-api"},
        "spec": {"ports": [{"port": 443}]}});
    admin.create(SERVICES, &other).await;
    until_condition(&admin, "ServicePortError").await;
    assert_eq!(admin.delete(&format!("{SERVICES}/sample-api")).await.code, 200);
    service(&cluster).await;
    until_condition(&admin, "EndpointsNotFound").await;
    slice(&cluster, json!([{"addresses": ["127.0.0.1"], "conditions": {"ready": false}}]), address.port()).await;
    let condition = until_condition(&admin, "MissingEndpoints").await;
    let message = r#"endpointslices for service/sample-api in "default" have no addresses with port name """#;
    assert_eq!(condition["message"], message);
    // Nobody listens there.
    slice(&cluster, json!([{"addresses": ["127.0.0.253"], "conditions": {"ready": true}}]), 9).await;
    let condition = until_condition(&admin, "FailedDiscoveryCheck").await;
    let head =
        format!("failing or missing response from https://127.0.0.253:9{GROUP}: dial tcp 127.0.0.253:9: connect: ");
    assert!(condition["message"].as_str().unwrap().starts_with(&head), "{condition}");
    slice(&cluster, json!([{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]), address.port()).await;
    until_condition(&admin, "Passed").await;
    assert_eq!(until(&admin, FLUNDERS, |a| a.code == 200).await.body["kind"], "FlunderList");
    // An endpoint less is noticed at once, and what was discovered is kept and marked.
    slice(&cluster, json!([]), address.port()).await;
    until_condition(&admin, "MissingEndpoints").await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = admin.header("accept", accept).get("/apis").await.body;
    let wardle =
        all["items"].as_array().unwrap().iter().find(|i| i["metadata"]["name"] == "wardle.example.com").unwrap();
    assert_eq!(wardle["versions"][0]["freshness"], "Stale");
    assert_eq!(wardle["versions"][0]["resources"][0]["resource"], "flunders");
    // Without the APIService there is no such group.
    assert_eq!(admin.delete(&format!("{SERVICES_OF_API}/{NAME}")).await.code, 200);
    until(&admin, "/apis/wardle.example.com", |a| a.code == 404).await;
    assert_eq!(admin.get(FLUNDERS).await.code, 404);
}

#[tokio::test]
async fn certificates_are_checked_unless_told_not_to() {
    let (cluster, end) = (Cluster::start().await, CancellationToken::new());
    let admin = cluster.admin();
    let address = serve(&cluster, end.clone()).await;
    service(&cluster).await;
    slice(&cluster, json!([{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]), address.port()).await;
    let mut made = api_service(&cluster);
    // The authority of somebody else.
    use base64::Engine as _;
    let other = cluster.server.pki().front_proxy_ca_pem();
    made["spec"]["caBundle"] = base64::engine::general_purpose::STANDARD.encode(other).into();
    admin.create(SERVICES_OF_API, &made).await;
    let condition = until_condition(&admin, "FailedDiscoveryCheck").await;
    assert!(condition["message"].as_str().unwrap().contains("tls: "), "{condition}");
    let path = format!("{SERVICES_OF_API}/{NAME}");
    let change = json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}});
    assert_eq!(admin.patch(&path, "merge", &change).await.code, 200);
    until_condition(&admin, "Passed").await;
    until(&admin, FLUNDERS, |a| a.code == 200).await;
    // Other writers of the status are left alone, and the priority may change under way.
    let more = json!({"status": {"conditions": [admin.get(&path).await.body["status"]["conditions"][0],
        {"type": "StatusPatched", "status": "True", "reason": "E2E", "message": "Set by e2e test"}]}});
    assert_eq!(admin.patch(&format!("{path}/status"), "merge", &more).await.code, 200);
    assert_eq!(admin.patch(&path, "merge", &json!({"spec": {"versionPriority": 400}})).await.code, 200);
    let now = admin.get(&path).await.body;
    assert_eq!(
        (now["status"]["conditions"][1]["type"].as_str(), now["spec"]["versionPriority"].as_i64()),
        (Some("StatusPatched"), Some(400))
    );
    assert_eq!(admin.get(FLUNDERS).await.code, 200);
}

#[tokio::test]
async fn what_this_server_serves_has_apiservices_of_its_own() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let list = admin.get(SERVICES_OF_API).await.body;
    let items = list["items"].as_array().unwrap();
    let find = |name: &str| items.iter().find(|i| i["metadata"]["name"] == name).unwrap_or_else(|| panic!("{name}"));
    let label = "kube-aggregator.kubernetes.io/automanaged";
    for (name, priority) in
        [("v1.", 18000), ("v1.apps", 17800), ("v2.autoscaling", 17500), ("v1.rbac.authorization.k8s.io", 17000)]
    {
        let found = find(name);
        assert_eq!(found["spec"]["groupPriorityMinimum"], priority, "{name}");
        assert_eq!(found["metadata"]["labels"][label], "onstart");
        assert_eq!(found["status"]["conditions"][0]["reason"], "Local");
    }
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    admin.create(CRDS, &definition).await;
    let path = format!("{SERVICES_OF_API}/v1.example.com");
    let own = until(&admin, &path, |a| a.code == 200).await.body;
    assert_eq!(
        (&own["metadata"]["labels"][label], &own["spec"]["groupPriorityMinimum"]),
        (&json!("true"), &json!(1000))
    );
    // It is kept as it must be while there is the definition, and goes with it.
    assert_eq!(admin.patch(&path, "merge", &json!({"spec": {"versionPriority": 7}})).await.code, 200);
    until(&admin, &path, |a| a.body["spec"]["versionPriority"] == 100).await;
    assert_eq!(admin.delete(&path).await.code, 200);
    until(&admin, &path, |a| a.code == 200).await;
    assert_eq!(admin.delete(&format!("{CRDS}/things.example.com")).await.code, 200);
    until(&admin, &path, |a| a.code == 404).await;
    // A restart makes what was deleted of the built-in ones, and leaves alone what people took over.
    assert_eq!(admin.delete(&format!("{SERVICES_OF_API}/v1.apps")).await.code, 200);
    let taken = json!({"metadata": {"labels": {label: null}}, "spec": {"versionPriority": 9}});
    assert_eq!(admin.patch(&format!("{SERVICES_OF_API}/v1.batch"), "merge", &taken).await.code, 200);
    let again = cluster.again().await;
    assert_eq!(again.admin().get(&format!("{SERVICES_OF_API}/v1.apps")).await.code, 200);
    let batch = again.admin().get(&format!("{SERVICES_OF_API}/v1.batch")).await.body;
    assert_eq!(batch["spec"]["versionPriority"], 9);
}

#[tokio::test]
async fn the_configmap_for_other_servers_comes_back() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    until(&admin, path, |a| a.code == 200).await;
    assert_eq!(admin.delete(path).await.code, 200);
    let map = until(&admin, path, |a| a.code == 200).await.body;
    assert_eq!(map["data"]["requestheader-username-headers"], r#"["X-Remote-User"]"#);
    let change = json!({"data": {"requestheader-allowed-names": "[]", "client-ca-file": "other\n"}});
    assert_eq!(admin.patch(path, "merge", &change).await.code, 200);
    let fixed = until(&admin, path, |a| a.body["data"]["requestheader-allowed-names"] != "[]").await.body;
    let authorities = fixed["data"]["client-ca-file"].as_str().unwrap();
    assert!(authorities.starts_with("other\n") && authorities.ends_with(cluster.server.pki().ca_pem()));
}
