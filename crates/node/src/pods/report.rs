//! Writing a pod's status: only when it changed, the newest only, one write at a time.

use base::trace::Parent;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Resource;
use kube::api::{Patch, PatchParams};
use kube::core::Request;
use serde_json::{Value, json};

use crate::context::Context;
use crate::events::container_reference;
use crate::paths::PodId;

/// How a write ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Written {
    Yes,
    /// The object is gone or another one has its name.
    Moot,
    /// To be tried again.
    No(String),
}

/// What was written and what is to be.
#[derive(Debug, Default)]
pub(crate) struct Report {
    sent: Option<Value>,
    sending: Option<Value>,
}

impl Report {
    /// Starts from what the API server has.
    pub(crate) fn new(status: Option<&PodStatus>) -> Self {
        Report { sent: status.map(|s| json!(s)), sending: None }
    }

    /// The patch to write now, if the status differs from what was written and nothing is being written.
    pub(crate) fn next(&mut self, uid: &str, status: &PodStatus) -> Option<Value> {
        let wanted = json!(status);
        if self.sending.is_some() || self.sent.as_ref().is_some_and(|sent| covers(sent, &wanted)) {
            return None;
        }
        let patch = patch(uid, &wanted, self.sent.as_ref());
        self.sending = Some(wanted);
        Some(patch)
    }

    /// Whether this status was written.
    pub(super) fn is_written(&self, status: &PodStatus) -> bool {
        self.sending.is_none() && self.sent.as_ref().is_some_and(|sent| covers(sent, &json!(status)))
    }

    /// A write ended.
    pub(crate) fn done(&mut self, written: &Written) {
        let sent = self.sending.take();
        if !matches!(written, Written::No(_)) {
            self.sent = sent;
        }
    }
}

/// Conditions that are there only while they are true, by type, that were written and are not wanted any more.
fn vanished<'a>(
    sent: &'a serde_json::Map<String, Value>,
    wanted: Option<&'a Value>,
) -> impl Iterator<Item = &'static str> + use<'a> {
    let has = |list: Option<&Value>, kind: &str| {
        list.and_then(Value::as_array).is_some_and(|l| l.iter().any(|c| c["type"] == kind))
    };
    ["PodResizePending", "PodResizeInProgress"]
        .into_iter()
        .filter(move |kind| has(sent.get("conditions"), kind) && !has(wanted, kind))
}

/// Whether writing `wanted` would change nothing in `sent`, which may hold more (other writers' conditions).
fn covers(sent: &Value, wanted: &Value) -> bool {
    let (Value::Object(sent), Value::Object(wanted)) = (sent, wanted) else { return false };
    let gone =
        ["reason", "message", "podIP", "podIPs"].iter().any(|k| sent.contains_key(*k) && !wanted.contains_key(*k));
    !gone
        && vanished(sent, wanted.get("conditions")).next().is_none()
        && wanted.iter().all(|(key, value)| match (key.as_str(), sent.get(key)) {
            (_, None) => false,
            ("conditions", Some(before)) => {
                value.as_array().into_iter().flatten().all(|c| before.as_array().is_some_and(|b| b.contains(c)))
            }
            (_, Some(before)) => before == value,
        })
}

fn patch(uid: &str, wanted: &Value, sent: Option<&Value>) -> Value {
    let mut status = wanted.clone();
    let had = |key: &str| sent.and_then(|s| s.get(key)).is_some();
    for key in ["reason", "message", "podIP", "podIPs", "initContainerStatuses"] {
        if status.get(key).is_none() && had(key) {
            status[key] = Value::Null;
        }
    }
    // Conditions are merged by their type: what one no longer says must be taken away.
    let before = sent.and_then(|s| s["conditions"].as_array()).cloned().unwrap_or_default();
    for c in status["conditions"].as_array_mut().into_iter().flatten() {
        let old = before.iter().find(|b| b["type"] == c["type"]);
        for key in ["reason", "message"] {
            if c.get(key).is_none() && old.is_some_and(|o| o.get(key).is_some()) {
                c[key] = Value::Null;
            }
        }
    }
    let old = sent.and_then(Value::as_object);
    let gone: Vec<&str> = old.map(|old| vanished(old, wanted.get("conditions")).collect()).unwrap_or_default();
    if let Some(list) = status["conditions"].as_array_mut() {
        list.extend(gone.into_iter().map(|kind| json!({"$patch": "delete", "type": kind})));
    }
    // Addresses are merged by their value: a new one must replace the old.
    if let Some(ips) = status.get("podIPs").and_then(Value::as_array)
        && had("podIPs")
        && sent.and_then(|s| s.get("podIPs")) != status.get("podIPs")
    {
        let mut list = vec![json!({"$patch": "replace"})];
        list.extend(ips.iter().cloned());
        status["podIPs"] = Value::Array(list);
    }
    json!({"metadata": {"uid": uid}, "status": status})
}

