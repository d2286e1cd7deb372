use std::collections::BTreeSet;
use std::sync::Arc;

use convert::Inspect;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::{Action, CONTAINER, Node, plan};

fn node() -> Node {
    Node { name: "n1".to_owned(), ip: "10.0.0.1".parse().unwrap() }
}

fn now() -> Timestamp {
    "2026-01-01T00:01:00Z".parse().unwrap()
}

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn container(digit: char, name: &str, more: Value) -> Inspect {
    let mut document = json!({
        "Id": id(digit), "Name": format!("/{name}"), "Created": format!("2026-01-01T00:00:0{digit}Z"), "Image": "sha256:1",
        "State": { "Status": "running", "StartedAt": "2026-01-01T00:00:10.5Z", "FinishedAt": "0001-01-01T00:00:00Z" },
        "Config": { "Image": "shop", "Env": ["A=1", "DB_PASSWORD=x", "B=$(A)"], "Cmd": ["sleep", "9"] },
        "NetworkSettings": { "IPAddress": "10.0.0.9" },
    });
    merge(&mut document, more);
    Inspect::read(document).unwrap()
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

fn created(actions: &[Action]) -> Vec<Pod> {
    let made = actions.iter().filter_map(|a| match a {
        Action::Create(pod) => Some(pod),
        _ => None,
    });
    made.map(|pod| serde_json::from_value((**pod).clone()).unwrap()).collect()
}

/// As the API server has it.
fn stored(mut pod: Pod, status: Option<PodStatus>) -> Arc<Pod> {
    pod.metadata.uid = Some(format!("u-{}", pod.metadata.name.as_deref().unwrap()));
    pod.status = status;
    Arc::new(pod)
}

fn decide(containers: &[Inspect], pods: &[Arc<Pod>]) -> Vec<Action> {
    plan(containers, pods, &BTreeSet::new(), &node(), now())
}

fn status(actions: &[Action]) -> PodStatus {
    let found = actions.iter().find_map(|a| match a {
        Action::Report { status, .. } => Some((**status).clone()),
        _ => None,
    });
    found.unwrap()
}

fn one(container: &Inspect) -> (Arc<Pod>, PodStatus) {
    let pod = stored(created(&decide(std::slice::from_ref(container), &[])).remove(0), None);
    let status = status(&decide(std::slice::from_ref(container), std::slice::from_ref(&pod)));
    (Arc::new(Pod { status: Some(status.clone()), ..(*pod).clone() }), status)
}

#[test]
fn a_container_is_a_pod_on_its_node() {
    let web = container(
        '1',
        "shop_web.1",
        json!({
            "Config": {
                "ExposedPorts": { "80/tcp": {} }, "Entrypoint": ["/run"], "User": "7:8",
                "Labels": { "tier": "front", "note": "a b", "kubernetes.io/x": "y", "windlass.dev/z": "y" },
            },
            "HostConfig": {
                "PortBindings": { "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "8080" }] }, "Memory": 1 << 20,
                "NanoCpus": 500_000_000, "RestartPolicy": { "Name": "unless-stopped" },
            },
            "Mounts": [
                { "Type": "volume", "Name": "data", "Source": "/v/data/_data", "Destination": "/data", "RW": true },
                { "Type": "tmpfs", "Source": "", "Destination": "/tmp", "RW": true },
            ],
        }),
    );
    let (pod, status) = one(&web);
    assert_eq!(pod.metadata.name.as_deref(), Some("shop-web-1"));
    let labels = pod.metadata.labels.clone().unwrap();
    assert_eq!((labels["tier"].as_str(), labels[CONTAINER].as_str(), labels.len()), ("front", &id('1')[..12], 2));
    assert_eq!(pod.metadata.annotations.as_ref().unwrap()["note"], "a b");
    let spec = json!(pod.spec);
    let main = &spec["containers"][0];
    assert_eq!((&spec["nodeName"], &spec["restartPolicy"]), (&json!("n1"), &json!("Always")));
    assert_eq!((&main["command"], &main["args"]), (&json!(["/run"]), &json!(["sleep", "9"])));
    let env = json!([
        {"name": "A", "value": "1"}, {"name": "DB_PASSWORD", "value": "<hidden>"}, {"name": "B", "value": "$$(A)"},
    ]);
    assert_eq!(main["env"], env);
    let port = json!([{"containerPort": 80, "protocol": "TCP", "hostPort": 8080, "hostIP": "127.0.0.1"}]);
    assert_eq!(main["ports"], port);
    assert_eq!(main["resources"]["requests"], json!({"cpu": "0m", "memory": "0"}));
    assert_eq!(main["securityContext"], json!({"runAsUser": 7, "runAsGroup": 8}));
    assert_eq!(spec["volumes"][0], json!({"name": "data", "hostPath": {"path": "/v/data/_data"}}));
    assert_eq!(spec["volumes"][1]["emptyDir"]["medium"], "Memory");
    assert_eq!((status.phase.as_deref(), status.pod_ip.as_deref()), (Some("Running"), Some("10.0.0.9")));
    let said = json!(status);
    assert_eq!(said["containerStatuses"][0]["state"]["running"]["startedAt"], "2026-01-01T00:00:10Z");
    assert_eq!(said["containerStatuses"][0]["containerID"], format!("windlass://{}", id('1')));
}

#[test]
fn ends_and_waits_are_told_in_kubernetes_words() {
    for (state, phase, reason) in [
        (json!({"Status": "exited", "ExitCode": 0}), "Succeeded", "Completed"),
        (json!({"Status": "exited", "ExitCode": 3}), "Failed", "Error"),
        (json!({"Status": "exited", "ExitCode": 137, "OOMKilled": true}), "Failed", "OOMKilled"),
        (json!({"Status": "created", "ExitCode": 127, "Error": "no such file"}), "Failed", "ContainerCannotRun"),
        (json!({"Status": "created"}), "Pending", "Created"),
        (json!({"Status": "restarting", "ExitCode": 1}), "Running", "CrashLoopBackOff"),
    ] {
        let (_, status) = one(&container('1', "web", json!({"State": state})));
        let said = json!(status);
        let now = &said["containerStatuses"][0]["state"];
        let found = now["terminated"]["reason"].as_str().or(now["waiting"]["reason"].as_str());
        assert_eq!((status.phase.as_deref(), found), (Some(phase), Some(reason)), "{state}");
        assert!(status.conditions.unwrap().iter().any(|c| c.type_ == "Ready" && c.status == "False"), "{state}");
    }
    let (_, unwell) = one(&container('1', "web", json!({"State": {"Health": {"Status": "unhealthy"}}})));
    assert_eq!(json!(unwell)["containerStatuses"][0]["ready"], false);
}

#[test]
fn what_is_there_stays_and_what_stands_for_nothing_goes() {
    let web = container('1', "web", json!({}));
    let (pod, _) = one(&web);
    let actions = decide(std::slice::from_ref(&web), std::slice::from_ref(&pod));
    assert!(matches!(actions[..], [Action::Report { .. }]), "{actions:?}");
    let gone = decide(&[], std::slice::from_ref(&pod));
    assert!(matches!(&gone[..], [Action::Delete { uid, .. }] if uid == "u-web"), "{gone:?}");
    // Renamed, given another limit, or started again after its end: another pod.
    for other in [container('1', "shop", json!({})), container('1', "web", json!({"HostConfig": {"Memory": 5}}))] {
        let actions = decide(&[other], std::slice::from_ref(&pod));
        assert!(matches!(actions[..], [Action::Delete { .. }, Action::Create(_)]), "{actions:?}");
    }
    let stopped = container('1', "web", json!({"State": {"Status": "exited"}, "HostConfig": {"Memory": 5}}));
    let actions = decide(std::slice::from_ref(&stopped), std::slice::from_ref(&pod));
    assert!(matches!(actions[..], [Action::Report { .. }]), "what is open while it does not run is not compared");
    let (ended, _) = one(&stopped);
    let actions = decide(&[web], &[ended]);
    assert!(matches!(actions[..], [Action::Delete { .. }, Action::Create(_)]), "{actions:?}");
}

#[test]
fn who_deletes_a_pod_ends_its_container() {
    let web = container('1', "web", json!({}));
    let mut pod = (*one(&web).0).clone();
    pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    pod.metadata.deletion_grace_period_seconds = Some(4);
    let actions = decide(&[web], &[Arc::new(pod)]);
    assert_eq!(actions, [Action::Remove { id: id('1'), grace_s: 4 }]);
}

#[test]
fn names_are_given_once() {
    let (a, b) = (container('2', "web_1", json!({})), container('1', "web-1", json!({})));
    let names = |containers: &[Inspect], pods: &[Arc<Pod>], taken: &[&str]| -> Vec<String> {
        let taken = taken.iter().map(|t| (*t).to_owned()).collect();
        let actions = plan(containers, pods, &taken, &node(), now());
        created(&actions).into_iter().filter_map(|p| p.metadata.name).collect()
    };
    assert_eq!(names(&[a.clone(), b.clone()], &[], &[]), ["web-1", "web-1-22222222"], "the oldest chooses first");
    let (first, _) = one(&a);
    assert_eq!(names(&[a.clone(), b.clone()], &[first], &[]), ["web-1-11111111"], "who has a name keeps it");
    assert_eq!(names(std::slice::from_ref(&b), &[], &["web-1"]), ["web-1-11111111"]);
    let by_hand = Pod { metadata: one(&b).0.metadata.clone(), ..Pod::default() };
    let mut by_hand = by_hand;
    by_hand.metadata.annotations = None;
    assert_eq!(names(&[b], &[Arc::new(by_hand)], &[]), ["web-1-11111111"], "a pod of somebody else");
    let long = container('3', &"x".repeat(90), json!({}));
    assert!(names(&[long], &[], &[]).iter().all(|n| n.len() <= 63));
}
