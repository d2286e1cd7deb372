//! The autoscaler at work: reads the target's scale and the usage of its pods, and remembers what it recommended.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::selectors::LabelSelector;
use http::Method;
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, HorizontalPodAutoscaler};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use reconcile::autoscaler::{History, Target, Usage, View, plan};
use reconcile::labels::meets;
use reconcile::plan::{Resource, uid};
use serde_json::Value;

use crate::actuator::ActError;
use crate::cache::{Key, Listener, PodSketch};
use crate::controllers::{Context, Pass, work};

/// Passes at the same time, each over another autoscaler.
const WORKERS: usize = 2;

/// What each autoscaler recommended before, by its UID.
#[derive(Default)]
pub struct Autoscaling {
    histories: Mutex<HashMap<String, History>>,
}

/// Starts the workers.
pub fn start(context: &Arc<Context>) {
    work(context, "horizontalpodautoscaler", WORKERS, context.queues.autoscalers.clone(), pass);
}

/// Forgets the history of an autoscaler that is gone.
pub fn on_autoscaler(context: &Arc<Context>) -> Listener<HorizontalPodAutoscaler> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        if let (Some(c), Some(old), None) = (weak.upgrade(), old, new) {
            c.autoscaling.histories.lock().remove(uid(&old.metadata));
        }
    })
}

fn pass(c: Arc<Context>, (ns, name): Key) -> Pass {
    Box::pin(async move {
        let Some(hpa) = c.caches.autoscalers.get(&ns, &name) else { return Ok(None) };
        let (target, pods) = match target(&c, &ns, &hpa.spec.scale_target_ref).await {
            Ok((target, selector)) => {
                let meets = |pod: &PodSketch| selector.requirements().iter().all(|r| meets(r, pod));
                (Ok(target), c.caches.pods.pick(Some(&ns), |_, pod| meets(pod)))
            }
            Err(why) => (Err(why), Vec::new()),
        };
        let usage = if target.is_ok() { usage(&c, &ns).await } else { Ok(BTreeMap::new()) };
        let id = uid(&hpa.metadata).to_owned();
        let mut history = c.autoscaling.histories.lock().get(&id).cloned().unwrap_or_default();
        let refs: Vec<&Pod> = pods.iter().map(Arc::as_ref).collect();
        let plan = plan(&hpa, &View { target, pods: &refs, usage, now: Timestamp::now() }, &mut history);
        let outcome = c.carry_out(plan).await?;
        c.autoscaling.histories.lock().insert(id, history);
        Ok(outcome)
    })
}

fn why(e: &ActError) -> String {
    match e {
        ActError::Refused { source, .. } => match source.as_ref() {
            kube::Error::Api(status) => status.message.clone(),
            other => base::chain(other).to_string(),
        },
        conflict @ ActError::Conflict { .. } => conflict.to_string(),
    }
}

/// The target's scale, and which pods are its own.
async fn target(
    c: &Context,
    ns: &str,
    reference: &CrossVersionObjectReference,
) -> Result<(Target, LabelSelector), String> {
    let group = reference.api_version.as_deref().and_then(|v| v.split_once('/')).map_or("", |(group, _)| group);
    let all = api::kinds::registry().all();
    let kind = all.iter().find(|k| k.group == group && k.kind == reference.kind && k.scale.is_some());
    let Some(kind) = kind else {
        return Err(format!("no matches for kind {:?} in group {group:?} with a scale subresource", reference.kind));
    };
    let resource = Resource { group: kind.group, version: kind.version, plural: kind.plural, kind: kind.kind };
    let path = format!("{}/{}/scale", resource.path(Some(ns)), reference.name);
    let scale = c.actuator.call(Method::GET, &path, None, None).await.map_err(|e| why(&e))?;
    let count = |v: &Value| v.as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
    let selector = scale["status"]["selector"].as_str().unwrap_or_default();
    if selector.is_empty() {
        return Err("selector is required: the target's scale has none".into());
    }
    let selector = LabelSelector::parse(selector).map_err(|_| format!("couldn't convert selector {selector:?}"))?;
    let target =
        Target { resource, wanted: count(&scale["spec"]["replicas"]), there: count(&scale["status"]["replicas"]) };
    Ok((target, selector))
}

/// What the pods of a namespace used, as the resource metrics API tells.
async fn usage(c: &Context, ns: &str) -> Result<BTreeMap<String, Usage>, String> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{ns}/pods");
    let list = c.actuator.call(Method::GET, &path, None, None).await.map_err(|e| why(&e))?;
    let items = list["items"].as_array().into_iter().flatten();
    Ok(items.filter_map(|item| Some((item["metadata"]["name"].as_str()?.to_owned(), one(item)?))).collect())
}

fn one(item: &Value) -> Option<Usage> {
    let at = item["timestamp"].as_str()?.parse().ok()?;
    let window = item["window"].as_str().and_then(seconds).unwrap_or_default();
    let mut containers = BTreeMap::new();
    for container in item["containers"].as_array().into_iter().flatten() {
        let amounts = container["usage"].as_object().into_iter().flatten();
        let parsed = amounts.filter_map(|(resource, v)| {
            Some((resource.clone(), api::quantity::Quantity::from_json(v).ok()?.milli_value()))
        });
        containers.insert(container["name"].as_str()?.to_owned(), parsed.collect());
    }
    Some(Usage { at, window, containers })
}

/// Go's notation of a span, as far as metrics servers use it: `15s`, `1m0s`, `9.5s`.
fn seconds(text: &str) -> Option<Duration> {
    let (minutes, rest) = text.split_once('m').map_or(("0", text), |(m, rest)| (m, rest));
    let minutes: u64 = minutes.parse().ok()?;
    let rest = rest.strip_suffix('s').unwrap_or("0");
    let seconds = Duration::try_from_secs_f64(rest.parse().ok()?).ok()?;
    Duration::from_secs(minutes * 60).checked_add(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn measurements_are_read_per_container() {
        let item = json!({"metadata": {"name": "p"}, "timestamp": "2026-01-01T00:00:00Z", "window": "1m0.5s",
            "containers": [{"name": "a", "usage": {"cpu": "250m", "memory": "1Ki"}}, {"name": "b", "usage": {"cpu": "1500000n"}}]});
        let usage = one(&item).unwrap();
        assert_eq!(usage.window, Duration::from_millis(60_500));
        assert_eq!((usage.containers["a"]["cpu"], usage.containers["a"]["memory"]), (250, 1_024_000));
        assert_eq!(usage.containers["b"]["cpu"], 2);
    }
}
