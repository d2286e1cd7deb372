use super::*;

fn services() -> &'static KindInfo {
    kind("v1", "Service")
}

fn service(spec: Value) -> Value {
    json!({"metadata": {"name": "s"}, "spec": spec})
}

/// A service as it is stored: with an address.
fn stored(spec: Value) -> Value {
    let mut o = created(services(), service(spec));
    service::set_cluster_ip(&mut o, "10.1.0.7");
    o
}

#[test]
fn services_get_their_defaults() {
    let s = created(services(), service(json!({"ports": [{"port": 80}], "selector": {"a": "b"}})));
    assert_eq!(
        s["spec"],
        json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "selector": {"a": "b"},
            "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}]})
    );
    assert_eq!(s["status"], json!({"loadBalancer": {}}));
    let lb = created(
        services(),
        service(json!({"type": "LoadBalancer", "ports": [{"port": 80}], "sessionAffinity": "ClientIP"})),
    );
    assert_eq!(lb["spec"]["externalTrafficPolicy"], "Cluster");
    assert_eq!(lb["spec"]["allocateLoadBalancerNodePorts"], true);
    assert_eq!(lb["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
    let external = created(services(), service(json!({"type": "ExternalName", "externalName": "a.b"})));
    assert_eq!(external["spec"], json!({"type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None"}));
    let headless = created(services(), service(json!({"clusterIP": "None", "selector": {"a": "b"}})));
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    assert!(service::is_headless(&headless) && service::needs_cluster_ip(&headless));
}

#[test]
fn bad_services_are_refused_in_kubernetes_words() {
    let cases = [
        (service(json!({})), "spec.ports: Required value"),
        (service(json!({"ports": [{"port": 1}, {"port": 2, "name": "b"}]})), "spec.ports[0].name: Required value"),
        (
            service(json!({"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]})),
            "spec.ports[1]: Duplicate value: {\"port\":1,\"protocol\":\"TCP\"}",
        ),
        (
            service(json!({"ports": [{"port": 0}]})),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            service(json!({"ports": [{"port": 1, "nodePort": 30000}]})),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (service(json!({"type": "ExternalName"})), "spec.externalName: Required value"),
        (
            service(json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 1}]})),
            "spec.clusterIPs[0]: Invalid value: [\"None\"]: may not be set to 'None' for NodePort services",
        ),
        (
            service(json!({"type": "Magic", "ports": [{"port": 1}]})),
            "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ),
        (
            service(json!({"ports": [{"port": 1}], "externalTrafficPolicy": "Local"})),
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
        ),
    ];
    for (object, expected) in cases {
        let (_, errors) = create(services(), object);
        assert!(errors.iter().any(|e| e == expected), "wanted {expected}\ngot {errors:#?}");
    }
    let (_, errors) = create(services(), json!({"metadata": {"name": "1s"}, "spec": {"ports": [{"port": 1}]}}));
    assert!(
        errors[0].starts_with("metadata.name: Invalid value: \"1s\": a DNS-1035 label must consist of"),
        "{errors:?}"
    );
}

#[test]
fn an_update_keeps_the_address_it_leaves_out_and_refuses_another() {
    let old = stored(json!({"ports": [{"port": 80}]}));
    let (new, errors) = update(services(), &old, |o| {
        o["spec"] = json!({"ports": [{"port": 81}]});
    });
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!((&new["spec"]["clusterIP"], &new["spec"]["clusterIPs"]), (&json!("10.1.0.7"), &json!(["10.1.0.7"])));
    let (_, errors) = update(services(), &old, |o| service::set_cluster_ip(o, "10.1.0.8"));
    assert_eq!(errors, ["spec.clusterIPs[0]: Invalid value: [\"10.1.0.8\"]: may not change once set"]);
}

#[test]
fn changing_the_type_drops_what_the_new_one_does_not_have() {
    let mut old = stored(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}));
    let (kept, _) = update(services(), &old, |o| o["spec"]["ports"] = json!([{"port": 80}, {"port": 90, "name": "b"}]));
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], 30080, "allocated ports survive an update without them");
    let (internal, errors) = update(services(), &old, |o| o["spec"]["type"] = "ClusterIP".into());
    assert_eq!(errors, Vec::<String>::new());
    assert!(internal["spec"]["ports"][0].get("nodePort").is_none());
    assert!(internal["spec"].get("externalTrafficPolicy").is_none());
    let (external, errors) = update(services(), &old, |o| {
        o["spec"]["type"] = "ExternalName".into();
        o["spec"]["externalName"] = "a.b".into();
    });
    assert_eq!(errors, Vec::<String>::new());
    assert!(external["spec"].get("clusterIP").is_none() && external["spec"].get("ipFamilies").is_none());
    old["spec"]["type"] = "ExternalName".into();
}
