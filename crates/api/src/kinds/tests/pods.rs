use super::*;

fn pods() -> &'static KindInfo {
    kind("v1", "Pod")
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

fn one(container: Value) -> Value {
    let mut c = json!({"name": "c", "image": "i"});
    for (k, v) in container.as_object().unwrap() {
        c[k] = v.clone();
    }
    pod(json!({"containers": [c]}))
}

#[test]
fn a_minimal_pod_gets_kubernetes_defaults() {
    let p = created(pods(), one(json!({"ports": [{"containerPort": 80}]})));
    assert_eq!(
        p["spec"],
        json!({
            "containers": [{
                "name": "c", "image": "i", "imagePullPolicy": "Always", "resources": {},
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "securityContext": {}, "terminationGracePeriodSeconds": 30, "enableServiceLinks": true,
        })
    );
    assert_eq!(p["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(p["metadata"]["generation"], 1);
}

#[test]
fn the_pull_policy_follows_the_tag() {
    for (image, policy) in [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("a:1", "IfNotPresent"),
        ("host:5000/a", "Always"),
        ("host:5000/a:1", "IfNotPresent"),
        ("a@sha256:00", "IfNotPresent"),
        ("a:latest@sha256:00", "Always"),
    ] {
        let p = created(pods(), one(json!({ "image": image })));
        assert_eq!(p["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
    }
}

#[test]
fn nested_parts_get_their_defaults() {
    let p = created(
        pods(),
        pod(json!({
            "hostNetwork": true,
            "serviceAccount": "old",
            "containers": [{
                "name": "c", "image": "i:1", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": 1, "memory": "1024Mi"}, "requests": {"cpu": "0.5"}},
                "livenessProbe": {"httpGet": {"port": "http"}},
                "readinessProbe": {"grpc": {"port": 1}, "periodSeconds": 3},
                "lifecycle": {"preStop": {"httpGet": {"port": 8080, "path": "/x"}}},
                "env": [
                    {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                ],
            }],
            "volumes": [
                {"name": "e"}, {"name": "s", "secret": {"secretName": "s"}}, {"name": "h", "hostPath": {"path": "/x"}},
                {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            ],
        })),
    );
    let c = &p["spec"]["containers"][0];
    assert_eq!(c["ports"][0]["hostPort"], 80);
    assert_eq!(
        c["resources"],
        json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}})
    );
    assert_eq!(
        c["livenessProbe"],
        json!({"httpGet": {"port": "http", "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
            "successThreshold": 1, "failureThreshold": 3})
    );
    assert_eq!(c["readinessProbe"]["grpc"]["service"], "");
    assert_eq!(c["readinessProbe"]["periodSeconds"], 3);
    assert_eq!(c["lifecycle"]["preStop"]["httpGet"]["scheme"], "HTTP");
    assert_eq!(c["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    assert_eq!(c["env"][1]["valueFrom"]["resourceFieldRef"]["divisor"], "0");
    assert_eq!(p["spec"]["serviceAccountName"], "old");
    assert_eq!(
        p["spec"]["volumes"],
        json!([
            {"name": "e", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "s", "defaultMode": 420}},
            {"name": "h", "hostPath": {"path": "/x", "type": ""}},
            {"name": "p", "projected": {"defaultMode": 420,
                "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}},
        ])
    );
    assert_eq!(p["status"]["qosClass"], "Burstable");
}

#[test]
fn the_qos_class_follows_requests_and_limits() {
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1"}}), "Guaranteed"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), "Burstable"),
        (json!({"requests": {"memory": "1Gi"}}), "Burstable"),
        (json!({"limits": {"cpu": "1"}}), "Burstable"),
        (json!({"requests": {"ephemeral-storage": "1Gi"}}), "BestEffort"),
    ] {
        let p = created(pods(), one(json!({ "resources": resources })));
        assert_eq!(p["status"]["qosClass"], class, "{resources}");
    }
}

#[test]
// allow-long: a table of refusals.
fn bad_pods_are_refused_in_kubernetes_words() {
    let cases = [
        (pod(json!({})), "spec.containers: Required value"),
        (pod(json!({"containers": [{"name": "c"}]})), "spec.containers[0].image: Required value"),
        (pod(json!({"containers": [{"image": "i"}]})), "spec.containers[0].name: Required value"),
        (
            pod(json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]})),
            "spec.containers[1].name: Duplicate value: \"c\"",
        ),
        (
            one(json!({"image": " i"})),
            "spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace",
        ),
        (
            one(json!({"imagePullPolicy": "Sometimes"})),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (one(json!({"ports": [{"containerPort": 0}]})), "spec.containers[0].ports[0].containerPort: Required value"),
        (
            one(json!({"ports": [{"containerPort": 70000}]})),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            one(json!({"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]})),
            "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
        ),
        (
            one(json!({"ports": [{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]})),
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//5\"",
        ),
        (one(json!({"env": [{"value": "x"}]})), "spec.containers[0].env[0].name: Required value"),
        (
            one(json!({"env": [{"name": "A", "valueFrom": {}}]})),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        (
            one(json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]})),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            one(json!({"livenessProbe": {}})),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            one(json!({"livenessProbe": {"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}}})),
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (
            one(json!({"livenessProbe": {"exec": {"command": ["x"]}, "successThreshold": 2}})),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            one(json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}})),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            one(json!({"resources": {"limits": {"memory": "-1"}}})),
            "spec.containers[0].resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            pod(json!({"containers": [{"name": "c", "image": "i"}],
                "volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]})),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            pod(json!({"containers": [{"name": "c", "image": "i"}], "hostUsers": false, "hostPID": true})),
            "spec.HostPID: Forbidden: when `hostUsers` is false",
        ),
        (
            one(json!({"securityContext": {"procMount": "Unmasked"}})),
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
        ),
        (
            pod(json!({"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Maybe"})),
            "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            pod(json!({"containers": [{"name": "c", "image": "i"}], "activeDeadlineSeconds": 0})),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (
            pod(json!({"containers": [{"name": "c", "image": "i"}], "tolerations": [{"operator": "Equal"}]})),
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        ),
        (
            pod(json!({"containers": [{"name": "c", "image": "i"}],
                "initContainers": [{"name": "d", "image": "i", "livenessProbe": {"exec": {"command": ["x"]}}}]})),
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (
            one(json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}})),
            "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ),
    ];
    for (object, expected) in cases {
        let (_, errors) = create(pods(), object);
        assert!(errors.iter().any(|e| e == expected), "wanted {expected}\ngot {errors:#?}");
    }
}

#[test]
fn host_names_signals_and_files_of_variables_have_their_rules() {
    let c = || json!([{"name": "c", "image": "i"}]);
    let key = |volume: &str, path: &str| {
        let env = json!([{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": volume, "path": path, "key": "K"}}}]);
        let volumes = json!([{"name": "own", "emptyDir": {}}, {"name": "hosts", "hostPath": {"path": "/"}}]);
        pod(json!({"containers": [{"name": "c", "image": "i", "env": env}], "volumes": volumes}))
    };
    let signal = |os: Value, name: &str| {
        let mut p = one(json!({"lifecycle": {"stopSignal": name}}));
        p["spec"]["os"] = os;
        p
    };
    let linux = || json!({"name": "linux"});
    let at = "spec.containers[0].env[0].valueFrom.fileKeyRef";
    let cases = [
        (
            pod(json!({"containers": c(), "hostNetwork": true, "hostnameOverride": "h"})),
            "spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true".to_owned(),
        ),
        (
            pod(json!({"containers": c(), "setHostnameAsFQDN": true, "hostnameOverride": "h"})),
            "spec.hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is true".to_owned(),
        ),
        (
            pod(json!({"containers": c(), "hostnameOverride": "h".repeat(65)})),
            "spec.hostnameOverride: Too long: may not be more than 64 bytes".to_owned(),
        ),
        (
            signal(Value::Null, "SIGUSR1"),
            "spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`"
                .to_owned(),
        ),
        (
            signal(json!({"name": "windows"}), "SIGUSR1"),
            "spec.containers[0].lifecycle.stopSignal: Unsupported value: \"SIGUSR1\": supported values: \"SIGKILL\", \"SIGTERM\""
                .to_owned(),
        ),
        (key("own", "../x"), format!("{at}.path: Invalid value: \"../x\": must not contain '..'")),
        (key("own", ""), format!("{at}.path: Required value")),
        (key("none", "x"), format!("{at}.volumeName: Not found: \"none\"")),
        (
            key("hosts", "x"),
            format!("{at}.volumeName: Invalid value: \"hosts\": referenced volume must be of type emptyDir"),
        ),
    ];
    for (object, expected) in cases {
        let (_, errors) = create(pods(), object);
        assert!(errors.contains(&expected), "wanted {expected}\ngot {errors:#?}");
    }
    for bad in ["SIGNOPE", "SIGRTMIN+16", "SIGRTMAX-0"] {
        let (_, errors) = create(pods(), signal(linux(), bad));
        assert!(errors.iter().any(|e| e.contains("Unsupported value")), "{bad}: {errors:?}");
    }
    for good in ["SIGTERM", "SIGRTMIN", "SIGRTMIN+15", "SIGRTMAX-14"] {
        created(pods(), signal(linux(), good));
    }
    created(pods(), key("own", "dir/x"));
    created(pods(), pod(json!({"containers": c(), "hostnameOverride": "any.name.example"})));
}

#[test]
fn repeated_environment_variables_are_allowed_as_the_last_wins() {
    created(pods(), one(json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]})));
}

#[test]
fn only_a_few_fields_of_a_pod_may_change() {
    let old = created(pods(), one(json!({})));
    let (new, errors) = update(pods(), &old, |p| {
        p["spec"]["containers"][0]["image"] = "j".into();
        p["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists"}]);
        p["spec"]["activeDeadlineSeconds"] = 5.into();
        p["status"] = json!({"phase": "Hacked"});
        p["metadata"]["labels"] = json!({"a": "b"});
    });
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(new["status"], old["status"]);
    assert_eq!(new["metadata"]["generation"], 2);
    let (_, errors) = update(pods(), &old, |p| p["spec"]["nodeName"] = "n".into());
    assert!(
        errors[0].starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"),
        "{errors:?}"
    );
    assert!(errors[0].contains("spec.nodeName"));
    let (_, errors) = update(pods(), &old, |p| p["spec"]["containers"] = json!([]));
    assert_eq!(errors, ["spec.containers: Forbidden: pod updates may not add or remove containers"]);
    let (_, errors) = update(pods(), &new, |p| p["spec"]["tolerations"] = json!([]));
    assert_eq!(
        errors,
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
    );
}

#[test]
fn gates_hold_a_pod_back_and_only_go_away() {
    let old = created(
        pods(),
        pod(json!({"containers": [{"name": "c", "image": "i"}], "schedulingGates": [{"name": "x.y/g"}]})),
    );
    assert_eq!(old["status"]["conditions"][0]["reason"], "SchedulingGated");
    let (_, errors) = update(pods(), &old, |p| {
        p["spec"]["schedulingGates"] = json!([]);
        p["spec"]["nodeSelector"] = json!({"a": "b"});
    });
    assert_eq!(errors, Vec::<String>::new());
    let (_, errors) = update(pods(), &old, |p| p["spec"]["schedulingGates"] = json!([{"name": "x.y/h"}]));
    assert_eq!(errors.len(), 1, "{errors:?}");
}

#[test]
fn grace_periods_follow_request_pod_and_state() {
    let grace = |p: &Value, requested| pods().grace_period(p, requested);
    let running =
        json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}});
    assert_eq!(grace(&running, None), Some(30));
    assert_eq!(grace(&running, Some(5)), Some(5));
    assert_eq!(grace(&running, Some(0)), Some(0));
    assert_eq!(grace(&running, Some(-3)), Some(1));
    assert_eq!(grace(&json!({"spec": {"terminationGracePeriodSeconds": 30}}), None), Some(0), "unscheduled");
    let mut done = running;
    done["status"]["phase"] = "Succeeded".into();
    assert_eq!(grace(&done, None), Some(0));
    assert_eq!(kind("v1", "ConfigMap").grace_period(&json!({}), Some(5)), None);
}

#[test]
fn admission_adds_account_token_tolerations_and_priority() {
    let account = json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "r"}]});
    let view = pod::ServiceAccountView { object: Some(&account), volume_suffix: "abcde" };
    let mut p = one(json!({}));
    pods().default(&mut p);
    pod::admit(&mut p, &view);
    let spec = &p["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["priority"]), (&json!("default"), &json!(0)));
    assert_eq!(spec["preemptionPolicy"], "PreemptLowerPriority");
    assert_eq!(spec["imagePullSecrets"], account["imagePullSecrets"]);
    assert_eq!(spec["volumes"][0]["name"], "kube-api-access-abcde");
    assert_eq!(
        spec["containers"][0]["volumeMounts"],
        json!([{"name": "kube-api-access-abcde", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}])
    );
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(spec["tolerations"][0]["tolerationSeconds"], 300);
    let before = p.clone();
    pod::admit(&mut p, &view);
    assert_eq!(p, before, "admitting twice changes nothing");
    created(pods(), p);
    let mut opted_out =
        pod(json!({"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]}));
    pod::admit(&mut opted_out, &view);
    assert!(opted_out["spec"].get("volumes").is_none());
}

#[test]
fn a_binding_places_a_pod_once() {
    let mut p = created(pods(), one(json!({})));
    let binding =
        json!({"metadata": {"name": "p", "annotations": {"k": "v"}}, "target": {"kind": "Node", "name": "n1"}});
    pod::bind(&mut p, &binding, now()).unwrap();
    assert_eq!(p["spec"]["nodeName"], "n1");
    assert_eq!(p["metadata"]["annotations"]["k"], "v");
    assert_eq!(p["status"]["conditions"][0]["status"], "True");
    assert_eq!(pod::bind(&mut p, &binding, now()).unwrap_err(), "pod p is already assigned to node \"n1\"");
}

#[test]
fn a_finished_container_does_not_come_back_under_never() {
    let mut old = created(pods(), pod(json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]})));
    old["status"]["containerStatuses"] = json!([{"name": "c", "state": {"terminated": {"exitCode": 0}}}]);
    let mut new = old.clone();
    new["status"]["containerStatuses"] = json!([{"name": "c", "state": {"running": {}}}]);
    let errors = pods().validate_status_update(&new, &old);
    assert_eq!(
        errors[0].to_string(),
        "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"
    );
    new["metadata"]["ownerReferences"] = json!([{"uid": "x"}]);
    new["spec"]["nodeName"] = "hack".into();
    pods().prepare_status_update(&mut new, &old);
    assert_eq!(new["spec"], old["spec"]);
    assert!(new["metadata"].get("ownerReferences").is_none());
}

#[test]
fn pods_are_selectable_by_the_fields_kubernetes_names() {
    let fields = pods().selectable(
        &json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "x", "hostNetwork": true}}),
    );
    let get = |key: &str| fields.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str());
    assert_eq!(get("spec.nodeName"), Some("x"));
    assert_eq!(get("spec.hostNetwork"), Some("true"));
    assert_eq!(get("status.phase"), Some(""));
    assert!(!pods().is_selectable("spec.foo"));
}

