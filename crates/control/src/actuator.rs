//! Carries out actions, one API call each. No choices are left to make here.

use std::future::Future;
use std::pin::Pin;

use http::{Method, Request};
use reconcile::plan::{Action, Resource};
use serde_json::{Value, json};

use crate::events::Recorder;

/// Why a plan stopped.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// Someone else was faster: the next pass decides on what is there then.
    #[error("{what}: the object changed meanwhile")]
    Conflict {
        /// Verb and path.
        what: String,
    },
    /// The API server refused.
    #[error("{what}")]
    Refused {
        /// Verb and path.
        what: String,
        /// Its answer.
        #[source]
        source: Box<kube::Error>,
    },
}

impl ActError {
    /// Whether it says no more than that the world moved on.
    pub fn is_conflict(&self) -> bool {
        matches!(self, ActError::Conflict { .. })
    }

    /// Whether nothing is made any more where it was to be made: the namespace is being deleted, and its owner too.
    pub fn is_too_late(&self) -> bool {
        let ActError::Refused { source, .. } = self else { return false };
        let kube::Error::Api(status) = source.as_ref() else { return false };
        status.code == 403
            && status.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"))
    }
}

impl ActError {
    /// What the API server said when it refused to make a pod (a quota, a policy), and nothing else.
    pub fn refused(&self) -> Option<String> {
        let ActError::Refused { what, source } = self else { return None };
        match source.as_ref() {
            kube::Error::Api(s) if s.code < 500 && what.starts_with("POST ") && what.ends_with("/pods") => {
                Some(s.message.clone())
            }
            _ => None,
        }
    }
}

/// What an action left behind, for the caches to catch up with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trace {
    /// The resource has reached this revision.
    Written(Resource, u64),
    /// The object of this UID is deleted or on its way out.
    Deleted {
        /// Its resource.
        resource: Resource,
        /// Its namespace, empty for cluster-scoped.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// Nothing to wait for.
    None,
}

/// See the module.
#[derive(Clone)]
pub struct Actuator {
    client: kube::Client,
    recorder: Recorder,
}

impl Actuator {
    /// An actuator with the rights of the client.
    pub fn new(client: kube::Client, recorder: Recorder) -> Self {
        Actuator { client, recorder }
    }

    /// Tells the owner's readers what came of a creation (the events of Kubernetes' pod control).
    fn tell(&self, owner: Value, made: Resource, answer: &Result<Value, ActError>) {
        let kind = made.kind.to_lowercase();
        match answer {
            Ok(v) => {
                let name = v["metadata"]["name"].as_str().unwrap_or_default();
                self.recorder.record(owner, "Normal", "SuccessfulCreate", format!("Created {kind}: {name}"));
            }
            Err(ActError::Conflict { .. }) => {}
            Err(error) if error.is_too_late() => {}
            Err(ActError::Refused { source, .. }) => {
                let why = match source.as_ref() {
                    kube::Error::Api(status) => status.message.clone(),
                    other => base::chain(other).to_string(),
                };
                self.recorder.record(owner, "Warning", "FailedCreate", format!("Error creating: {why}"));
            }
        }
    }

