//! Admission webhooks on loopback.

use std::sync::Arc;

use base64::Engine as _;
use http::Response;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Cluster, wire};

pub const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
pub const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

type Answer = Arc<dyn Fn(&str, &Value) -> Value + Send + Sync>;

/// A webhook server with a certificate of the cluster's authority; the closure makes `response` from path and request.
pub struct Hooks {
    pub port: u16,
    pub bundle: String,
    /// Path and request of each review that is not yet taken.
    pub seen: Arc<parking_lot::Mutex<Vec<(String, Value)>>>,
    /// The queries of all reviews.
    pub queries: Arc<parking_lot::Mutex<Vec<String>>>,
    /// A review at a path that begins with `/slow` is answered when there is a permit for it.
    pub permits: Arc<Semaphore>,
}

impl Hooks {
    pub async fn serve(cluster: &Cluster, answer: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Hooks {
        let seen: Arc<parking_lot::Mutex<Vec<(String, Value)>>> = Arc::default();
        let queries: Arc<parking_lot::Mutex<Vec<String>>> = Arc::default();
        let permits = Arc::new(Semaphore::new(0));
        let (log, asked, answer, permit): (_, _, Answer, _) =
            (seen.clone(), queries.clone(), Arc::new(answer), permits.clone());
        let tls = wire::acceptor(cluster, &["hook.default.svc"], None);
        let address = wire::serve(tls, CancellationToken::new(), move |request| {
            let (log, asked, answer, permit) = (log.clone(), asked.clone(), answer.clone(), permit.clone());
            async move {
                let path = request.uri().path().to_owned();
                asked.lock().push(request.uri().query().unwrap_or("").to_owned());
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let review: Value = serde_json::from_slice(&body).unwrap();
                log.lock().push((path.clone(), review["request"].clone()));
                if path.starts_with("/slow") {
                    permit.acquire().await.unwrap().forget();
                }
                let mut response = answer(&path, &review["request"]);
                response["uid"] = review["request"]["uid"].clone();
                let out = json!({
                    "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response,
                });
                Response::new(Full::new(Bytes::from(out.to_string())))
            }
        });
        Hooks { port: address.await.port(), bundle: cluster.bundle(), seen, queries, permits }
    }

    /// A webhook for operations on resources of any group, with more fields.
    pub fn hook(&self, name: &str, operations: &[&str], resources: &[&str], more: Value) -> Value {
        let mut out = json!({
            "name": name,
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "rules": [{
                "operations": operations, "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources,
            }],
            "clientConfig": {"url": format!("https://127.0.0.1:{}/{name}", self.port), "caBundle": self.bundle},
        });
        for (key, value) in more.as_object().unwrap() {
            out[key] = value.clone();
        }
        out
    }

    pub fn paths(&self) -> Vec<String> {
        self.seen.lock().drain(..).map(|(path, _)| path).collect()
    }
}

pub fn configuration(kind: &str, name: &str, hooks: &[Value]) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": hooks,
    })
}

/// An answer that changes the object by a JSON patch.
pub fn patch(operations: &Value) -> Value {
    let patch = base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
}
