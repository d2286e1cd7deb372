//! Controllers, Services, claims and data.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::model::{Claim, Data, Kind, Port, Published, Workload};
use crate::names::{NAME, PROJECT};
use crate::pod::{bytes, put, template};

fn metadata(
    name: &str,
    namespace: Option<&str>,
    labels: &Map<String, Value>,
    annotations: &BTreeMap<String, String>,
) -> Value {
    let mut made = json!({"name": name});
    put(&mut made, "namespace", json!(namespace));
    put(&mut made, "labels", Value::Object(labels.clone()));
    put(&mut made, "annotations", json!(annotations));
    made
}

/// The labels that say which pods are the workload's, and which of the selected all objects carry.
fn own_labels(workload: &Workload) -> Map<String, Value> {
    let mut labels = Map::new();
    labels.insert(NAME.to_owned(), workload.name.clone().into());
    if let Some(project) = &workload.project {
        labels.insert(PROJECT.to_owned(), project.clone().into());
    }
    labels
}

/// The controller and, where it can be reached, the Services of a workload, in the order in which they are best applied.
pub fn objects(workload: &Workload) -> Vec<Value> {
    let own = own_labels(workload);
    let mut labels: Map<String, Value> = workload.labels.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    labels.extend(own.clone());
    let metadata = metadata(&workload.name, workload.namespace.as_deref(), &labels, &workload.annotations);
    let mut made = services(workload, &metadata, &own);
    made.push(controller(workload, &metadata, &own, &labels));
    made
}

fn controller(workload: &Workload, metadata: &Value, own: &Map<String, Value>, labels: &Map<String, Value>) -> Value {
    let template = template(workload, labels);
    let selector = json!({"matchLabels": own});
    let (api, kind, mut spec) = match &workload.kind {
        Kind::Replicated(replicas) => {
            let mut spec = json!({"replicas": replicas, "selector": selector, "template": template});
            spec["strategy"] = strategy(workload);
            put(&mut spec, "progressDeadlineSeconds", json!(workload.update.deadline));
            ("apps/v1", "Deployment", spec)
        }
        Kind::Stateful(replicas) => {
            let spec = json!({
                "replicas": replicas, "selector": selector, "serviceName": workload.name,
                "podManagementPolicy": "Parallel", "template": template,
            });
            ("apps/v1", "StatefulSet", spec)
        }
        Kind::Global => ("apps/v1", "DaemonSet", json!({"selector": selector, "template": template})),
        Kind::Once { completions, parallelism, retries } => {
            let spec = json!({
                "completions": completions, "parallelism": parallelism, "backoffLimit": retries, "template": template,
            });
            ("batch/v1", "Job", spec)
        }
    };
    if !matches!(workload.kind, Kind::Once { .. }) {
        if workload.update.delay > 0 {
            spec["minReadySeconds"] = workload.update.delay.into();
        }
        put(&mut spec, "revisionHistoryLimit", json!(workload.update.history));
    }
    json!({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec})
}

/// A Deployment's strategy. Start-first keeps all old pods until as many new ones are ready; stop-first takes as many away as are
/// replaced at a time, so that two never run side by side when there is one.
fn strategy(workload: &Workload) -> Value {
    let Kind::Replicated(replicas) = workload.kind else { return Value::Null };
    let at_a_time = match workload.update.parallelism {
        None => 1,
        Some(0) => replicas.max(1),
        Some(n) => n,
    };
    if !workload.update.stop_first {
        return json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": at_a_time, "maxUnavailable": 0}});
    }
    if at_a_time >= replicas {
        return json!({"type": "Recreate"});
    }
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": at_a_time}})
}

fn port_name(port: u16, port_of: &Port) -> String {
    format!("{}-{port}", port_of.protocol.name().to_ascii_lowercase())
}

/// A cluster-wide name for its ports; and, for what is published, a second Service, since a published port may be another than the
/// container's while other workloads keep to the container's.
fn services(workload: &Workload, metadata: &Value, selector: &Map<String, Value>) -> Vec<Value> {
    let mut made = Vec::new();
    let mut inner: BTreeMap<(u16, &str), Value> = BTreeMap::new();
    let mut outer: BTreeMap<(u16, &str), Value> = BTreeMap::new();
    let mut loopback: BTreeMap<(u16, &str), Value> = BTreeMap::new();
    for port in &workload.ports {
        let entry = |number: u16| {
            json!({
                "name": port_name(number, port), "port": number, "targetPort": port.container,
                "protocol": port.protocol.name(),
            })
        };
        inner.insert((port.container, port.protocol.name()), entry(port.container));
        match port.published {
            Published::Everywhere(number) => drop(outer.insert((number, port.protocol.name()), entry(number))),
            Published::Loopback(number) => drop(loopback.insert((number, port.protocol.name()), entry(number))),
            Published::Cluster | Published::OnNode(_) => {}
        }
    }
    let service = |metadata: &Value, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
    let stateful = matches!(workload.kind, Kind::Stateful(_));
    if !inner.is_empty() || workload.headless || stateful {
        let mut spec = json!({"selector": selector});
        if inner.is_empty() {
            spec["clusterIP"] = "None".into();
        }
        put(&mut spec, "ports", inner.into_values().collect());
        made.push(service(metadata, spec));
    }
    let mut published = |suffix: &str, ports: BTreeMap<(u16, &str), Value>, more: Value| {
        if ports.is_empty() {
            return;
        }
        let mut metadata = metadata.clone();
        metadata["name"] = crate::name(&format!("{}-{suffix}", workload.name)).into();
        let ports: Value = ports.into_values().collect();
        let mut spec = json!({"type": "LoadBalancer", "selector": selector, "ports": ports});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        made.push(service(&metadata, spec));
    };
    published("published", outer, Value::Null);
    // A node port would be open to all.
    let only_here = json!({"loadBalancerSourceRanges": ["127.0.0.0/8"], "allocateLoadBalancerNodePorts": false});
    published("loopback", loopback, only_here);
    made
}