#[test]
fn the_claim_of_a_pods_own_is_checked_as_the_claim_that_is_made() {
    let own = |template: Value| json!({"name": "v", "ephemeral": {"volumeClaimTemplate": template}});
    let with = |volumes: Value| pod(json!({"containers": [{"name": "c", "image": "i"}], "volumes": volumes}));
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let meta = json!({"labels": {"a": "b"}, "annotations": {"c": "d"}, "creationTimestamp": null});
    created(pods(), with(json!([own(json!({"metadata": meta, "spec": claim}))])));
    let at = "spec.volumes[0].ephemeral.volumeClaimTemplate";
    let asks = |extra: Value| {
        let mut spec = claim.clone();
        extra.as_object().unwrap().iter().for_each(|(k, v)| spec[k] = v.clone());
        with(json!([own(json!({"spec": spec}))]))
    };
    let cases = [
        (with(json!([{"name": "v", "ephemeral": {}}])), format!("{at}: Required value")),
        (asks(json!({"accessModes": []})), format!("{at}.spec.accessModes: Required value: at least 1 access mode is required")),
        (asks(json!({"resources": {}})), format!("{at}.spec.resources[storage]: Required value")),
        (asks(json!({"volumeMode": "Tape"})), format!("{at}.spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \"Filesystem\"")),
        (
            asks(json!({"dataSource": {"kind": "Thing", "name": "x"}})),
            format!("{at}.spec.dataSource: Invalid value: \"Thing\": must be 'PersistentVolumeClaim' when referencing the default apiGroup"),
        ),
        (
            with(json!([own(json!({"metadata": {"name": "n"}, "spec": claim}))])),
            format!("{at}.metadata.name: Forbidden: cannot be set"),
        ),
        (
            with(json!([own(json!({"spec": claim})), {"name": "w", "persistentVolumeClaim": {"claimName": "p-v"}}])),
            "spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: \"p-v\": must not reference a PVC that gets created for an ephemeral volume"
                .to_owned(),
        ),
    ];
    for (object, expected) in cases {
        let (_, errors) = create(pods(), object);
        assert!(errors.contains(&expected), "wanted {expected}\ngot {errors:#?}");
    }
}
