use serde_json::json;

use super::*;
use crate::kinds::registry;

mod more;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn cells(api_version: &str, kind: &str, mut object: Value) -> Vec<String> {
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    let kind = registry().by_api_version(api_version, kind).unwrap();
    let row = kind.row(&object, now());
    assert_eq!(row.len(), kind.columns.list.len(), "{}: one cell for each column", kind.kind);
    row.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect()
}

fn pod(spec: Value, status: Value) -> Vec<String> {
    cells("v1", "Pod", json!({"metadata": {"name": "p"}, "spec": spec, "status": status}))
}

#[test]
fn every_kind_fills_its_columns_even_when_empty() {
    for kind in registry().all() {
        let row = kind.row(&json!({}), now());
        assert_eq!(row.len(), kind.columns.list.len(), "{}", kind.kind);
        assert!(kind.columns.list.iter().any(|c| c.format == "name"), "{}", kind.kind);
    }
}

#[test]
fn a_pod_shows_the_word_kubectl_shows() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
    let cases = [
        (json!({"phase": "Pending"}), "0/2", "Pending", "0"),
        (json!({"phase": "Running", "containerStatuses": [running, running]}), "2/2", "Running", "0"),
        (
            json!({"phase": "Running", "containerStatuses": [
                {"ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                 "lastState": {"terminated": {"finishedAt": "2026-01-01T00:59:55Z", "exitCode": 1}}},
                running]}),
            "1/2",
            "CrashLoopBackOff",
            "3 (5s ago)",
        ),
        (
            json!({"phase": "Succeeded", "containerStatuses": [
                {"restartCount": 0, "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}),
            "0/2",
            "Completed",
            "0",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [
                {"restartCount": 0, "state": {"terminated": {"exitCode": 0, "signal": 9}}}]}),
            "0/2",
            "Signal:9",
            "0",
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), "0/2", "Evicted", "0"),
        (
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [
                {"restartCount": 0, "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}, running]}),
            "1/2",
            "Running",
            "0",
        ),
        (
            json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
            "0/2",
            "SchedulingGated",
            "0",
        ),
    ];
    for (status, ready, word, restarts) in cases {
        let row = pod(spec.clone(), status.clone());
        assert_eq!(row[..5], ["p", ready, word, restarts, "60m"], "{status}");
    }
}

#[test]
fn init_containers_and_sidecars_count_as_in_kubectl() {
    let spec = json!({
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}],
    });
    let done = json!({"name": "i", "restartCount": 1, "state": {"terminated": {"exitCode": 0}}});
    let row = pod(
        spec.clone(),
        json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "restartCount": 0, "state": {"running": {}}}]}),
    );
    assert_eq!(row[1..4], ["0/2", "Init:0/2", "0"]);
    let row = pod(
        spec.clone(),
        json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "restartCount": 2, "state": {"terminated": {"exitCode": 3}}}]}),
    );
    assert_eq!(row[2..4], ["Init:ExitCode:3", "2"]);
    let row = pod(
        spec.clone(),
        json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
    );
    assert_eq!(row[2], "Init:CrashLoopBackOff");
    let row = pod(
        spec,
        json!({"phase": "Running", "initContainerStatuses": [
        done, {"name": "s", "restartCount": 0, "ready": true, "started": true, "state": {"running": {}}}],
        "containerStatuses": [{"ready": true, "restartCount": 0, "state": {"running": {}}}]}),
    );
    assert_eq!(row[1..4], ["2/2", "Running", "0"], "restarts of finished init containers no longer count");
}

#[test]
fn a_deleted_pod_is_terminating_until_it_is_done() {
    let mut p = json!({"metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:59:00Z"},
        "status": {"phase": "Running"}});
    assert_eq!(cells("v1", "Pod", p.clone())[2], "Terminating");
    p["status"] = json!({"phase": "Succeeded"});
    assert_eq!(cells("v1", "Pod", p.clone())[2], "Succeeded");
    p["status"] = json!({"phase": "Running", "reason": "NodeLost"});
    assert_eq!(cells("v1", "Pod", p)[2], "Unknown");
}

#[test]
fn wide_pod_cells_name_what_is_missing() {
    let row = pod(
        json!({"nodeName": "n1", "readinessGates": [{"conditionType": "x/a"}, {"conditionType": "x/b"}]}),
        json!({"podIP": "10.0.0.1", "conditions": [{"type": "x/a", "status": "True"}]}),
    );
    assert_eq!(row[5..], ["10.0.0.1", "n1", "<none>", "1/2"]);
}

