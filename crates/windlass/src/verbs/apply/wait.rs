//! What is being waited for, and why: watches the workloads and their pods and says it in one line each.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::bail;
use futures::stream::SelectAll;
use futures::{Stream, StreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::Value;

/// `Kind/namespace/name`.
type Key = (String, String, String);

/// Returns once every Deployment, StatefulSet and Job among the objects is ready or complete.
pub async fn until_ready(client: &Client, objects: &[Value], timeout: Duration) -> anyhow::Result<()> {
    let wanted: BTreeSet<Key> = objects.iter().filter_map(workload_key).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let namespaces: BTreeSet<&str> = wanted.iter().map(|(_, namespace, _)| namespace.as_str()).collect();
    let mut events = streams(client, &namespaces);
    let mut seen: BTreeMap<Key, Value> = BTreeMap::new();
    let screen = Screen::new();
    let deadline = tokio::time::sleep(timeout);
    tokio::pin!(deadline);
    loop {
        let pending = pending(&wanted, &seen);
        screen.show(wanted.len(), &pending);
        if pending.is_empty() {
            screen.finish(wanted.len());
            return Ok(());
        }
        tokio::select! {
            event = events.next() => match event {
                Some((kind, Ok(event))) => record(&mut seen, kind, event),
                Some((_, Err(_))) => {} // the watcher lists again by itself
                None => bail!("the API server closed its watches"),
            },
            () = &mut deadline => {
                screen.clear();
                let lines: Vec<String> = pending.iter().map(|(w, why)| format!("  {w}: {why}")).collect();
                bail!("after {} s these are not ready:\n{}", timeout.as_secs(), lines.join("\n"));
            }
        }
    }
}

fn workload_key(object: &Value) -> Option<Key> {
    let kind = object["kind"].as_str()?;
    if !["Deployment", "StatefulSet", "Job"].contains(&kind) {
        return None;
    }
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    Some((kind.into(), namespace.into(), object["metadata"]["name"].as_str()?.into()))
}

type WatchItem = (&'static str, Result<Event<DynamicObject>, watcher::Error>);

fn streams(
    client: &Client,
    namespaces: &BTreeSet<&str>,
) -> SelectAll<std::pin::Pin<Box<dyn Stream<Item = WatchItem>>>> {
    let kinds = [("apps", "Deployment"), ("apps", "StatefulSet"), ("batch", "Job"), ("", "Pod")];
    let mut all = SelectAll::new();
    for namespace in namespaces {
        for (group, kind) in kinds {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
            let stream = watcher(api, watcher::Config::default()).map(move |event| (kind, event));
            all.push(Box::pin(stream) as std::pin::Pin<Box<dyn Stream<Item = WatchItem>>>);
        }
    }
    all
}

fn record(seen: &mut BTreeMap<Key, Value>, kind: &str, event: Event<DynamicObject>) {
    let key = |o: &DynamicObject| {
        let m = &o.metadata;
        (kind.to_owned(), m.namespace.clone().unwrap_or_default(), m.name.clone().unwrap_or_default())
    };
    match event {
        Event::Apply(o) | Event::InitApply(o) => {
            let k = key(&o);
            let mut value = o.data.clone();
            value["metadata"] = serde_json::to_value(&o.metadata).unwrap_or_default();
            seen.insert(k, value);
        }
        Event::Delete(o) => {
            seen.remove(&key(&o));
        }
        Event::Init | Event::InitDone => {}
    }
}

/// The workloads that are not ready, each with the reason a person would want to read.
fn pending(wanted: &BTreeSet<Key>, seen: &BTreeMap<Key, Value>) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for key in wanted {
        let label = format!("{}/{}", key.0.to_lowercase(), key.2);
        let Some(object) = seen.get(key) else {
            lines.push((label, "not seen yet".into()));
            continue;
        };
        let Some(progress) = progress(&key.0, object) else { continue };
        let why = seen
            .iter()
            .filter(|((kind, ns, name), _)| kind == "Pod" && *ns == key.1 && belongs(name, &key.0, &key.2))
            .find_map(|((_, _, name), pod)| pod_reason(pod).map(|r| format!("{progress}; pod {name}: {r}")));
        lines.push((label, why.unwrap_or(progress)));
    }
    lines
}

/// Pods are named after their workload: `NAME-HASH-xxxxx` of a Deployment, `NAME-0` or `NAME-xxxxx` of the others.
fn belongs(pod: &str, kind: &str, workload: &str) -> bool {
    let parts = if kind == "Deployment" { 2 } else { 1 };
    pod.strip_prefix(workload).and_then(|rest| rest.strip_prefix('-')).is_some_and(|r| r.split('-').count() == parts)
}

/// `None` when the workload is where it should be.
fn progress(kind: &str, o: &Value) -> Option<String> {
    let n = |v: &Value| v.as_i64().unwrap_or(0);
    let status = &o["status"];
    if kind == "Job" {
        let complete = status["conditions"]
            .as_array()
            .is_some_and(|c| c.iter().any(|c| c["type"] == "Complete" && c["status"] == "True"));
        let wanted = o["spec"]["completions"].as_i64().unwrap_or(1);
        return (!complete).then(|| format!("{}/{wanted} completed", n(&status["succeeded"])));
    }
    let wanted = o["spec"]["replicas"].as_i64().unwrap_or(1);
    let observed = n(&status["observedGeneration"]) >= n(&o["metadata"]["generation"]);
    let updated = n(&status["updatedReplicas"]);
    let ready = n(&status[if kind == "Deployment" { "availableReplicas" } else { "readyReplicas" }]);
    let surplus = n(&status["replicas"]) > wanted;
    (!(observed && updated >= wanted && ready >= wanted && !surplus)).then(|| format!("{ready}/{wanted} ready"))
}

/// Why a pod is not ready, in the words of its status.
fn pod_reason(pod: &Value) -> Option<String> {
    let status = &pod["status"];
    let containers =
        ["initContainerStatuses", "containerStatuses"].iter().flat_map(|f| status[*f].as_array().into_iter().flatten());
    for c in containers {
        let waiting = &c["state"]["waiting"];
        if let Some(reason) = waiting["reason"].as_str() {
            let message = waiting["message"].as_str().map(|m| format!(" ({m})")).unwrap_or_default();
            return Some(format!("{reason}{message}"));
        }
    }
    let conditions = status["conditions"].as_array()?;
    let unscheduled = conditions.iter().find(|c| c["type"] == "PodScheduled" && c["status"] == "False");
    if let Some(c) = unscheduled {
        return Some(format!("not scheduled: {}", c["message"].as_str().unwrap_or("no node fits")));
    }
    let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    (!ready && status["phase"] != "Succeeded").then(|| match status["phase"].as_str() {
        Some("Running") => "running, waiting for its readiness probe".into(),
        Some(phase) => phase.to_lowercase(),
        None => "pending".into(),
    })
}

/// A live block on a terminal, and only the changes elsewhere.
struct Screen {
    bar: Option<ProgressBar>,
    last: std::cell::RefCell<Vec<(String, String)>>,
}

impl Screen {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(
                ProgressStyle::with_template("{spinner} {elapsed} {msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Screen { bar, last: std::cell::RefCell::default() }
    }

    fn show(&self, total: usize, pending: &[(String, String)]) {
        let mut last = self.last.borrow_mut();
        if *last == pending {
            return;
        }
        let ready = total - pending.len();
        let line = |(workload, why): &(String, String)| format!("    {workload:<28} {why}");
        match &self.bar {
            Some(bar) => {
                let lines: Vec<String> = pending.iter().map(line).collect();
                bar.set_message(format!("{ready} of {total} workloads ready\n{}", lines.join("\n")));
            }
            None => {
                // What was said before is still on the page.
                pending.iter().filter(|p| !last.contains(p)).for_each(|p| eprintln!("{}", line(p)));
                if last.len() != pending.len() {
                    eprintln!("{ready} of {total} workloads ready");
                }
            }
        }
        *last = pending.to_vec();
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn finish(&self, total: usize) {
        self.clear();
        eprintln!("all {total} workloads are ready");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_waiting_container_says_why() {
        let pod = json!({"status": {"phase": "Pending", "containerStatuses": [
            {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}]}});
        assert_eq!(pod_reason(&pod).unwrap(), "ErrImagePull (no such image)");
    }

    #[test]
    fn a_pod_belongs_to_the_workload_that_made_it() {
        assert!(belongs("erp-ab12-xyz", "Deployment", "erp"));
        assert!(!belongs("erp-sync-ab12-xyz", "Deployment", "erp"));
        assert!(belongs("postgres-0", "StatefulSet", "postgres"));
    }

    #[test]
    fn a_deployment_is_done_only_when_its_old_pods_are_gone() {
        let mut d = json!({"metadata": {"generation": 2}, "spec": {"replicas": 2},
            "status": {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 2}});
        assert!(progress("Deployment", &d).is_some());
        d["status"]["replicas"] = json!(2);
        assert_eq!(progress("Deployment", &d), None);
    }
}
