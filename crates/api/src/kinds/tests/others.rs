use super::*;

#[track_caller]
fn refused(api_version: &str, name: &str, object: Value, expected: &str) {
    let (_, errors) = create(kind(api_version, name), object);
    assert!(errors.iter().any(|e| e == expected), "wanted {expected}\ngot {errors:#?}");
}

#[test]
fn namespaces_carry_their_name_as_a_label_and_a_finalizer() {
    let namespaces = kind("v1", "Namespace");
    let ns = created(namespaces, json!({"metadata": {"generateName": "team-"}}));
    assert_eq!(ns["metadata"]["labels"]["kubernetes.io/metadata.name"], "team-abcde");
    assert_eq!(ns["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(ns["status"], json!({"phase": "Active"}));
    let (kept, errors) = update(namespaces, &ns, |o| {
        o["spec"] = json!({});
        o["metadata"]["labels"] = json!({"a": "b"});
    });
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(kept["spec"], ns["spec"], "only finalize changes the spec");
    assert_eq!(kept["metadata"]["labels"]["kubernetes.io/metadata.name"], "team-abcde");
    assert_eq!(finalize_namespace(&json!({"spec": {}}), &ns)["spec"], json!({}));
    refused(
        "v1",
        "Namespace",
        json!({"metadata": {"name": "a.b"}}),
        &format!("metadata.name: Invalid value: \"a.b\": {}", crate::names::dns1123_label("a.b")[0]),
    );
}

#[test]
fn nodes_register_with_their_status() {
    let node = created(
        kind("v1", "Node"),
        json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": 4, "memory": "1024Mi"}}}),
    );
    assert_eq!(node["status"]["allocatable"], json!({"cpu": "4", "memory": "1Gi"}));
    refused(
        "v1",
        "Node",
        json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]}}),
        "spec.taints[1]: Duplicate value: \"taints must be unique by key and effect pair: a\"",
    );
}

#[test]
fn secrets_take_plain_text_and_keep_their_type() {
    let secrets = kind("v1", "Secret");
    let s =
        created(secrets, json!({"metadata": {"name": "s"}, "data": {"a": "eA=="}, "stringData": {"a": "y", "b": "z"}}));
    assert_eq!(s["data"], json!({"a": "eQ==", "b": "eg=="}));
    assert_eq!(s["type"], "Opaque");
    assert!(s.get("stringData").is_none());
    let (_, errors) = update(secrets, &s, |o| o["type"] = "kubernetes.io/basic-auth".into());
    assert!(errors.iter().any(|e| e == "type: Invalid value: \"kubernetes.io/basic-auth\": field is immutable"));
    refused(
        "v1",
        "Secret",
        json!({"metadata": {"name": "s"}, "type": "kubernetes.io/tls"}),
        "data[tls.crt]: Required value",
    );
    refused(
        "v1",
        "Secret",
        json!({"metadata": {"name": "s"}, "stringData": {"a/b": ""}}),
        &format!("data[a/b]: Invalid value: \"a/b\": {}", crate::names::config_map_key("a/b")[0]),
    );
}

#[test]
fn immutable_data_stays() {
    for (name, data) in [("ConfigMap", json!({"a": "x"})), ("Secret", json!({"a": "eA=="}))] {
        let k = kind("v1", name);
        let old = created(k, json!({"metadata": {"name": "c"}, "data": data, "immutable": true}));
        let (_, errors) = update(k, &old, |o| o["metadata"]["labels"] = json!({"a": "b"}));
        assert_eq!(errors, Vec::<String>::new());
        let (_, errors) = update(k, &old, |o| o["data"] = json!({}));
        assert_eq!(errors, ["data: Forbidden: field is immutable when `immutable` is set"]);
        let (_, errors) = update(k, &old, |o| o["immutable"] = false.into());
        assert_eq!(errors, ["immutable: Forbidden: field is immutable when `immutable` is set"]);
    }
}