    /// Carries out one action. An object that is already gone, or already there under a name that was given, is success, and so
    /// is one that was to be made in a namespace that is being deleted.
    pub async fn act(&self, action: Action) -> Result<Trace, ActError> {
        match action {
            Action::Create { resource, namespace, body, told } => {
                let path = resource.path(namespace.as_deref());
                let named = body["metadata"]["name"].is_string();
                let answer = self.call(Method::POST, &path, Some(&body), None).await;
                if let Some(owner) = told {
                    self.tell(owner, resource, &answer);
                }
                match answer {
                    Err(ActError::Conflict { .. }) if named => Ok(Trace::None),
                    Err(error) if error.is_too_late() => Ok(Trace::None),
                    other => other.map(|v| Trace::Written(resource, revision(&v))),
                }
            }
            Action::Patch { resource, namespace, name, subresource, patch } => {
                let path = object_path(resource, namespace.as_deref(), &name, subresource);
                let v = self.call(Method::PATCH, &path, Some(&patch), Some("application/merge-patch+json")).await?;
                Ok(Trace::Written(resource, revision(&v)))
            }
            Action::Update { resource, namespace, name, subresource, body } => {
                let path = object_path(resource, namespace.as_deref(), &name, subresource);
                let v = self.call(Method::PUT, &path, Some(&body), None).await?;
                let finalised = subresource == Some("finalize");
                Ok(if finalised { Trace::None } else { Trace::Written(resource, revision(&v)) })
            }
            Action::Delete { resource, namespace, name, uid, propagation, grace_seconds } => {
                let path = object_path(resource, namespace.as_deref(), &name, None);
                let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
                if let Some(p) = propagation {
                    options["propagationPolicy"] = p.into();
                }
                if let Some(g) = grace_seconds {
                    options["gracePeriodSeconds"] = g.into();
                }
                match self.call(Method::DELETE, &path, Some(&options), None).await {
                    Err(e) if !is_not_found(&e) && !e.is_conflict() => Err(e),
                    _ => Ok(Trace::Deleted { resource, namespace: namespace.unwrap_or_default(), name, uid }),
                }
            }
            Action::Bind { namespace, name, uid, node } => {
                let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/binding");
                let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "uid": uid},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
                self.call(Method::POST, &path, Some(&body), None).await.map(|_| Trace::None)
            }
            Action::Event { about, type_, reason, message } => {
                self.recorder.record(about, type_, reason, message);
                Ok(Trace::None)
            }
        }
    }

    /// Calls the API server.
    pub fn call<'a>(
        &'a self,
        method: Method,
        path: &'a str,
        body: Option<&'a Value>,
        content_type: Option<&'a str>,
    ) -> Pin<Box<dyn Future<Output = Result<Value, ActError>> + Send + 'a>> {
        Box::pin(async move {
            let what = format!("{method} {path}");
            let bytes = body.map_or_else(Vec::new, |b| b.to_string().into_bytes());
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(http::header::CONTENT_TYPE, content_type.unwrap_or("application/json"))
                .body(bytes)
                .expect("a path made of names that the API server gave is a valid URI");
            self.client.request::<Value>(request).await.map_err(|e| match e {
                kube::Error::Api(ref s) if s.code == 409 => ActError::Conflict { what },
                e => ActError::Refused { what, source: Box::new(e) },
            })
        })
    }
}

/// Whether the API server said that there is no such object.
pub fn is_not_found(e: &ActError) -> bool {
    matches!(e, ActError::Refused { source, .. } if matches!(source.as_ref(), kube::Error::Api(s) if s.code == 404))
}

fn revision(v: &Value) -> u64 {
    v["metadata"]["resourceVersion"].as_str().and_then(|s| s.parse().ok()).unwrap_or(0)
}

fn object_path(resource: Resource, namespace: Option<&str>, name: &str, subresource: Option<&str>) -> String {
    let base = resource.path(namespace);
    match subresource {
        Some(s) => format!("{base}/{name}/{s}"),
        None => format!("{base}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, cause: &str) -> ActError {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "m", "reason": "Forbidden",
            "code": code, "details": {"causes": [{"reason": cause, "message": "m", "field": "metadata.namespace"}]}});
        let status = serde_json::from_value(status).expect("a status");
        ActError::Refused { what: "POST /api/v1/namespaces/n/pods".into(), source: Box::new(kube::Error::Api(status)) }
    }

    #[test]
    fn only_the_end_of_the_namespace_is_too_late() {
        assert!(refused(403, "NamespaceTerminating").is_too_late());
        assert!(!refused(403, "").is_too_late(), "a quota may have room later");
        assert!(!refused(422, "NamespaceTerminating").is_too_late());
        assert!(!ActError::Conflict { what: String::new() }.is_too_late());
    }
}