fn plain(labels: &BTreeMap<String, String>) -> Map<String, Value> {
    labels.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect()
}

/// A claim.
pub fn claim(of: &Claim) -> Value {
    let mode = if of.shared { "ReadWriteMany" } else { "ReadWriteOnce" };
    let mut spec = json!({"accessModes": [mode], "resources": {"requests": {"storage": bytes(of.size)}}});
    if let Some(class) = &of.class {
        spec["storageClassName"] = class.clone().into();
    }
    put(&mut spec, "volumeName", json!(of.volume));
    let metadata = metadata(&of.name, of.namespace.as_deref(), &plain(&of.labels), &of.annotations);
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
}

/// A ConfigMap or Secret. Of a ConfigMap, what is UTF-8 is text.
pub fn data(of: &Data) -> Value {
    let metadata = metadata(&of.name, of.namespace.as_deref(), &plain(&of.labels), &of.annotations);
    let kind = if of.secret { "Secret" } else { "ConfigMap" };
    let mut made = json!({"apiVersion": "v1", "kind": kind, "metadata": metadata});
    let (mut text, mut binary) = (Map::new(), Map::new());
    for (key, bytes) in &of.entries {
        match std::str::from_utf8(bytes) {
            Ok(words) if !of.secret => text.insert(key.clone(), words.into()),
            _ => binary.insert(key.clone(), STANDARD.encode(bytes).into()),
        };
    }
    put(&mut made, "data", Value::Object(text));
    put(&mut made, if of.secret { "data" } else { "binaryData" }, Value::Object(binary));
    put(&mut made, "immutable", of.immutable.into());
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Health, HealthTest, Protocol, Update};

    fn web() -> Workload {
        let mut web = Workload::new("web", "web:1");
        web.project = Some("shop".to_owned());
        web.ports.push(Port { container: 80, protocol: Protocol::Tcp, published: Published::Everywhere(8080) });
        web
    }

    #[test]
    fn a_published_workload_has_a_name_inside_and_a_port_outside() {
        let made = objects(&web());
        let kinds: Vec<&str> = made.iter().filter_map(|o| o["kind"].as_str()).collect();
        assert_eq!(kinds, ["Service", "Service", "Deployment"]);
        assert_eq!(made[0]["spec"]["ports"][0]["port"], 80);
        assert_eq!(
            (&made[1]["spec"]["type"], &made[1]["spec"]["ports"][0]["port"]),
            (&json!("LoadBalancer"), &json!(8080))
        );
        assert_eq!(made[1]["metadata"]["name"], "web-published");
        assert_eq!(made[0]["spec"]["selector"], made[2]["spec"]["selector"]["matchLabels"]);
        assert_eq!(made[2]["spec"]["template"]["spec"]["containers"][0]["ports"], json!([{"containerPort": 80}]));
    }

    #[test]
    fn releases_follow_the_order_and_the_number_at_a_time() {
        let with = |replicas, update: Update| {
            strategy(&Workload { kind: Kind::Replicated(replicas), update, ..web() })["rollingUpdate"].clone()
        };
        assert_eq!(with(3, Update::default()), json!({"maxSurge": 1, "maxUnavailable": 0}));
        let stop = |n| Update { stop_first: true, parallelism: n, ..Update::default() };
        assert_eq!(with(3, stop(Some(2))), json!({"maxSurge": 0, "maxUnavailable": 2}));
        assert_eq!(with(3, stop(Some(0))), Value::Null, "all at once is Recreate");
        assert_eq!(with(1, stop(None)), Value::Null);
    }

    #[test]
    fn texts_are_literal_and_health_has_its_start() {
        let mut web = web();
        web.main().args = Some(vec!["$(HOME) $x".to_owned()]);
        let test = HealthTest::Shell("curl -f localhost".to_owned());
        web.main().health =
            Some(Health { test, interval: 10, timeout: 5, retries: 3, start_period: 20, restart: false });
        let made = objects(&web);
        let main = &made[2]["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(main["args"], json!(["$$(HOME) $x"]));
        assert_eq!(main["startupProbe"]["failureThreshold"], 43_200, "failing for a day ends nothing");
        assert_eq!(main["readinessProbe"]["exec"]["command"], json!(["/bin/sh", "-c", "curl -f localhost"]));
        assert_eq!(main["livenessProbe"], Value::Null);
        if let Some(health) = &mut web.main().health {
            health.restart = true;
        }
        let strict = objects(&web)[2]["spec"]["template"]["spec"]["containers"][0].clone();
        assert_eq!(strict["startupProbe"]["failureThreshold"], 10 + 15);
        assert_eq!(strict["livenessProbe"], strict["readinessProbe"]);
    }

    #[test]
    fn data_and_claims_say_what_they_hold() {
        let entries = BTreeMap::from([("a".to_owned(), b"text".to_vec()), ("b".to_owned(), vec![0xff])]);
        let map = data(&Data { name: "m".to_owned(), entries: entries.clone(), ..Data::default() });
        assert_eq!((&map["data"]["a"], &map["binaryData"]["b"]), (&json!("text"), &json!("/w==")));
        let secret = data(&Data { name: "s".to_owned(), secret: true, entries, ..Data::default() });
        assert_eq!(secret["data"], json!({"a": "dGV4dA==", "b": "/w=="}));
        let made = claim(&Claim { name: "c".to_owned(), size: 3 << 29, ..Claim::default() });
        assert_eq!(made["spec"]["resources"]["requests"]["storage"], "1536Mi");
    }
}