#[test]
fn claims_are_fixed_but_for_growth() {
    let claims = kind("v1", "PersistentVolumeClaim");
    let mut old = created(
        claims,
        json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    );
    assert_eq!((&old["spec"]["volumeMode"], &old["status"]["phase"]), (&json!("Filesystem"), &json!("Pending")));
    let (bound, errors) = update(claims, &old, |o| o["spec"]["volumeName"] = "v".into());
    assert_eq!(errors, Vec::<String>::new(), "the binder may set the volume");
    let grow = |o: &mut Value| o["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
    let forbidden = "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    assert_eq!(update(claims, &bound, grow).1, [forbidden]);
    old = bound;
    old["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
    assert_eq!(update(claims, &old, grow).1, Vec::<String>::new());
    assert_eq!(update(claims, &old, |o| o["spec"]["accessModes"] = json!(["ReadWriteMany"])).1, [forbidden]);
    assert_eq!(
        update(claims, &old, |o| o["spec"]["resources"]["requests"]["storage"] = "1Mi".into()).1,
        ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
    );
    refused(
        "v1",
        "PersistentVolumeClaim",
        json!({"metadata": {"name": "c"}}),
        "spec.accessModes: Required value: at least 1 access mode is required",
    );
}

#[test]
fn volumes_and_classes_are_checked() {
    let volume = |spec: Value| json!({"metadata": {"name": "v"}, "spec": spec});
    let good = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1024Mi"}, "hostPath": {"path": "/x"}});
    let v = created(kind("v1", "PersistentVolume"), volume(good.clone()));
    assert_eq!(v["spec"]["persistentVolumeReclaimPolicy"], "Retain");
    assert_eq!(v["spec"]["capacity"]["storage"], "1Gi");
    let (_, errors) = update(kind("v1", "PersistentVolume"), &v, |o| o["spec"]["hostPath"]["path"] = "/y".into());
    assert_eq!(
        errors,
        ["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"]
    );
    refused(
        "v1",
        "PersistentVolume",
        volume(json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}})),
        "spec: Required value: must specify a volume type",
    );
    let class =
        created(kind("storage.k8s.io/v1", "StorageClass"), json!({"metadata": {"name": "c"}, "provisioner": "a.b/c"}));
    assert_eq!((&class["reclaimPolicy"], &class["volumeBindingMode"]), (&json!("Delete"), &json!("Immediate")));
    let (_, errors) = update(kind("storage.k8s.io/v1", "StorageClass"), &class, |o| o["provisioner"] = "x".into());
    assert_eq!(errors, ["provisioner: Forbidden: updates to provisioner are forbidden."]);
}

#[test]
fn ingresses_and_their_classes_are_checked() {
    let ingress = |spec: Value| json!({"metadata": {"name": "i"}, "spec": spec});
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let path = |p: Value| ingress(json!({"rules": [{"host": "a.b", "http": {"paths": [p]}}]}));
    created(
        kind("networking.k8s.io/v1", "Ingress"),
        path(json!({"path": "/", "pathType": "Prefix", "backend": backend})),
    );
    for (object, expected) in [
        (ingress(json!({})), "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"),
        (
            path(json!({"path": "/", "backend": backend})),
            "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
        ),
        (
            path(json!({"path": "x", "pathType": "Prefix", "backend": backend})),
            "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
        ),
        (
            path(json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s"}}})),
            "spec.rules[0].http.paths[0].backend.service.port: Required value: port name or number is required",
        ),
        (
            ingress(json!({"rules": [{"host": "1.2.3.4"}]})),
            "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
        ),
    ] {
        refused("networking.k8s.io/v1", "Ingress", object, expected);
    }
    refused(
        "networking.k8s.io/v1",
        "IngressClass",
        json!({"metadata": {"name": "c"}, "spec": {"controller": "x"}}),
        "spec.controller: Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")",
    );
}

#[test]
fn endpoints_slices_and_leases_are_checked() {
    let slice = created(
        kind("discovery.k8s.io/v1", "EndpointSlice"),
        json!({"metadata": {"name": "e"}, "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]}),
    );
    assert_eq!(slice["ports"][0], json!({"port": 80, "name": "", "protocol": "TCP"}));
    let (grown, errors) = update(kind("discovery.k8s.io/v1", "EndpointSlice"), &slice, |o| o["endpoints"] = json!([]));
    assert_eq!((meta::generation(&grown), errors.len()), (2, 0));
    refused(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        json!({"metadata": {"name": "e"}, "addressType": "IPv4", "endpoints": [{"addresses": []}]}),
        "endpoints[0].addresses: Required value: must contain at least 1 address",
    );
    refused(
        "v1",
        "Endpoints",
        json!({"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 1}]}]}),
        "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
    );
    refused(
        "coordination.k8s.io/v1",
        "Lease",
        json!({"metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 0}}),
        "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
    );
}

#[test]
fn events_translate_between_their_two_apis() {
    let events = kind("events.k8s.io/v1", "Event");
    let mut e = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "ns"},
        "regarding": {"kind": "Pod", "namespace": "ns", "name": "p"}, "note": "n", "reason": "r", "action": "a", "type": "Normal",
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c.d/e", "reportingInstance": "i"});
    let original = e.clone();
    assert_eq!(events.validate_create(&e), []);
    events.to_storage(&mut e);
    assert_eq!(
        (&e["apiVersion"], &e["message"], &e["involvedObject"]["name"]),
        (&json!("v1"), &json!("n"), &json!("p"))
    );
    assert_eq!(kind("v1", "Event").validate_create(&e), []);
    events.from_storage(&mut e);
    assert_eq!(e, original);
    refused(
        "v1",
        "Event",
        json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "other"}}),
        "involvedObject.namespace: Invalid value: \"other\": does not match event.namespace",
    );
}
