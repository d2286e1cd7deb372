//! Custom resources whose versions a webhook on loopback converts: `hostPort` of v1 is `host` and `port` of v2.

use std::sync::Arc;

use crate::common::hooks::{Hooks, MUTATING, VALIDATING, configuration, patch};
use crate::common::{CRDS, Client, Cluster, established, wire};
use http::Response;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const NAME: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/servers.example.com";

/// What a case changes.
type Change = fn(&mut Value);
type Spoil = Arc<dyn Fn(&mut Value) + Send + Sync>;

/// A webhook that converts, with a certificate of the cluster's authority; `spoil` has the last word on its answers.
struct Hook {
    port: u16,
    bundle: String,
    /// Objects in each call.
    calls: Arc<parking_lot::Mutex<Vec<usize>>>,
    spoil: Arc<parking_lot::Mutex<Spoil>>,
}

async fn serve(cluster: &Cluster) -> Hook {
    let calls: Arc<parking_lot::Mutex<Vec<usize>>> = Arc::default();
    let nothing: Spoil = Arc::new(|_: &mut Value| {});
    let spoil = Arc::new(parking_lot::Mutex::new(nothing));
    let (log, shared) = (calls.clone(), spoil.clone());
    let tls = wire::acceptor(cluster, &["hook.default.svc"], None);
    let address = wire::serve(tls, CancellationToken::new(), move |request| {
        let (log, spoil) = (log.clone(), shared.lock().clone());
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let review: Value = serde_json::from_slice(&body).unwrap();
            log.lock().push(review["request"]["objects"].as_array().unwrap().len());
            let mut out = answer(&review);
            spoil(&mut out);
            Response::new(Full::new(Bytes::from(out.to_string())))
        }
    });
    Hook { port: address.await.port(), bundle: cluster.bundle(), calls, spoil }
}

fn answer(review: &Value) -> Value {
    let request = &review["request"];
    let desired = request["desiredAPIVersion"].as_str().unwrap();
    let convert = |object: &Value| {
        let mut out = object.clone();
        assert_ne!(out["apiVersion"], desired, "only what is in another version is to be converted");
        out["apiVersion"] = desired.into();
        let map = out.as_object_mut().unwrap();
        if desired.ends_with("/v2") {
            if let Some(both) = map.remove("hostPort") {
                let (host, port) = both.as_str().unwrap().split_once(':').unwrap();
                map.insert("host".into(), host.into());
                map.insert("port".into(), port.into());
            }
        } else if let Some(host) = map.remove("host") {
            let port = map.remove("port").unwrap_or_else(|| "80".into());
            map.insert("hostPort".into(), format!("{}:{}", host.as_str().unwrap(), port.as_str().unwrap()).into());
        }
        out
    };
    let objects: Vec<Value> = request["objects"].as_array().unwrap().iter().map(convert).collect();
    json!({
        "kind": "ConversionReview", "apiVersion": review["apiVersion"],
        "response": {"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects},
    })
}

impl Hook {
    fn spoiled(&self, spoil: impl Fn(&mut Value) + Send + Sync + 'static) {
        *self.spoil.lock() = Arc::new(spoil);
    }

    fn definition(&self) -> Value {
        let version = |name: &str, storage: bool, fields: &[&str]| {
            let properties: serde_json::Map<String, Value> =
                fields.iter().map(|f| ((*f).to_owned(), json!({"type": "string"}))).collect();
            let selectable: Vec<Value> = fields.iter().map(|f| json!({"jsonPath": format!(".{f}")})).collect();
            json!({
                "name": name, "served": true, "storage": storage, "selectableFields": selectable,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
            })
        };
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "servers.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"plural": "servers", "kind": "Server"},
                "versions": [version("v1", true, &["hostPort"]), version("v2", false, &["host", "port"])],
                "conversion": {"strategy": "Webhook", "webhook": {
                    "conversionReviewVersions": ["v1", "v1beta1"],
                    "clientConfig": {"url": format!("https://127.0.0.1:{}/convert", self.port), "caBundle": self.bundle},
                }},
            },
        })
    }
}

fn at(version: &str) -> String {
    format!("/apis/example.com/{version}/namespaces/default/servers")
}

fn v1(name: &str, both: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Server", "metadata": {"name": name}, "hostPort": both})
}

fn v2(name: &str, host: &str, port: &str) -> Value {
    json!({"apiVersion": "example.com/v2", "kind": "Server", "metadata": {"name": name}, "host": host, "port": port})
}

fn shown(object: &Value) -> [&str; 4] {
    ["apiVersion", "hostPort", "host", "port"].map(|key| object[key].as_str().unwrap_or(""))
}