/// Containers of a status that are held back because their image could not be pulled, with what is said of it.
fn held_pulls(status: &PodStatus) -> impl Iterator<Item = (&str, &str)> {
    let all = status.init_container_statuses.iter().chain(&status.container_statuses);
    all.chain(&status.ephemeral_container_statuses).flatten().filter_map(|c| {
        let waiting = c.state.as_ref()?.waiting.as_ref()?;
        let held = waiting.reason.as_deref() == Some("ImagePullBackOff");
        held.then(|| (c.name.as_str(), waiting.message.as_deref().unwrap_or_default()))
    })
}

/// Events for pulls that a back-off begins to hold back, in the kubelet's words.
pub(super) fn tell_of_pulls(ctx: &Context, pod: &Pod, before: &PodStatus, now: &PodStatus) {
    for (name, why) in held_pulls(now).filter(|(name, _)| held_pulls(before).all(|(held, _)| held != *name)) {
        ctx.recorder.normal(container_reference(pod, name), "BackOff", why);
        ctx.recorder.warn(container_reference(pod, name), "Failed", "Error: ImagePullBackOff");
    }
}

/// Writes a patch. On the pod's way to Ready the API server is told whose step it is.
pub(super) async fn write(ctx: &Context, id: &PodId, patch: Value, way: &Parent) -> Written {
    let span = way.child("status");
    let written = async {
        let url = Pod::url_path(&(), Some(&id.namespace));
        let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
        let request = Request::new(url).patch_subresource("status", &id.name, &params, &patch);
        let mut request = request.map_err(kube::Error::BuildRequest)?;
        if let Some(traceparent) = span.ids().and_then(|ids| ids.traceparent().parse().ok()) {
            request.headers_mut().insert("traceparent", traceparent);
        }
        ctx.client().request::<Pod>(request).await
    };
    match written.await {
        Ok(_) => Written::Yes,
        Err(kube::Error::Api(s)) if s.code == 404 || s.code == 409 => Written::Moot,
        Err(error) => Written::No(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).expect("a status")
    }

    #[test]
    fn a_pull_is_held_back_from_one_status_to_the_next() {
        let waits = |reason: &str| {
            let state = json!({"waiting": {"reason": reason, "message": "Back-off pulling image \"x\""}});
            let c =
                json!({"name": "a", "image": "x", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            status(json!({"containerStatuses": [c]}))
        };
        assert_eq!(held_pulls(&waits("ErrImagePull")).count(), 0);
        let held = waits("ImagePullBackOff");
        assert_eq!(held_pulls(&held).collect::<Vec<_>>(), [("a", "Back-off pulling image \"x\"")]);
    }

    #[test]
    fn the_same_status_is_written_once() {
        let mut r = Report::default();
        let s = status(json!({"phase": "Running"}));
        assert!(r.next("u", &s).is_some());
        assert!(r.next("u", &status(json!({"phase": "Failed"}))).is_none(), "one write at a time");
        r.done(&Written::Yes);
        assert!(r.next("u", &s).is_none());
        assert!(r.next("u", &status(json!({"phase": "Failed"}))).is_some());
    }

    #[test]
    fn a_failed_write_is_written_again() {
        let mut r = Report::default();
        let s = status(json!({"phase": "Running"}));
        assert!(r.next("u", &s).is_some());
        r.done(&Written::No("busy".into()));
        assert!(r.next("u", &s).is_some());
    }

    #[test]
    fn the_conditions_of_a_resize_go_when_it_is_over() {
        let resizing = json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "PodResizePending", "status": "True"}]});
        let mut r = Report::new(Some(&status(resizing)));
        let done = status(json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        let patch = r.next("u", &done).expect("a patch");
        assert_eq!(patch["status"]["conditions"][1], json!({"$patch": "delete", "type": "PodResizePending"}));
        r.done(&Written::Yes);
        assert!(r.next("u", &done).is_none());
    }

    #[test]
    fn conditions_of_others_do_not_cause_writes_and_vanished_fields_are_removed() {
        let both = status(
            json!({"reason": "x", "podIPs": [{"ip": "1.1.1.1"}], "conditions": [{"type": "Ready", "status": "True", "message": "m"}, {"type": "other", "status": "True"}]}),
        );
        let mut r = Report::new(Some(&both));
        let ours = status(
            json!({"reason": "x", "podIPs": [{"ip": "1.1.1.1"}], "conditions": [{"type": "Ready", "status": "True", "message": "m"}]}),
        );
        assert!(r.next("u", &ours).is_none());
        let next = json!({"podIPs": [{"ip": "2.2.2.2"}], "conditions": [{"type": "Ready", "status": "True"}]});
        let patch = r.next("u", &status(next)).expect("a patch");
        assert_eq!(patch["status"]["conditions"][0].get("message"), Some(&Value::Null));
        assert_eq!(patch["status"]["reason"], Value::Null);
        assert_eq!(patch["status"]["podIPs"], json!([{"$patch": "replace"}, {"ip": "2.2.2.2"}]));
        assert_eq!(patch["metadata"]["uid"], "u");
    }
}
