//! The controllers of access: ClusterRoles that collect the rules of others, and certificate signing requests. They have
//! caches and queues of their own: nothing else reads them.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::jiff::Timestamp;
use reconcile::certificates::Step;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::wiring::every;
use super::{Context, KeyQueue};
use crate::actuator::{ActError, Actuator, is_not_found};
use crate::cache::Cache;

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
/// How long until a request is looked at again whose author had no right: rights come without an event of the request.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Why an authority does not sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotSigned {
    /// Another signer's request.
    NotOurs,
    /// The signer does not accept it, and why.
    Refused(String),
    /// It could not; try again.
    Failed(String),
}

/// The cluster's authority, as far as the controllers need it.
pub trait Authority: Debug + Send + Sync {
    /// Signs an approved PKCS #10 request (PEM) and answers with the certificate (PEM).
    ///
    /// # Errors
    /// See [`NotSigned`].
    fn sign(
        &self,
        request: &[u8],
        signer: &str,
        usages: &[String],
        expiration_seconds: Option<i64>,
    ) -> Result<String, NotSigned>;

    /// The user of a node's agent for whom a request (PEM) wants a client certificate; `None` when it is for anything
    /// else.
    fn agent(&self, request: &[u8], signer: &str, usages: &[String]) -> Option<String>;
}

struct Access {
    actuator: Actuator,
    authority: Option<Arc<dyn Authority>>,
    roles: Arc<Cache<ClusterRole>>,
    requests: Arc<Cache<CertificateSigningRequest>>,
    collecting: KeyQueue,
    certificates: KeyQueue,
}

/// Starts both.
pub fn start(context: &Arc<Context>) {
    let access = Arc::new(Access {
        actuator: context.actuator.clone(),
        authority: context.config.authority.clone(),
        roles: Arc::default(),
        requests: Arc::default(),
        collecting: KeyQueue::default(),
        certificates: KeyQueue::default(),
    });
    let drain = &context.drain;
    let weak = Arc::downgrade(&access);
    // Any role may be one that is collected.
    let on_role = Box::new(move |_: Option<&Arc<ClusterRole>>, _: Option<&Arc<ClusterRole>>| {
        let Some(access) = weak.upgrade() else { return };
        for role in access.roles.all().iter().filter(|r| r.aggregation_rule.is_some()) {
            access.collecting.add("", role.metadata.name.as_deref().unwrap_or_default());
        }
    });
    access.roles.follow(every(context), vec![on_role], drain.clone());
    let queue = access.certificates.clone();
    let on_request =
        Box::new(move |_: Option<&Arc<CertificateSigningRequest>>, new: Option<&Arc<CertificateSigningRequest>>| {
            if let Some(request) = new {
                queue.add("", request.metadata.name.as_deref().unwrap_or_default());
            }
        });
    access.requests.follow(every(context), vec![on_request], drain.clone());
    tokio::spawn(work(access.clone(), "clusterrole-aggregation", drain.clone()));
    tokio::spawn(work(access, "certificate", drain.clone()));
}

/// One pass after the other until the drain: there is never much to do.
async fn work(access: Arc<Access>, name: &'static str, drain: CancellationToken) {
    let collects = name == "clusterrole-aggregation";
    let queue = if collects { access.collecting.clone() } else { access.certificates.clone() };
    let synced = async {
        access.roles.wait_synced().await;
        access.requests.wait_synced().await;
    };
    tokio::select! {
        () = drain.cancelled() => return,
        () = synced => {}
    }
    loop {
        let key = tokio::select! {
            () = drain.cancelled() => return,
            key = queue.0.next() => key,
        };
        let outcome = if collects { access.collect(&key.1).await } else { access.certify(&key.1).await };
        match &outcome {
            Ok(Some(wait)) => queue.0.add_after(key.clone(), *wait),
            Ok(None) => {}
            Err(e) if e.is_conflict() => tracing::debug!(controller = name, ?key, "conflict, again"),
            Err(e) => tracing::warn!(controller = name, ?key, error = %base::chain(e), "a pass failed"),
        }
        queue.0.done(key, outcome.is_err());
    }
}

