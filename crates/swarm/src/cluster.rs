//! The cluster's API: objects as documents, in the one namespace that is the swarm's.

use std::time::Duration;

use dockerapi::swarm::Fault;
use http::{Method, StatusCode};
use kube::Client;
use serde_json::{Value, json};

/// Where everything of the swarm is.
pub const NAMESPACE: &str = "docker-swarm";
/// Label of every object of the swarm: what it is in Docker's words.
pub const LABEL: &str = "windlass.dev/swarm";
/// Annotation of every object of the swarm: what Docker knows of it.
pub const RECORD: &str = "windlass.dev/swarm-record";
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A kind of object: where its API is, its plural, whether it is in the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(&'static str, &'static str, bool);

pub const DEPLOYMENTS: Kind = Kind("/apis/apps/v1", "deployments", true);
pub const DAEMON_SETS: Kind = Kind("/apis/apps/v1", "daemonsets", true);
pub const JOBS: Kind = Kind("/apis/batch/v1", "jobs", true);
pub const PODS: Kind = Kind("/api/v1", "pods", true);
pub const SERVICES: Kind = Kind("/api/v1", "services", true);
pub const SECRETS: Kind = Kind("/api/v1", "secrets", true);
pub const CONFIG_MAPS: Kind = Kind("/api/v1", "configmaps", true);
pub const CLAIMS: Kind = Kind("/api/v1", "persistentvolumeclaims", true);
pub const NODES: Kind = Kind("/api/v1", "nodes", false);
const NAMESPACES: Kind = Kind("/api/v1", "namespaces", false);

impl Kind {
    fn path(self, name: &str) -> String {
        let Kind(root, plural, namespaced) = self;
        let within = if namespaced { format!("/namespaces/{NAMESPACE}") } else { String::new() };
        let last = if name.is_empty() { String::new() } else { format!("/{name}") };
        format!("{root}{within}/{plural}{last}")
    }
}

/// What the cluster answers instead of what was asked for.
#[derive(Debug)]
pub struct Refused {
    /// The status; 0 when nothing was answered.
    pub code: u16,
    /// Kubernetes' reason.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Refused {
    /// There is no such object.
    pub fn is_missing(&self) -> bool {
        self.code == 404
    }

    /// Somebody else wrote meanwhile.
    pub fn is_conflict(&self) -> bool {
        self.code == 409 && self.reason == "Conflict"
    }

    /// There is one of that name.
    pub fn is_taken(&self) -> bool {
        self.code == 409 && self.reason == "AlreadyExists"
    }
}

impl From<Refused> for Fault {
    /// As swarmkit's codes become statuses.
    fn from(refused: Refused) -> Fault {
        let (status, code) = match refused.code {
            400 | 413 | 422 => (StatusCode::BAD_REQUEST, "InvalidArgument"),
            403 => (StatusCode::FORBIDDEN, "PermissionDenied"),
            404 => (StatusCode::NOT_FOUND, "NotFound"),
            409 => (StatusCode::CONFLICT, "AlreadyExists"),
            0 => (StatusCode::SERVICE_UNAVAILABLE, "Unavailable"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "Unknown"),
        };
        Fault::new(status, format!("rpc error: code = {code} desc = {}", refused.message))
    }
}

type Result<T> = std::result::Result<T, Refused>;

