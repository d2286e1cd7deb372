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
pub type Key = (String, String, String);

/// What is watched in each namespace.
const KINDS: [(&str, &str); 6] = [
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("apps", "StatefulSet"),
    ("apps", "DaemonSet"),
    ("batch", "Job"),
    ("", "Pod"),
];

/// Restarts after which a container that keeps ending is not waited for any longer.
const RESTARTS_MAX: i64 = 3;

/// Returns once every Deployment, StatefulSet, DaemonSet and Job among the objects is ready or complete; with `give_up`, fails as
/// soon as one cannot become so by itself.
pub async fn until_ready(client: &Client, objects: &[Value], timeout: Duration, give_up: bool) -> anyhow::Result<()> {
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
        if give_up && let Some(why) = wanted.iter().find_map(|key| hopeless(key, &seen)) {
            screen.clear();
            bail!("{why}");
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

/// The key of a workload; none of anything else.
pub fn workload_key(object: &Value) -> Option<Key> {
    let kind = object["kind"].as_str()?;
    if !["Deployment", "StatefulSet", "DaemonSet", "Job"].contains(&kind) {
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
    let mut all = SelectAll::new();
    for namespace in namespaces {
        for (group, kind) in KINDS {
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
pub fn belongs(pod: &str, kind: &str, workload: &str) -> bool {
    let parts = if kind == "Deployment" { 2 } else { 1 };
    pod.strip_prefix(workload).and_then(|rest| rest.strip_prefix('-')).is_some_and(|r| r.split('-').count() == parts)
}

/// Returns once none of these workloads, nor any pod of theirs, is there.
pub async fn until_gone(client: &Client, keys: &BTreeSet<Key>, timeout: Duration) -> anyhow::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let namespaces: BTreeSet<&str> = keys.iter().map(|(_, namespace, _)| namespace.as_str()).collect();
    let mut events = streams(client, &namespaces);
    let mut seen: BTreeMap<Key, Value> = BTreeMap::new();
    // How many lists are still to come.
    let mut lists = namespaces.len() * KINDS.len();
    let deadline = tokio::time::sleep(timeout);
    tokio::pin!(deadline);
    loop {
        let of = |(kind, ns, name): &&Key| {
            let pod = |key: &Key| kind == "Pod" && *ns == key.1 && belongs(name, &key.0, &key.2);
            keys.iter().any(|key| key == &(kind.clone(), ns.clone(), name.clone()) || pod(key))
        };
        let left: Vec<&Key> = seen.keys().filter(of).collect();
        if lists == 0 && left.is_empty() {
            return Ok(());
        }
        tokio::select! {
            event = events.next() => match event {
                Some((_, Ok(Event::InitDone))) => lists = lists.saturating_sub(1),
                Some((kind, Ok(event))) => record(&mut seen, kind, event),
                Some((_, Err(_))) => {} // the watcher lists again by itself
                None => bail!("the API server closed its watches"),
            },
            () = &mut deadline => {
                let names: Vec<String> = left.iter().map(|(kind, _, name)| format!("{}/{name}", kind.to_lowercase())).collect();
                bail!("after {} s these are still there: {}", timeout.as_secs(), names.join(", "));
            }
        }
    }
}

/// Why a workload will not become ready however long one waits: only its newest pods are looked at.
fn hopeless(key: &Key, seen: &BTreeMap<Key, Value>) -> Option<String> {
    let object = seen.get(key)?;
    let label = format!("{}/{}", key.0.to_lowercase(), key.2);
    let condition = |kind: &str, status: &str| {
        let all = object["status"]["conditions"].as_array().into_iter().flatten();
        all.into_iter().find(|c| c["type"] == kind && c["status"] == status)
    };
    let words = |c: &Value| c["message"].as_str().unwrap_or_default().to_owned();
    if key.0 == "Job"
        && let Some(failed) = condition("Failed", "True")
    {
        return Some(format!("{label}: {}", words(failed)));
    }
    let seen_of = &object["status"]["observedGeneration"];
    if key.0 != "Job" && seen_of.as_i64() < object["metadata"]["generation"].as_i64() {
        return None;
    }
    if let Some(late) = condition("Progressing", "False").filter(|c| c["reason"] == "ProgressDeadlineExceeded") {
        return Some(format!("{label}: {}", words(late)));
    }
    let newest = newest(key, object, seen);
    let pods =
        seen.iter().filter(|((kind, ns, name), _)| kind == "Pod" && *ns == key.1 && belongs(name, &key.0, &key.2));
    pods.filter(|(_, pod)| newest(pod))
        .find_map(|((_, _, name), pod)| stuck(pod).map(|why| format!("{label}: pod {name}: {why}")))
}

/// Which pods are of the version that is being released.
fn newest<'a>(key: &Key, object: &'a Value, seen: &'a BTreeMap<Key, Value>) -> impl Fn(&Value) -> bool + 'a {
    let uid = object["metadata"]["uid"].clone();
    // Revisions in annotations are written a moment later than what they are about.
    let template = |set: &Value| {
        let mut template = set["spec"]["template"].clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove("pod-template-hash");
        }
        template
    };
    let sets: Vec<&Value> = seen
        .iter()
        .filter(|((kind, _, _), set)| kind == "ReplicaSet" && set["metadata"]["ownerReferences"][0]["uid"] == uid)
        .filter(|(_, set)| template(set) == object["spec"]["template"])
        .map(|(_, set)| &set["metadata"]["uid"])
        .collect();
    let update = object["status"]["updateRevision"].as_str();
    let kind = key.0.clone();
    move |pod| match kind.as_str() {
        "Deployment" => sets.contains(&&pod["metadata"]["ownerReferences"][0]["uid"]),
        "StatefulSet" => pod["metadata"]["labels"]["controller-revision-hash"].as_str() == update,
        // A Job has one version, and fails by itself; of a DaemonSet only the time tells.
        _ => kind == "Job",
    }
}

/// Why a pod will not become ready by itself.
fn stuck(pod: &Value) -> Option<String> {
    let status = &pod["status"];
    let containers =
        ["initContainerStatuses", "containerStatuses"].iter().flat_map(|f| status[*f].as_array().into_iter().flatten());
    for c in containers {
        let waiting = &c["state"]["waiting"];
        let reason = waiting["reason"].as_str().unwrap_or_default();
        let message = waiting["message"].as_str().map(|m| format!(" ({m})")).unwrap_or_default();
        match reason {
            "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => return Some(format!("{reason}{message}")),
            "CrashLoopBackOff" if c["restartCount"].as_i64().unwrap_or(0) >= RESTARTS_MAX => {
                let last = &c["lastState"]["terminated"];
                let code = last["exitCode"].as_i64().unwrap_or_default();
                let signal = last["reason"].as_str().filter(|r| *r == "OOMKilled").map(|r| format!(" ({r})"));
                return Some(format!(
                    "{reason}: it ended {} times, the last time with exit code {code}{}",
                    c["restartCount"],
                    signal.unwrap_or_default()
                ));
            }
            _ => {}
        }
    }
    let failed = status["phase"] == "Failed" && status["reason"] == "UnsupportedPodSpec";
    failed.then(|| status["message"].as_str().unwrap_or_default().to_owned())
}

/// `None` when the workload is where it should be.
pub fn progress(kind: &str, o: &Value) -> Option<String> {
    let n = |v: &Value| v.as_i64().unwrap_or(0);
    let status = &o["status"];
    if kind == "Job" {
        let complete = status["conditions"]
            .as_array()
            .is_some_and(|c| c.iter().any(|c| c["type"] == "Complete" && c["status"] == "True"));
        let wanted = o["spec"]["completions"].as_i64().unwrap_or(1);
        return (!complete).then(|| format!("{}/{wanted} completed", n(&status["succeeded"])));
    }
    if kind == "DaemonSet" {
        let observed = n(&status["observedGeneration"]) >= n(&o["metadata"]["generation"]);
        let wanted = n(&status["desiredNumberScheduled"]);
        let ready = n(&status["numberAvailable"]).min(n(&status["updatedNumberScheduled"]));
        return (!(observed && ready >= wanted)).then(|| format!("{ready}/{wanted} ready"));
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
    fn only_pods_of_the_newest_version_make_a_release_hopeless() {
        let key = |kind: &str, name: &str| (kind.to_owned(), "n".to_owned(), name.to_owned());
        let template = |image: &str, hash: Option<&str>| {
            let labels = hash.map_or(json!({"a": "b"}), |h| json!({"a": "b", "pod-template-hash": h}));
            json!({"template": {"metadata": {"labels": labels}, "spec": {"image": image}}})
        };
        let set = |name: &str, image: &str| json!({"metadata": {"uid": name, "ownerReferences": [{"uid": "d"}]}, "spec": template(image, Some(name))});
        let pod = |owner: &str| {
            json!({"metadata": {"ownerReferences": [{"uid": owner}]}, "status": {"phase": "Running", "containerStatuses": [
                {"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 7}}}]}})
        };
        let web = key("Deployment", "web");
        let mut seen = BTreeMap::from([
            (
                web.clone(),
                json!({"metadata": {"uid": "d", "generation": 2}, "spec": template("new", None),
                "status": {"observedGeneration": 2}}),
            ),
            (key("ReplicaSet", "web-a"), set("a", "old")),
            (key("ReplicaSet", "web-b"), set("b", "new")),
            (key("Pod", "web-a-x"), pod("a")),
        ]);
        assert_eq!(hopeless(&web, &seen), None, "the pod is of the old version");
        seen.insert(key("Pod", "web-b-x"), pod("b"));
        let why = hopeless(&web, &seen).unwrap();
        assert!(why.contains("web-b-x") && why.contains("exit code 7"), "{why}");
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
