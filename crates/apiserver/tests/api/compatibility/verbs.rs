//! Every verb, done.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Bytes, Incoming};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::samples::sample;
use crate::common::*;
use crate::http_proxy;
use crate::kinds::paths;

const FORMS: [(&str, &str); 4] =
    [("patch json", "json"), ("patch merge", "merge"), ("patch strategic", "strategic"), ("patch apply", "apply")];

/// A verb that was tried.
#[derive(Debug)]
pub struct Asked {
    /// As discovery names it; a patch with its form.
    pub verb: &'static str,
    /// `None` when it worked.
    pub refusal: Option<String>,
}

/// Worked when the code is a success and what it should have done can be seen.
fn asked(verb: &'static str, answer: &Answer, done: bool) -> Asked {
    let refusal = match answer.code {
        101 => None,
        200..300 if done => None,
        // Never told: the test fails on it.
        200..300 => Some(format!("{} without effect: {}", answer.code, answer.body)),
        code => Some(format!("{code} {}", answer.body["reason"].as_str().unwrap_or("without a reason"))),
    };
    Asked { verb, refusal }
}

/// A change of one field, `{"metadata": {"labels": …}}`, in a form of patch; `whole` is what an apply has besides.
fn change(form: &str, change: &Value, whole: &Value) -> Value {
    let (part, fields) = change.as_object().unwrap().iter().next().unwrap();
    let (field, value) = fields.as_object().unwrap().iter().next().unwrap();
    match form {
        "json" => json!([{"op": "add", "path": format!("/{part}/{field}"), "value": value}]),
        "apply" => {
            let mut whole = whole.clone();
            whole[part][field] = value.clone();
            whole
        }
        _ => change.clone(),
    }
}

/// Whether all of it is there.
fn shows(all: &Value, wanted: &Value) -> bool {
    match wanted.as_object() {
        Some(fields) => fields.iter().all(|(key, value)| shows(&all[key], value)),
        None => all == wanted,
    }
}

/// What the node says: it upgrades what wants to be, tells what pod `p` uses, and agrees to the rest.
fn node(mut request: Request<Incoming>, uid: &Value) -> Response<Full<Bytes>> {
    if request.headers().contains_key("upgrade") {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move { drop(upgraded.await) });
        let reply = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
        return reply.header("sec-websocket-protocol", "v5.channel.k8s.io").body(Full::default()).unwrap();
    }
    if !request.uri().path().starts_with("/stats/") {
        return Response::new(Full::from("yes"));
    }
    let cpu = json!({"time": "2026-01-01T00:00:00Z", "usageNanoCores": 1, "usageWindowSeconds": 10});
    let used = json!({"name": "c", "cpu": cpu, "memory": {"workingSetBytes": 1024}});
    let pod = json!({"podRef": {"uid": uid}, "cpu": cpu, "containers": [used]});
    Response::new(Full::from(json!({"node": used, "pods": [pod]}).to_string()))
}

/// A cluster with a node that answers everything, pod `p` on it, and Service `s` before the pod.
pub struct World {
    pub admin: Client,
    _cluster: Cluster,
    address: SocketAddr,
    connector: TlsConnector,
}