/// A client of the API with the swarm's rights.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl Cluster {
    /// With these rights.
    pub fn new(client: Client) -> Self {
        Cluster { client }
    }

    /// The client, for watches and streams.
    pub fn client(&self) -> &Client {
        &self.client
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: Option<&Value>) -> Result<Value> {
        let unsent = |message: String| Refused { code: 0, reason: String::new(), message };
        let bytes = body.map(serde_json::to_vec).transpose().map_err(|e| unsent(e.to_string()))?;
        let request = http::Request::builder().method(method).uri(path).header(http::header::CONTENT_TYPE, kind);
        let request = request.body(bytes.unwrap_or_default()).map_err(|e| unsent(e.to_string()))?;
        match tokio::time::timeout(PATIENCE, self.client.request::<Value>(request)).await {
            Ok(Ok(document)) => Ok(document),
            Ok(Err(kube::Error::Api(status))) => {
                Err(Refused { code: status.code, reason: status.reason.clone(), message: status.message.clone() })
            }
            Ok(Err(other)) => Err(unsent(format!("the cluster's API does not answer: {other}"))),
            Err(_) => Err(unsent("the cluster's API does not answer in time".to_owned())),
        }
    }

    /// An object.
    pub async fn get(&self, kind: Kind, name: &str) -> Result<Value> {
        self.send(Method::GET, &kind.path(name), "application/json", None).await
    }

    /// The id of the cluster's beginning.
    pub async fn origin(&self) -> Result<Value> {
        self.get(NAMESPACES, "kube-system").await
    }

    /// All objects that carry these labels.
    pub async fn list(&self, kind: Kind, selector: &str) -> Result<Vec<Value>> {
        let query: String =
            url::form_urlencoded::Serializer::new(String::new()).append_pair("labelSelector", selector).finish();
        let path = format!("{}?{query}", kind.path(""));
        let mut list = self.send(Method::GET, &path, "application/json", None).await?;
        Ok(match list["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        })
    }

    /// Makes an object, and the namespace before it if it is the first.
    pub async fn create(&self, kind: Kind, object: &Value) -> Result<Value> {
        let made = self.send(Method::POST, &kind.path(""), "application/json", Some(object)).await;
        match made {
            Err(refused) if refused.is_missing() => {
                let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
                match self.send(Method::POST, &NAMESPACES.path(""), "application/json", Some(&namespace)).await {
                    Err(refused) if !refused.is_taken() => Err(refused),
                    _ => self.send(Method::POST, &kind.path(""), "application/json", Some(object)).await,
                }
            }
            made => made,
        }
    }

    /// Puts an object in the place of the one of which it has the revision.
    pub async fn replace(&self, kind: Kind, object: &Value) -> Result<Value> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        self.send(Method::PUT, &kind.path(name), "application/json", Some(object)).await
    }

    /// Changes some of an object.
    pub async fn patch(&self, kind: Kind, name: &str, patch: &Value) -> Result<Value> {
        self.send(Method::PATCH, &kind.path(name), "application/merge-patch+json", Some(patch)).await
    }

    /// Removes an object and what it owns. One that is not there is no error.
    pub async fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
        match self.send(Method::DELETE, &kind.path(name), "application/json", Some(&options)).await {
            Err(refused) if !refused.is_missing() => Err(refused),
            _ => Ok(()),
        }
    }
}

/// Where a pod's log is asked for.
pub fn log_path(pod: &str, query: &str) -> String {
    format!("{}/log?{query}", PODS.path(pod))
}

/// Text of a field, or nothing.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Docker's id of an object: 25 digits to the base 36, as swarmkit has them, of the object's UID.
pub fn id(object: &Value) -> String {
    id_of(text(&object["metadata"]["uid"]), 0)
}

/// The same for run `attempt` of what the UID names.
pub fn id_of(uid: &str, attempt: u64) -> String {
    let hex: String = uid.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&hex, 16).unwrap_or_default();
    // Runs of one pod are as far apart as those of two.
    let mut left = number ^ u128::from(attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let mut digits = [b'0'; 25];
    for digit in digits.iter_mut().rev() {
        let value = u8::try_from(left % 36).unwrap_or_default();
        *digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
        left /= 36;
    }
    digits.iter().map(|d| char::from(*d)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_swarmkit_and_runs_have_their_own() {
        let object = json!({"metadata": {"uid": "ffffffff-ffff-ffff-ffff-ffffffffffff"}});
        assert_eq!(id(&object), "f5lxx1zz5pnorynqglhzmsp33");
        assert_eq!(id_of("", 0), "0".repeat(25));
        let uid = "2f5e1a70-8d0e-4a6e-9f7d-0a1b2c3d4e5f";
        assert_ne!(id_of(uid, 0), id_of(uid, 1));
        assert_eq!(id_of(uid, 1).len(), 25);
    }

    #[test]
    fn refusals_have_swarmkits_codes() {
        let refused = Refused { code: 422, reason: "Invalid".to_owned(), message: "no".to_owned() };
        let fault = Fault::from(refused);
        assert_eq!(
            (fault.status.as_u16(), fault.message.as_str()),
            (400, "rpc error: code = InvalidArgument desc = no")
        );
    }
}
