//! A server over a memory store, and a small client for it.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

pub mod hooks;
pub mod wire;

use std::sync::Arc;

use apiserver::{ApiServer, Body, Config, InProcess, Limits, UserInfo};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use store::memory::MemoryStore;
use tower::Service as _;

pub struct Cluster {
    pub server: Arc<ApiServer>,
    pub store: Arc<dyn store::Store>,
    pub pki: tempfile::TempDir,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Limits)) -> Self {
        Self::configured(|config| change(&mut config.limits)).await
    }

    pub async fn configured(change: impl FnOnce(&mut Config)) -> Self {
        let pki = tempfile::tempdir().unwrap();
        let store: Arc<dyn store::Store> = Arc::new(MemoryStore::new());
        let advertise = "127.0.0.1:6443".parse().unwrap();
        let mut config = Config::new(pki.path().join("pki"), advertise, "10.96.0.0/20".parse().unwrap());
        config.admin_token = Some("the-admin-token".into());
        change(&mut config);
        let server = ApiServer::new(store.clone(), config).await.unwrap();
        Cluster { server, store, pki }
    }

    /// Another server over the same store, as after a restart.
    pub async fn again(&self) -> Self {
        let pki = tempfile::tempdir().unwrap();
        let advertise = "127.0.0.1:6443".parse().unwrap();
        let config = Config::new(pki.path().join("pki"), advertise, "10.96.0.0/20".parse().unwrap());
        let server = ApiServer::new(self.store.clone(), config).await.unwrap();
        Cluster { server, store: self.store.clone(), pki }
    }

    pub fn admin(&self) -> Client {
        self.user(UserInfo::new("kubernetes-admin", &["system:masters"]))
    }

    pub fn user(&self, user: UserInfo) -> Client {
        Client { service: self.server.in_process(user), headers: Vec::new() }
    }
}

#[derive(Clone)]
pub struct Client {
    service: InProcess,
    headers: Vec<(&'static str, String)>,
}

pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl Client {
    pub fn header(&self, name: &'static str, value: &str) -> Self {
        let mut out = self.clone();
        out.headers.push((name, value.to_owned()));
        out
    }

    pub async fn raw(&self, method: &str, path: &str, kind: &str, body: impl Into<Bytes>) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        self.service.clone().call(request).await.unwrap()
    }

    pub async fn send(&self, method: &str, path: &str, kind: &str, body: impl Into<Bytes>) -> Answer {
        let (parts, body) = self.raw(method, path, kind, body).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::String(String::from_utf8_lossy(&bytes).into()));
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", "").await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, "", "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, "application/json", body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, "application/json", body.to_string()).await
    }

    pub async fn patch(&self, path: &str, form: &str, body: &Value) -> Answer {
        let kind = match form {
            "json" => "application/json-patch+json",
            "merge" => "application/merge-patch+json",
            "strategic" => "application/strategic-merge-patch+json",
            _ => "application/apply-patch+yaml",
        };
        self.send("PATCH", path, kind, body.to_string()).await
    }

    /// Creates and expects success.
    pub async fn create(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body).await;
        assert_eq!(answer.code, 201, "{}", answer.body);
        answer.body
    }

    pub async fn watch(&self, path: &str) -> Watch {
        let reply = self.raw("GET", path, "", "").await;
        assert_eq!(reply.status(), StatusCode::OK);
        Watch { body: reply.into_body(), buffer: Vec::new() }
    }
}

/// An open watch.
pub struct Watch {
    body: Body,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(std::time::Duration::from_secs(60), self.body.frame()).await;
            match frame.expect("the watch says something in time") {
                Some(frame) => self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap()),
                None => return None,
            }
        }
    }

    /// Type and name of the next line.
    pub async fn brief(&mut self) -> (String, String) {
        let line = self.next().await.expect("the watch is open");
        let name = line["object"]["metadata"]["name"].as_str().unwrap_or("").to_owned();
        (line["type"].as_str().unwrap().to_owned(), name)
    }
}

pub fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

pub fn labelled(name: &str, key: &str, value: &str) -> Value {
    let mut out = config_map(name);
    out["metadata"]["labels"] = json!({key: value});
    out
}

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]},
    })
}

pub fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "nginx:1"}]},
            },
        },
    })
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const SERVICES: &str = "/api/v1/namespaces/default/services";
pub const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// The account that pods need, which a controller makes in a whole cluster.
pub async fn default_account(client: &Client) {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    client.create("/api/v1/namespaces/default/serviceaccounts", &account).await;
}

/// Asks until the answer is as wanted.
pub async fn until(client: &Client, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let mut last = None;
    eventually(path, async || {
        let answer = client.get(path).await;
        let good = wanted(&answer);
        last = Some(answer);
        good
    })
    .await;
    last.unwrap()
}

/// Waits until it is so.
///
/// # Panics
/// After a minute.
pub async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while !so().await {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Creates a definition of custom resources and waits for the word that it is served, as clients do.
pub async fn established(client: &Client, definition: &Value) -> Value {
    let made = client.create(CRDS, definition).await;
    let (name, revision) =
        (made["metadata"]["name"].as_str().unwrap(), made["metadata"]["resourceVersion"].as_str().unwrap());
    let path = format!("{CRDS}?watch=true&fieldSelector=metadata.name={name}&resourceVersion={revision}");
    let mut watch = client.watch(&path).await;
    loop {
        let object = watch.next().await.expect("the watch is open")["object"].take();
        let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        if conditions.any(|c| c["type"] == "Established" && c["status"] == "True") {
            return object;
        }
    }
}