// conformance: [sig-api-machinery] CustomResourceConversionWebhook [Privileged:ClusterAdmin] should be able to convert from CR v1 to CR v2
#[tokio::test]
async fn objects_are_converted_on_every_read_and_write() {
    let cluster = Cluster::start().await;
    let (admin, hook) = (cluster.admin(), serve(&cluster).await);
    established(&admin, &hook.definition()).await;
    let (one, two) = (format!("{}/a", at("v1")), format!("{}/a", at("v2")));
    let mut watch = admin.watch(&format!("{}?watch=true", at("v2"))).await;
    admin.create(&at("v1"), &v1("a", "localhost:8080")).await;
    assert_eq!(shown(&admin.get(&two).await.body), ["example.com/v2", "", "localhost", "8080"]);
    let patched = admin.patch(&two, "merge", &json!({"port": "9090"})).await;
    assert_eq!((patched.code, shown(&patched.body)), (200, ["example.com/v2", "", "localhost", "9090"]));
    assert_eq!(patched.body["metadata"]["generation"], 2);
    assert_eq!(shown(&admin.get(&one).await.body), ["example.com/v1", "localhost:9090", "", ""]);
    let applied = admin.patch(&format!("{two}?fieldManager=me&force=true"), "apply", &v2("a", "other", "1")).await;
    assert_eq!((applied.code, shown(&applied.body)), (200, ["example.com/v2", "", "other", "1"]), "{}", applied.body);
    let made = admin.create(&at("v2"), &v2("b", "h", "2")).await;
    assert_eq!(shown(&made), ["example.com/v2", "", "h", "2"]);
    let list = admin.get(&at("v1")).await.body;
    let both: Vec<_> = list["items"].as_array().unwrap().iter().map(shown).collect();
    assert_eq!(both, [["example.com/v1", "other:1", "", ""], ["example.com/v1", "h:2", "", ""]]);
    assert_eq!(admin.delete(&two).await.code, 200);
    let mut events = Vec::new();
    while events.last().is_none_or(|(word, _): &(String, Vec<String>)| word != "DELETED") {
        let event = watch.next().await.unwrap();
        let fields = shown(&event["object"]).iter().map(|s| (*s).to_owned()).collect();
        events.push((event["type"].as_str().unwrap().to_owned(), fields));
    }
    let words: Vec<&str> = events.iter().map(|(word, _)| word.as_str()).collect();
    assert_eq!(words, ["ADDED", "MODIFIED", "MODIFIED", "ADDED", "DELETED"]);
    assert!(events.iter().all(|(_, fields)| fields[0] == "example.com/v2" && fields[1].is_empty()), "{events:?}");
}