#[test]
fn workloads_show_counts_images_and_selector() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y"}]}});
    let o = json!({"metadata": {"name": "d"}, "spec": {"replicas": 3, "template": template,
        "selector": {"matchLabels": {"app": "d"}, "matchExpressions": [{"key": "t", "operator": "In", "values": ["b", "a"]}]}},
        "status": {"readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2, "replicas": 3}});
    assert_eq!(
        cells("apps/v1", "Deployment", o.clone()),
        ["d", "2/3", "1", "2", "60m", "a,b", "x:1,y", "app=d,t in (a,b)"]
    );
    assert_eq!(cells("apps/v1", "ReplicaSet", o.clone())[1..5], ["3", "3", "2", "60m"]);
    assert_eq!(cells("apps/v1", "StatefulSet", o)[1..], ["2/3", "60m", "a,b", "x:1,y"]);
}

#[test]
fn jobs_show_status_completions_and_duration() {
    let job = |spec: Value, status: Value| {
        cells("batch/v1", "Job", json!({"metadata": {"name": "j"}, "spec": spec, "status": status}))[1..4].to_vec()
    };
    assert_eq!(job(json!({"completions": 2}), json!({})), ["Running", "0/2", ""]);
    assert_eq!(job(json!({"parallelism": 4}), json!({"succeeded": 1})), ["Running", "1/1 of 4", ""]);
    let done = json!({"succeeded": 1, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:07Z",
        "conditions": [{"type": "Complete", "status": "True"}]});
    assert_eq!(job(json!({"completions": 1}), done), ["Complete", "1/1", "7s"]);
    let suspended = json!({"conditions": [{"type": "Suspended", "status": "True"}]});
    assert_eq!(job(json!({}), suspended), ["Suspended", "0/1", ""]);
}

#[test]
fn services_show_addresses_and_ports() {
    let service = |spec: Value, status: Value| {
        cells("v1", "Service", json!({"metadata": {"name": "s"}, "spec": spec, "status": status}))[1..5].to_vec()
    };
    let ports = json!([{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]);
    assert_eq!(
        service(json!({"type": "NodePort", "clusterIP": "10.1.0.1", "ports": ports}), json!({})),
        ["NodePort", "10.1.0.1", "<none>", "80:30080/TCP,53/UDP"]
    );
    assert_eq!(service(json!({"type": "LoadBalancer"}), json!({}))[2], "<pending>");
    let balanced = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"hostname": "h"}]}});
    assert_eq!(service(json!({"type": "LoadBalancer", "externalIPs": ["9.9.9.9"]}), balanced)[2], "1.2.3.4,h,9.9.9.9");
    assert_eq!(
        service(json!({"type": "ExternalName", "externalName": "a.b"}), json!({})),
        ["ExternalName", "<none>", "a.b", "<none>"]
    );
}

#[test]
fn nodes_volumes_and_the_rest_read_as_in_kubectl() {
    let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "1.1.1.1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.0"}}});
    assert_eq!(
        cells("v1", "Node", node),
        [
            "n",
            "Ready,SchedulingDisabled",
            "control-plane,worker",
            "60m",
            "v1.36.0",
            "1.1.1.1",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ]
    );
    let claim = json!({"metadata": {"name": "c"}, "spec": {"volumeName": "v", "volumeMode": "Filesystem", "storageClassName": "local"},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]}});
    assert_eq!(
        cells("v1", "PersistentVolumeClaim", claim),
        ["c", "Bound", "v", "1Gi", "RWO,RWX", "local", "<unset>", "60m", "Filesystem"]
    );
    let class = json!({"metadata": {"name": "l", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "p"});
    assert_eq!(
        cells("storage.k8s.io/v1", "StorageClass", class)[..5],
        ["l (default)", "p", "Delete", "Immediate", "false"]
    );
    let slice = json!({"metadata": {"name": "e"}, "addressType": "IPv4", "ports": [{"port": 80}],
        "endpoints": [{"addresses": ["a", "b"]}, {"addresses": ["c"]}, {"addresses": ["d"]}]});
    assert_eq!(cells("discovery.k8s.io/v1", "EndpointSlice", slice)[1..4], ["IPv4", "80", "a,b,c + 1 more..."]);
    let ingress = json!({"metadata": {"name": "i"}, "spec": {"ingressClassName": "w", "tls": [{}], "rules": [{"host": "h"}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}});
    assert_eq!(cells("networking.k8s.io/v1", "Ingress", ingress), ["i", "w", "h", "1.1.1.1", "80, 443", "60m"]);
}

#[test]
fn both_event_apis_show_the_same_row() {
    let core = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "reason": "Started",
        "message": "it runs\n", "type": "Normal", "count": 2, "lastTimestamp": "2026-01-01T00:59:00Z",
        "firstTimestamp": "2026-01-01T00:50:00Z", "source": {"component": "kubelet", "host": "n"}});
    let mut events = core.clone();
    registry().by_api_version("events.k8s.io/v1", "Event").unwrap().from_storage(&mut events);
    let row = cells("v1", "Event", core);
    assert_eq!(row, ["60s", "Normal", "Started", "pod/p", "", "kubelet, n", "it runs", "10m", "2", "e"]);
    assert_eq!(cells("events.k8s.io/v1", "Event", events), row);
}

#[test]
fn rows_carry_as_much_of_the_object_as_asked() {
    let kind = registry().by_api_version("v1", "ConfigMap").unwrap();
    let o = json!({"metadata": {"name": "c"}, "data": {"a": "b"}});
    let row = |include| table(kind, [&o], now(), include)["rows"][0].clone();
    assert!(row(IncludeObject::None).get("object").is_none());
    assert_eq!(row(IncludeObject::Metadata)["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(row(IncludeObject::Object)["object"], o);
    assert_eq!(IncludeObject::parse("x"), None);
}
