//! An API server in memory, as much as the agent uses of one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;

#[derive(Clone, Debug)]
pub(crate) struct Change {
    kind: &'static str,
    path: String,
    object: Value,
}

struct State {
    objects: BTreeMap<String, Value>,
    revision: u64,
    patches: Vec<(String, Value)>,
    down: bool,
}

pub(crate) struct FakeApi {
    state: Mutex<State>,
    changes: broadcast::Sender<Change>,
}

impl Default for FakeApi {
    fn default() -> Self {
        let state = State { objects: BTreeMap::new(), revision: 1, patches: Vec::new(), down: false };
        FakeApi { state: Mutex::new(state), changes: broadcast::channel(1024).0 }
    }
}

type Body = BoxBody<Bytes, Infallible>;

fn answer(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).boxed();
    Response::builder().status(code).header("content-type", "application/json").body(body).expect("a response")
}

fn failure(code: u16, reason: &str) -> Response<Body> {
    answer(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason, "metadata": {}}),
    )
}

/// The folder of a collection and the last part of a path.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').expect("a path")
}

fn is_name_of_collection(word: &str) -> bool {
    [
        "pods",
        "nodes",
        "leases",
        "events",
        "secrets",
        "configmaps",
        "services",
        "endpointslices",
        "namespaces",
        "persistentvolumes",
        "persistentvolumeclaims",
        "serviceaccounts",
        "ingresses",
        "ingressclasses",
        "runtimeclasses",
    ]
    .contains(&word)
}

fn query(request: &str, key: &str) -> Option<String> {
    url::form_urlencoded::parse(request.as_bytes()).find(|(k, _)| k == key).map(|(_, v)| v.into_owned())
}

fn selected(object: &Value, selector: Option<&str>) -> bool {
    selector.unwrap_or_default().split(',').filter_map(|s| s.split_once('=')).all(|(field, value)| {
        let pointer = format!("/{}", field.replace('.', "/"));
        object.pointer(&pointer).and_then(Value::as_str) == Some(value)
    })
}

/// Whether an object at `path` belongs to a collection, of one namespace or of all.
fn within(path: &str, collection: &str) -> bool {
    let (folder, _) = split(path);
    if folder == collection {
        return true;
    }
    let (base, plural) = split(collection);
    folder.starts_with(&format!("{base}/namespaces/")) && split(folder).1 == plural
}