// conformance: [sig-api-machinery] CustomResourceConversionWebhook [Privileged:ClusterAdmin] should be able to convert a non homogeneous list of CRs
#[tokio::test]
async fn a_list_of_objects_stored_in_different_versions_is_of_one_version() {
    let cluster = Cluster::start().await;
    let (admin, hook) = (cluster.admin(), serve(&cluster).await);
    established(&admin, &hook.definition()).await;
    admin.create(&at("v1"), &v1("a", "localhost:8080")).await;
    let flip = json!([
        {"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true},
    ]);
    assert_eq!(admin.patch(NAME, "json", &flip).await.code, 200);
    admin.create(&at("v1"), &v1("b", "localhost:8080")).await;
    for server in [&cluster, &cluster.again().await] {
        for (version, wanted) in
            [("v1", ["example.com/v1", "localhost:8080", "", ""]), ("v2", ["example.com/v2", "", "localhost", "8080"])]
        {
            let list = server.admin().get(&at(version)).await.body;
            let items: Vec<_> = list["items"].as_array().unwrap().iter().map(shown).collect();
            assert_eq!(items, [wanted, wanted]);
        }
    }
}

/// What a reflector of this version sees with a selector: each object once when it comes into view, once when it leaves.
fn reflected(cluster: &Cluster, selector: &str) -> impl futures::Stream<Item = (&'static str, String)> + use<> {
    use futures::{StreamExt as _, stream};
    use kube::runtime::watcher::{Config, Event, watcher};
    let user = apiserver::UserInfo::new("kubernetes-admin", &["system:masters"]);
    let client = kube::Client::new(cluster.server.in_process(user), "default");
    let kind = kube::core::ApiResource::from_gvk_with_plural(
        &kube::core::GroupVersionKind::gvk("example.com", "v2", "Server"),
        "servers",
    );
    let api: kube::Api<kube::core::DynamicObject> = kube::Api::namespaced_with(client, "default", &kind);
    let mut known = std::collections::BTreeSet::new();
    watcher(api, Config::default().fields(selector)).flat_map(move |event| {
        let seen = match event.unwrap() {
            Event::Apply(o) | Event::InitApply(o) => {
                let name = o.metadata.name.unwrap();
                known.insert(name.clone()).then_some(("ADDED", name))
            }
            Event::Delete(o) => Some(("DELETED", o.metadata.name.unwrap())),
            Event::Init => None,
            // Listed: what is to be seen comes after this.
            Event::InitDone => Some(("LISTED", String::new())),
        };
        stream::iter(seen)
    })
}

// conformance: [sig-api-machinery] CustomResourceFieldSelectors [Privileged:ClusterAdmin] CustomResourceFieldSelectors MUST list and watch custom resources matching the field selector
#[tokio::test]
async fn selectors_choose_by_the_fields_of_the_version_asked_for() {
    use futures::StreamExt as _;
    let cluster = Cluster::start().await;
    let (admin, hook) = (cluster.admin(), serve(&cluster).await);
    established(&admin, &hook.definition()).await;
    let watch = async |version: &str, selector: &str| {
        admin.watch(&format!("{}?watch=true&fieldSelector={selector}", at(version))).await
    };
    let mut of_host = watch("v2", "host%3Dhost1").await;
    let mut of_port = watch("v2", "host%3Dhost1,port%3D80").await;
    let mut of_both = watch("v1", "hostPort%3Dhost1:80").await;
    let mut host_informer = Box::pin(reflected(&cluster, "host=host1"));
    let mut port_informer = Box::pin(reflected(&cluster, "host=host1,port=80"));
    for informer in [&mut host_informer, &mut port_informer] {
        assert_eq!(informer.next().await, Some(("LISTED", String::new())));
    }
    for (name, host, port) in [("a", "host1", "80"), ("b", "host1", "8080")] {
        admin.create(&at("v2"), &v2(name, host, port)).await;
    }
    let portless =
        json!({"apiVersion": "example.com/v2", "kind": "Server", "metadata": {"name": "c"}, "host": "host2"});
    admin.create(&at("v2"), &portless).await;
    let names = |list: Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let list = async |version: &str, selector: &str| {
        names(admin.get(&format!("{}?fieldSelector={selector}", at(version))).await.body)
    };
    assert_eq!(list("v2", "host%3Dhost1").await, ["a", "b"]);
    assert_eq!(list("v2", "host%3Dhost1,port%3D80").await, ["a"]);
    assert_eq!(list("v1", "hostPort%3Dhost1:80").await, ["a"]);
    assert_eq!(list("v1", "hostPort%3Dhost1:8080").await, ["b"]);
    assert_eq!(admin.delete(&format!("{}?fieldSelector=host%3Dhost1,port%3D80", at("v2"))).await.code, 200);
    let mut moved = admin.get(&format!("{}/b", at("v2"))).await.body;
    moved["host"] = "host2".into();
    assert_eq!(admin.put(&format!("{}/b", at("v2")), &moved).await.code, 200);
    assert_eq!(list("v2", "host%3Dhost1").await, [""; 0]);
    assert_eq!(list("v2", "host%3Dhost1,port%3D80").await, [""; 0]);
    let all = [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a"), ("DELETED", "b")];
    let one = [("ADDED", "a"), ("DELETED", "a")];
    for (word, name) in all {
        assert_eq!(of_host.brief().await, (word.to_owned(), name.to_owned()));
        assert_eq!(host_informer.next().await, Some((word, name.to_owned())));
    }
    for (word, name) in one {
        assert_eq!(of_port.brief().await, (word.to_owned(), name.to_owned()));
        assert_eq!(of_both.brief().await, (word.to_owned(), name.to_owned()));
        assert_eq!(port_informer.next().await, Some((word, name.to_owned())));
    }
}

#[tokio::test]
async fn an_object_is_converted_once_for_all_readers() {
    let cluster = Cluster::start().await;
    let (admin, hook) = (cluster.admin(), serve(&cluster).await);
    established(&admin, &hook.definition()).await;
    for i in 0..3 {
        admin.create(&at("v1"), &v1(&format!("a{i}"), "h:1")).await;
    }
    let path = at("v2");
    let (left, right) = tokio::join!(admin.get(&path), admin.get(&path));
    assert_eq!(left.body["items"], right.body["items"]);
    admin.get(&path).await;
    admin.get(&format!("{path}/a0")).await;
    assert_eq!(hook.calls.lock().iter().sum::<usize>(), 3);
}

#[tokio::test]
async fn answers_that_are_not_conversions_are_errors() {
    let cluster = Cluster::start().await;
    let (admin, hook) = (cluster.admin(), serve(&cluster).await);
    established(&admin, &hook.definition()).await;
    admin.create(&at("v1"), &v1("a", "h:1")).await;
    let path = format!("{}/a", at("v2"));
    let cases: [(Change, &str); 6] = [
        (
            |a| a["response"]["result"] = json!({"status": "Failure", "message": "no such thing"}),
            "failed: no such thing",
        ),
        (|a| a["response"]["convertedObjects"] = json!([]), "returned 0 objects, expected 1"),
        (|a| a["response"]["uid"] = "x".into(), "expected response.uid="),
        (
            |a| a["response"]["convertedObjects"][0]["apiVersion"] = "example.com/v3".into(),
            "invalid groupVersion (expected example.com/v2, received example.com/v3)",
        ),
        (|a| a["response"]["convertedObjects"][0]["metadata"]["uid"] = "x".into(), "must have the same UID"),
        (
            |a| a["response"]["convertedObjects"][0]["metadata"]["labels"] = json!({"a": "b c"}),
            "returned invalid metadata",
        ),
    ];
    for (spoil, wanted) in cases {
        hook.spoiled(spoil);
        let failed = admin.get(&path).await;
        assert_eq!(failed.code, 500);
        let message = failed.body["message"].as_str().unwrap();
        assert!(message.starts_with("conversion webhook for example.com/v1, Kind=Server "), "{message}");
        assert!(message.contains(wanted), "{message}");
        assert_eq!(admin.get(&at("v2")).await.code, 500);
        assert_eq!(admin.post(&at("v2"), &v2("b", "h", "1")).await.code, 500);
        // What needs no conversion does not ask.
        assert_eq!(admin.get(&format!("{}/a", at("v1"))).await.code, 200);
    }
    hook.spoiled(|a| {
        let metadata = &mut a["response"]["convertedObjects"][0]["metadata"];
        metadata["labels"] = json!({"by": "hook"});
        metadata["finalizers"] = json!(["hook/x"]);
    });
    let read = admin.get(&path).await.body;
    assert_eq!((&read["metadata"]["labels"], &read["metadata"]["finalizers"]), (&json!({"by": "hook"}), &Value::Null));
}

#[tokio::test]
async fn a_webhook_that_is_not_there_fails_what_needs_it() {
    let cluster = Cluster::start().await;
    let (admin, hook) = (cluster.admin(), serve(&cluster).await);
    let mut definition = hook.definition();
    definition["spec"]["conversion"]["webhook"]["clientConfig"]["url"] = "https://127.0.0.253:9/convert".into();
    established(&admin, &definition).await;
    admin.create(&at("v1"), &v1("a", "h:1")).await;
    let failed = admin.get(&format!("{}/a", at("v2"))).await;
    let message = failed.body["message"].as_str().unwrap();
    let wanted = r#"conversion webhook for example.com/v1, Kind=Server failed: Post "https://127.0.0.253:9/convert?timeout=30s""#;
    assert!(failed.code == 500 && message.starts_with(wanted), "{message}");
    let mut watch = admin.watch(&format!("{}?watch=true", at("v2"))).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(500)));
    // With the webhook's address put right, everything is there.
    let url = json!({"spec": {"conversion": {"webhook": {"clientConfig": {"url": format!("https://127.0.0.1:{}/convert", hook.port)}}}}});
    assert_eq!(admin.patch(NAME, "merge", &url).await.code, 200);
    assert_eq!(shown(&admin.get(&format!("{}/a", at("v2"))).await.body), ["example.com/v2", "", "h", "1"]);
}

