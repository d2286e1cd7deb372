use super::*;

fn warnings_of_pod(spec: Value) -> Vec<String> {
    kind("v1", "Pod").warnings(&json!({"metadata": {"name": "p"}, "spec": spec}))
}

#[test]
fn pods_are_warned_about_in_kubernetes_words() {
    let container = |extra: Value| {
        let mut c = json!({"name": "c", "image": "i"});
        for (k, v) in extra.as_object().unwrap() {
            c[k] = v.clone();
        }
        json!({"containers": [c]})
    };
    let cases = [
        (
            container(json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]})),
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
        ),
        (
            container(
                json!({"ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP"}]}),
            ),
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
        ),
        (
            container(json!({"ports": [{"containerPort": 80, "protocol": "TCP", "hostIP": "10.0.0.1"}]})),
            "spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP HostIP:10.0.0.1}",
        ),
        (
            container(json!({"resources": {"limits": {"memory": "100m"}}})),
            "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
        ),
        (
            json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
        ),
        (
            json!({"volumes": [{"name": "g", "gitRepo": {}}]}),
            "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
        ),
        (
            json!({"imagePullSecrets": [{"name": "a"}, {"name": "a"}]}),
            "spec.imagePullSecrets[1].name: duplicate name \"a\"",
        ),
        (
            json!({"topologySpreadConstraints": [{"topologyKey": "zone"}]}),
            "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
        ),
        (
            json!({"terminationGracePeriodSeconds": -1}),
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(warnings_of_pod(spec), [expected]);
    }
    assert_eq!(
        warnings_of_pod(container(json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}]}))),
        Vec::<String>::new()
    );
}

#[test]
fn templates_are_warned_about_at_their_place() {
    let mut template = template();
    template["metadata"]["annotations"] = json!({"scheduler.alpha.kubernetes.io/critical-pod": ""});
    let deployment = json!({"metadata": {"name": "a.b"}, "spec": {"template": template}});
    let warnings = kind("apps/v1", "Deployment").warnings(&deployment);
    assert!(warnings[0].starts_with("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: ["));
    assert_eq!(
        warnings[1],
        "spec.template.metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the \"priorityClassName\" field instead"
    );
}

#[test]
fn kinds_without_effect_say_so_and_others_are_silent() {
    for (api_version, k) in [
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("resource.k8s.io/v1", "ResourceClaim"),
        ("resource.k8s.io/v1", "ResourceSlice"),
        ("storage.k8s.io/v1", "VolumeAttributesClass"),
    ] {
        let warnings = kind(api_version, k).warnings(&json!({}));
        assert_eq!(warnings.len(), 1, "{k}");
        assert!(warnings[0].starts_with("this release "), "{k}");
    }
    for (api_version, k) in [("v1", "ConfigMap"), ("v1", "Service"), ("apps/v1", "StatefulSet")] {
        assert_eq!(kind(api_version, k).warnings(&json!({"metadata": {"name": "x"}})), Vec::<String>::new(), "{k}");
    }
}