fn written(answer: &serde_json::Value) -> u64 {
    answer["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn document(request: &CertificateSigningRequest) -> serde_json::Value {
    let mut out = serde_json::to_value(request).unwrap_or_default();
    out["apiVersion"] = "certificates.k8s.io/v1".into();
    out["kind"] = "CertificateSigningRequest".into();
    out
}

impl Access {
    /// A pass over a ClusterRole that collects.
    async fn collect(&self, name: &str) -> Result<Option<Duration>, ActError> {
        let Some(role) = self.roles.get("", name) else { return Ok(None) };
        let all = self.roles.all();
        let all: Vec<&ClusterRole> = all.iter().map(Arc::as_ref).collect();
        let Some(rules) = reconcile::clusterrole::aggregated(&role, &all) else { return Ok(None) };
        // Applied, so that the rules are this controller's and everything else stays whose it is.
        let path = format!("{ROLES}/{name}?fieldManager=clusterrole-aggregation-controller&force=true");
        let body = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name, "uid": role.metadata.uid}, "rules": rules});
        let answer =
            self.actuator.call(Method::PATCH, &path, Some(&body), Some("application/apply-patch+yaml")).await?;
        self.roles.wait_for(written(&answer)).await;
        Ok(None)
    }

    /// A pass over a certificate signing request.
    async fn certify(&self, name: &str) -> Result<Option<Duration>, ActError> {
        let Some(request) = self.requests.get("", name) else { return Ok(None) };
        match reconcile::certificates::step(&request, Timestamp::now()) {
            Step::Wait(wait) => self.approve(name, &request).await.map(|again| Some(again.unwrap_or(wait).min(wait))),
            Step::Delete => {
                let body = json!({"apiVersion": "v1", "kind": "DeleteOptions",
                    "preconditions": {"uid": request.metadata.uid}});
                match self.actuator.call(Method::DELETE, &format!("{REQUESTS}/{name}"), Some(&body), None).await {
                    Err(e) if !is_not_found(&e) && !e.is_conflict() => Err(e),
                    _ => Ok(None),
                }
            }
            Step::Sign => self.sign(name, &request).await,
        }
    }

    /// Approves the request of a node's agent whose author has the right to that.
    async fn approve(&self, name: &str, request: &CertificateSigningRequest) -> Result<Option<Duration>, ActError> {
        let spec = &request.spec;
        let usages = spec.usages.as_deref().unwrap_or_default();
        let agent = self.authority.as_ref().and_then(|a| a.agent(&spec.request.0, &spec.signer_name, usages));
        let approvals = reconcile::certificates::approvals(request, agent.as_deref());
        for approval in approvals {
            let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
                "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
                "resourceAttributes": {
                    "group": "certificates.k8s.io", "resource": "certificatesigningrequests", "verb": "create",
                    "subresource": approval.subresource, "version": "*",
                },
            }});
            let answer = self.actuator.call(Method::POST, REVIEWS, Some(&review), None).await?;
            if answer["status"]["allowed"] != true {
                continue;
            }
            let mut new = document(request);
            let approved =
                json!({"type": "Approved", "status": "True", "reason": "AutoApproved", "message": approval.message});
            if let Some(conditions) = new["status"]["conditions"].as_array_mut() {
                conditions.push(approved);
            } else {
                new["status"]["conditions"] = json!([approved]);
            }
            let path = format!("{REQUESTS}/{name}/approval");
            let answer = self.actuator.call(Method::PUT, &path, Some(&new), None).await?;
            self.requests.wait_for(written(&answer)).await;
            return Ok(Some(Duration::ZERO));
        }
        Ok((!approvals.is_empty()).then_some(ASK_AGAIN))
    }

    async fn sign(&self, name: &str, request: &CertificateSigningRequest) -> Result<Option<Duration>, ActError> {
        let Some(authority) = &self.authority else { return Ok(None) };
        let spec = &request.spec;
        let usages = spec.usages.as_deref().unwrap_or_default();
        let seconds = spec.expiration_seconds.map(i64::from);
        let mut new = document(request);
        match authority.sign(&spec.request.0, &spec.signer_name, usages, seconds) {
            Ok(certificate) => {
                let certificate = k8s_openapi::ByteString(certificate.into_bytes());
                new["status"]["certificate"] = serde_json::to_value(certificate).unwrap_or_default();
            }
            Err(NotSigned::NotOurs) => return Ok(None),
            Err(NotSigned::Refused(why)) => {
                let failed =
                    json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": why});
                if let Some(conditions) = new["status"]["conditions"].as_array_mut() {
                    conditions.push(failed);
                }
            }
            Err(NotSigned::Failed(why)) => {
                tracing::error!(request = name, why, "a certificate could not be signed");
                return Ok(Some(Duration::from_secs(60)));
            }
        }
        let answer = self.actuator.call(Method::PUT, &format!("{REQUESTS}/{name}/status"), Some(&new), None).await?;
        self.requests.wait_for(written(&answer)).await;
        Ok(None)
    }
}