/// Webhooks and policies that name one version of a definition are asked about requests in all of them.
#[tokio::test]
async fn admission_sees_objects_in_the_version_that_its_rules_name() {
    let cluster = Cluster::start().await;
    let (admin, hook) = (cluster.admin(), serve(&cluster).await);
    established(&admin, &hook.definition()).await;
    let seen: Arc<parking_lot::Mutex<Vec<Value>>> = Arc::default();
    let log = seen.clone();
    let hooks = Hooks::serve(&cluster, move |path, request| {
        log.lock().push(request.clone());
        match path {
            "/port.x.example" => patch(&json!([{"op": "replace", "path": "/port", "value": "1"}])),
            _ => json!({"allowed": request["object"]["host"] != "bad", "status": {"message": "bad host"}}),
        }
    })
    .await;
    let rules = json!([{
        "operations": ["CREATE", "UPDATE"], "apiGroups": ["example.com"], "apiVersions": ["v2"], "resources": ["servers"],
    }]);
    let with = |name: &str| hooks.hook(name, &[], &[], json!({"rules": rules}));
    admin.create(MUTATING, &configuration("MutatingWebhookConfiguration", "m", &[with("port.x.example")])).await;
    admin.create(VALIDATING, &configuration("ValidatingWebhookConfiguration", "v", &[with("deny.x.example")])).await;
    // A request in v1 is changed and checked in v2, and stored as it then is in v1.
    let made = admin.create(&at("v1"), &v1("a", "localhost:8080")).await;
    assert_eq!(shown(&made), ["example.com/v1", "localhost:1", "", ""]);
    for (request, port) in seen.lock().drain(..).zip(["8080", "1"]) {
        assert_eq!(shown(&request["object"]), ["example.com/v2", "", "localhost", port]);
        assert_eq!((&request["kind"]["version"], &request["requestKind"]["version"]), (&json!("v2"), &json!("v1")));
    }
    let changed = admin.patch(&format!("{}/a", at("v1")), "merge", &json!({"hostPort": "other:5"})).await;
    assert_eq!((changed.code, shown(&changed.body)), (200, ["example.com/v1", "other:1", "", ""]), "{}", changed.body);
    assert_eq!(shown(&seen.lock()[0]["oldObject"]), ["example.com/v2", "", "localhost", "1"]);
    let refused = admin.post(&at("v1"), &v1("b", "bad:2")).await;
    let want = r#"admission webhook "deny.x.example" denied the request: bad host"#;
    assert_eq!(refused.body["message"], want, "{}", refused.body);
    for path in [format!("{MUTATING}/m"), format!("{VALIDATING}/v")] {
        assert_eq!(admin.delete(&path).await.code, 200);
    }
    policies_see_it_too(&admin, &rules).await;
}