impl World {
    pub async fn start() -> Self {
        let cluster = http_proxy::cluster(http_proxy::backend().await).await;
        let admin = cluster.admin();
        let uid = admin.get(&format!("{PODS}/p")).await.body["metadata"]["uid"].take();
        let tls = wire::acceptor(&cluster, &[], Some(cluster.server.pki().ca_pem()));
        let uid = Arc::new(uid);
        let answer = move |request| {
            let uid = uid.clone();
            async move { node(request, &uid) }
        };
        let kubelet = wire::serve(tls, CancellationToken::new(), answer).await;
        admin.create("/api/v1/nodes", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})).await;
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": kubelet.ip().to_string()}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port()}},
        }});
        assert_eq!(admin.patch("/api/v1/nodes/n1/status", "merge", &status).await.code, 200);
        let bind = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
        admin.create(&format!("{PODS}/p/binding"), &bind).await;
        let running = json!({"status": {"phase": "Running"}});
        assert_eq!(admin.patch(&format!("{PODS}/p/status"), "merge", &running).await.code, 200);
        let address = cluster.listen(CancellationToken::new()).await;
        let connector = cluster.connector();
        World { admin, address, connector, _cluster: cluster }
    }

    /// Every verb of a resource, and what creating its object warns of.
    pub async fn resource(&self, api_version: &str, plural: &str) -> (Vec<Asked>, String) {
        let admin = &self.admin;
        let found = sample(api_version, plural);
        let (object, name, namespaced) = found.unwrap_or_else(|| panic!("{api_version} {plural} has no sample"));
        if plural == "bindings" {
            admin.create(PODS, &pod(name)).await;
        }
        let (all, one) = paths(api_version, plural, name, namespaced);
        let made = admin.post(&all, &object).await;
        assert!(matches!(made.code, 201 | 405), "{api_version} {plural}: {}", made.body);
        let warnings = made.headers.get_all("warning").iter().map(|w| w.to_str().unwrap());
        let warnings: Vec<&str> = warnings.map(|w| w.trim_start_matches("299 - ").trim_matches('"')).collect();
        let mut out = vec![asked("create", &made, made.code == 201)];
        let got = admin.get(&one).await;
        out.push(asked("get", &got, got.body["metadata"]["name"] == name));
        let list = admin.get(&all).await;
        let listed = list.body["items"].as_array().is_some_and(|all| all.iter().any(|i| i["metadata"]["name"] == name));
        out.push(asked("list", &list, listed));
        out.push(self.watch(&all).await);
        out.push(self.update(&one, &object).await);
        for (verb, form) in FORMS {
            let wanted = json!({"metadata": {"labels": {"form": form}}});
            let patched = self.patch(&one, form, &change(form, &wanted, &object)).await;
            out.push(asked(verb, &patched, shows(&patched.body, &wanted)));
        }
        let gone = admin.delete(&one).await;
        out.push(asked("delete", &gone, self.goes(&one).await));
        self.clear(&one).await;
        let mut many = object;
        many["metadata"]["labels"] = json!({"of": "many"});
        admin.post(&all, &many).await;
        let gone = admin.delete(&format!("{all}?labelSelector=of%3Dmany")).await;
        out.push(asked("deletecollection", &gone, self.goes(&one).await));
        admin.delete(&one).await;
        self.clear(&one).await;
        (out, warnings.join("; "))
    }

    /// Every verb of a part of a resource.
    pub async fn subresource(&self, api_version: &str, plural: &str, part: &str) -> Vec<Asked> {
        let admin = &self.admin;
        let (object, name, namespaced) = sample(api_version, plural).unwrap();
        let (all, one) = paths(api_version, plural, name, namespaced);
        match (plural, part) {
            ("pods", "attach" | "exec" | "portforward") => return self.stream(part).await,
            ("nodes", "proxy") => return self.proxy(&format!("{all}/n1/proxy/x")).await,
            ("pods", "proxy") => return self.proxy(&format!("{all}/p/proxy/x")).await,
            ("services", "proxy") => return self.proxy(&format!("{all}/s:80/proxy/x")).await,
            _ => {}
        }
        // What some of them end is there again for the next.
        let ready = async || drop(admin.post(&all, &object).await);
        let path = format!("{one}/{part}");
        ready().await;
        let got = if part == "log" { admin.get(&format!("{PODS}/p/log")).await } else { admin.get(&path).await };
        let mut out = vec![asked("get", &got, true)];
        out.push(asked("create", &admin.post(&path, &posted(part, name)).await, true));
        ready().await;
        let whole = admin.get(&one).await.body;
        out.push(self.update(&path, &whole).await);
        let wanted = |form: &str| match part {
            "scale" => json!({"spec": {"replicas": form.len()}}),
            _ => json!({"metadata": {"annotations": {"form": form}}}),
        };
        let applied = match part {
            "scale" => json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": name}, "spec": {}}),
            _ => object.clone(),
        };
        for (verb, form) in FORMS {
            ready().await;
            let patched = self.patch(&path, form, &change(form, &wanted(form), &applied)).await;
            out.push(asked(verb, &patched, part != "scale" || shows(&patched.body, &wanted(form))));
        }
        out.push(asked("delete", &admin.delete(&path).await, true));
        admin.delete(&one).await;
        self.clear(&one).await;
        out
    }

    /// The object comes as the first event.
    async fn watch(&self, all: &str) -> Asked {
        let path = format!("{all}?watch=1");
        let reply = self.admin.raw("GET", &path, "", "").await;
        if reply.status() == StatusCode::OK {
            drop(reply);
            let (kind, _) = self.admin.watch(&path).await.brief().await;
            let refusal = (kind != "ADDED").then(|| format!("began with {kind}"));
            return Asked { verb: "watch", refusal };
        }
        let code = reply.status().as_u16();
        let bytes = reply.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        asked("watch", &Answer { code, headers: http::HeaderMap::new(), body }, true)
    }

    /// Puts what is there, or else this; again as long as the server itself writes at the same time.
    async fn update(&self, path: &str, object: &Value) -> Asked {
        for _ in 0..100 {
            let got = self.admin.get(path).await;
            let answer = self.admin.put(path, if got.code == 200 { &got.body } else { object }).await;
            if answer.code != 409 {
                return asked("update", &answer, true);
            }
        }
        panic!("{path} is always a conflict");
    }

    async fn patch(&self, path: &str, form: &str, body: &Value) -> Answer {
        let query = if form == "apply" { "?fieldManager=t&force=true" } else { "" };
        self.admin.patch(&format!("{path}{query}"), form, body).await
    }

    /// Whether it is gone or about to go.
    async fn goes(&self, one: &str) -> bool {
        let left = self.admin.get(one).await;
        left.code == 404 || left.body["metadata"]["deletionTimestamp"].is_string()
    }

    /// Waits for what is about to go, after taking away what holds it.
    async fn clear(&self, one: &str) {
        loop {
            let mut left = self.admin.get(one).await;
            if left.body["metadata"]["deletionTimestamp"].is_null() {
                return;
            }
            left.body["spec"]["finalizers"] = json!([]);
            match left.body["kind"].as_str() {
                Some("Namespace") => drop(self.admin.put(&format!("{one}/finalize"), &left.body).await),
                _ => drop(self.admin.patch(one, "merge", &json!({"metadata": {"finalizers": null}})).await),
            }
            self.admin.delete(&format!("{one}?gracePeriodSeconds=0")).await;
            tokio::task::yield_now().await;
        }
    }

    /// Every method of a proxy.
    async fn proxy(&self, path: &str) -> Vec<Asked> {
        let mut out = Vec::new();
        for (verb, method) in
            [("get", "GET"), ("create", "POST"), ("update", "PUT"), ("patch", "PATCH"), ("delete", "DELETE")]
        {
            out.push(asked(verb, &self.admin.send(method, path, "text/plain", "").await, true));
        }
        out
    }

    /// A connection that is upgraded: over the network, as in the same process there is none.
    async fn stream(&self, part: &str) -> Vec<Asked> {
        let path = format!("{PODS}/p/{part}?command=x&stdout=true");
        let mut out = Vec::new();
        for (verb, method) in [("get", "GET"), ("create", "POST")] {
            let mut sender = wire::http1(wire::connect(&self.connector, self.address).await).await;
            let request = Request::builder()
                .method(method)
                .uri(&path)
                .header("host", "localhost")
                .header("authorization", "Bearer the-admin-token")
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-protocol", "v5.channel.k8s.io")
                .body(Empty::<Bytes>::new())
                .unwrap();
            let reply = sender.send_request(request).await.unwrap();
            let code = reply.status().as_u16();
            out.push(asked(verb, &Answer { code, headers: http::HeaderMap::new(), body: Value::Null }, false));
        }
        out.push(asked("update", &self.admin.put(&path, &json!({})).await, true));
        for (verb, form) in FORMS {
            out.push(asked(verb, &self.admin.patch(&path, form, &json!({})).await, true));
        }
        out.push(asked("delete", &self.admin.delete(&path).await, true));
        out
    }
}

/// What is posted to a part.
fn posted(part: &str, name: &str) -> Value {
    let meta = json!({"name": name});
    match part {
        "binding" => json!({"metadata": meta, "target": {"kind": "Node", "name": "n1"}}),
        "eviction" => json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}),
        "token" => json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}),
        _ => json!({}),
    }
}