impl FakeApi {
    pub(crate) fn client(self: &Arc<Self>) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.handle(request).await) }
        });
        kube::Client::new(service, "default")
    }

    pub(crate) fn seed_namespace(&self, name: &str) {
        self.put("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    }

    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    pub(crate) fn list(&self, collection: &str) -> Vec<Value> {
        self.state.lock().objects.iter().filter(|(p, _)| within(p, collection)).map(|(_, o)| o.clone()).collect()
    }

    /// Status patches of an object so far.
    pub(crate) fn patches(&self, path: &str) -> Vec<Value> {
        self.state.lock().patches.iter().filter(|(p, _)| p == path).map(|(_, v)| v.clone()).collect()
    }

    /// Creates or replaces an object in a collection.
    pub(crate) fn put(&self, collection: &str, object: Value) -> Value {
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().expect("a name"));
        self.store(&path, object)
    }

    /// Changes an object as another client would, on top of what is there now.
    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state.lock();
        state.revision += 1;
        let revision = state.revision.to_string();
        let object = state.objects.get_mut(path).expect("an object");
        change(object);
        object["metadata"]["resourceVersion"] = json!(revision);
        let object = object.clone();
        let _nobody = self.changes.send(Change { kind: "MODIFIED", path: path.to_owned(), object });
    }

    fn store(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.state.lock();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", state.revision));
        }
        let kind = if state.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        state.objects.insert(path.to_owned(), object.clone());
        let _nobody = self.changes.send(Change { kind, path: path.to_owned(), object: object.clone() });
        object
    }

    /// Removes an object at once.
    pub(crate) fn remove(&self, path: &str) {
        let mut state = self.state.lock();
        state.revision += 1;
        if let Some(mut object) = state.objects.remove(path) {
            object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
            let _nobody = self.changes.send(Change { kind: "DELETED", path: path.to_owned(), object });
        }
    }

    /// As `kubectl delete pod --grace-period=…` does.
    pub(crate) fn delete_pod(&self, name: &str, grace: i64) {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        let mut pod = self.get(&path).expect("a pod");
        pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.store(&path, pod);
    }

    /// Answers nothing but errors from now on, or no more.
    pub(crate) fn set_down(&self, down: bool) {
        self.state.lock().down = down;
    }

    async fn handle(&self, request: Request<kube::client::Body>) -> Response<Body> {
        if self.state.lock().down {
            return failure(503, "ServiceUnavailable");
        }
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let args = parts.uri.query().unwrap_or_default().to_owned();
        let body = body.collect().await.expect("a body").to_bytes();
        let value: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let collection = is_name_of_collection(split(&path).1);
        match (parts.method, collection) {
            (Method::GET, true) if query(&args, "watch").is_some() => self.watch(&path, &args),
            (Method::GET, true) => self.listing(&path, &args),
            (Method::GET, false) => self.get(&path).map_or_else(|| failure(404, "NotFound"), |o| answer(200, &o)),
            (Method::POST, true) => self.create(&path, value),
            (Method::POST, false) => token(&value),
            (Method::PATCH, _) => self.patch(&path, &value),
            (Method::DELETE, _) => self.delete(&path, &value),
            _ => failure(405, "MethodNotAllowed"),
        }
    }

    fn create(&self, collection: &str, object: Value) -> Response<Body> {
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().expect("a name"));
        if self.get(&path).is_some() {
            return failure(409, "AlreadyExists");
        }
        answer(201, &self.store(&path, object))
    }

    fn patch(&self, path: &str, patch: &Value) -> Response<Body> {
        let target = path.strip_suffix("/status").unwrap_or(path);
        let Some(mut object) = self.get(target) else { return failure(404, "NotFound") };
        if let Some(uid) = patch["metadata"]["uid"].as_str()
            && object["metadata"]["uid"] != uid
        {
            return failure(409, "Conflict");
        }
        merge(&mut object, patch);
        self.state.lock().patches.push((target.to_owned(), patch.clone()));
        answer(200, &self.store(target, object))
    }

    fn delete(&self, path: &str, options: &Value) -> Response<Body> {
        let Some(object) = self.get(path) else { return failure(404, "NotFound") };
        if let Some(uid) = options["preconditions"]["uid"].as_str()
            && object["metadata"]["uid"] != uid
        {
            return failure(409, "Conflict");
        }
        self.remove(path);
        answer(200, &object)
    }

    fn listing(&self, path: &str, args: &str) -> Response<Body> {
        let selector = query(args, "fieldSelector");
        let items: Vec<Value> = self.list(path).into_iter().filter(|o| selected(o, selector.as_deref())).collect();
        let revision = self.state.lock().revision.to_string();
        answer(
            200,
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": revision}, "items": items}),
        )
    }

    fn watch(&self, path: &str, args: &str) -> Response<Body> {
        let selector = query(args, "fieldSelector");
        let from: u64 = query(args, "resourceVersion").and_then(|r| r.parse().ok()).unwrap_or(0);
        let collection = path.to_owned();
        let state = self.state.lock();
        let changes = self.changes.subscribe();
        // Changes between the list and this watch are told first; a deletion in between is not, which no test needs.
        let revision =
            |o: &Value| o["metadata"]["resourceVersion"].as_str().and_then(|r| r.parse::<u64>().ok()).unwrap_or(0);
        let missed: Vec<Change> = state
            .objects
            .iter()
            .filter(|(_, o)| revision(o) > from)
            .map(|(p, o)| Change { kind: "ADDED", path: p.clone(), object: o.clone() })
            .collect();
        drop(state);
        let later = futures::stream::unfold(changes, |mut rx| async move {
            loop {
                match rx.recv().await {
                    Ok(change) => return Some((change, rx)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        let stream = futures::stream::iter(missed).chain(later).filter_map(move |change| {
            let wanted = within(&change.path, &collection) && selected(&change.object, selector.as_deref());
            // The type first, as API servers have it.
            let line = format!("{{\"type\":\"{}\",\"object\":{}}}\n", change.kind, change.object);
            futures::future::ready(wanted.then(|| Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(line)))))
        });
        let body = BodyExt::boxed(SyncBody(Mutex::new(Box::pin(StreamBody::new(stream)))));
        Response::builder().status(200).header("content-type", "application/json").body(body).expect("a response")
    }
}

type WatchBody = std::pin::Pin<Box<dyn http_body::Body<Data = Bytes, Error = Infallible> + Send>>;

/// A body that may be shared between threads, as the client wants it.
struct SyncBody(Mutex<WatchBody>);

impl http_body::Body for SyncBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        self.0.lock().as_mut().poll_frame(cx)
    }
}

fn token(request: &Value) -> Response<Body> {
    let mut answered = request.clone();
    answered["metadata"] = json!({});
    answered["status"] = json!({"token": "a.b.c", "expirationTimestamp": "2999-01-01T00:00:00Z"});
    answer(201, &answered)
}

/// A merge patch that merges lists of conditions by their type.
fn merge(to: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *to = patch.clone();
        return;
    };
    if !to.is_object() {
        *to = json!({});
    }
    for (key, value) in patch {
        match (key.as_str(), value) {
            (_, Value::Null) => {
                to.as_object_mut().expect("object").remove(key);
            }
            ("conditions", Value::Array(new)) => {
                let mut all = to[key].as_array().cloned().unwrap_or_default();
                for c in new {
                    all.retain(|o| o["type"] != c["type"]);
                    if c["$patch"] != "delete" {
                        all.push(c.clone());
                    }
                }
                to[key] = Value::Array(all);
            }
            (_, Value::Array(new)) => {
                to[key] = new.iter().filter(|v| v.get("$patch").is_none()).cloned().collect();
            }
            _ => merge(&mut to[key], value),
        }
    }
}