async fn policies_see_it_too(admin: &Client, rules: &Value) {
    let group = "/apis/admissionregistration.k8s.io/v1";
    for (kind, plural, spec, bound) in [
        (
            "MutatingAdmissionPolicy",
            "mutatingadmissionpolic",
            json!({"reinvocationPolicy": "Never", "mutations": [{"patchType": "JSONPatch", "jsonPatch": {
                "expression": "[JSONPatch{op: 'replace', path: '/port', value: object.port + '7'}]",
            }}]}),
            json!({}),
        ),
        (
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolic",
            json!({"validations": [{"expression": "object.port != '47'", "messageExpression": "'port ' + object.port"}]}),
            json!({"validationActions": ["Deny"]}),
        ),
    ] {
        let object = |kind: String, mut spec: Value, more: Value| {
            more.as_object().unwrap().iter().for_each(|(key, value)| spec[key] = value.clone());
            json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "p"}, "spec": spec})
        };
        let constraints = json!({"matchConstraints": {"resourceRules": rules}});
        admin.create(&format!("{group}/{plural}ies"), &object(kind.to_owned(), spec, constraints)).await;
        let binding = object(format!("{kind}Binding"), json!({"policyName": "p"}), bound);
        admin.create(&format!("{group}/{plural}ybindings"), &binding).await;
    }
    let made = admin.create(&at("v1"), &v1("c", "h:3")).await;
    assert_eq!(shown(&made), ["example.com/v1", "h:37", "", ""]);
    let refused = admin.post(&at("v1"), &v1("d", "h:4")).await;
    assert!(refused.body["message"].as_str().unwrap().ends_with("denied request: port 47"), "{}", refused.body);
}

#[tokio::test]
async fn a_webhook_that_cannot_be_called_is_refused_in_the_definition() {
    let cluster = Cluster::start().await;
    let (admin, hook) = (cluster.admin(), serve(&cluster).await);
    let cases: [(Change, &str); 4] = [
        (|w| w["clientConfig"]["url"] = "http://a/b".into(), "spec.conversion.webhook.clientConfig.url"),
        (|w| w["clientConfig"] = json!({}), "exactly one of url or service is required"),
        (|w| w["conversionReviewVersions"] = json!(["v7"]), "must include at least one of v1, v1beta1"),
        (|w| w["clientConfig"]["caBundle"] = "Zm9v".into(), "unable to load root certificates"),
    ];
    for (change, wanted) in cases {
        let mut definition = hook.definition();
        change(&mut definition["spec"]["conversion"]["webhook"]);
        let refused = admin.post(CRDS, &definition).await;
        assert_eq!(refused.code, 422, "{}", refused.body);
        assert!(refused.body["message"].as_str().unwrap().contains(wanted), "{}", refused.body["message"]);
    }
}
