use super::*;

fn errors(api_version: &str, k: &str, spec: Value) -> Vec<String> {
    create(kind(api_version, k), json!({"metadata": {"name": "x"}, "spec": spec})).1
}

#[test]
fn network_policies_default_and_are_checked() {
    let policies = kind("networking.k8s.io/v1", "NetworkPolicy");
    let policy = |spec: Value| json!({"metadata": {"name": "n"}, "spec": spec});
    let p = created(policies, policy(json!({"podSelector": {}, "egress": [{"ports": [{"port": 53}]}]})));
    assert_eq!(p["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(p["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(created(policies, policy(json!({"podSelector": {}})))["spec"]["policyTypes"], json!(["Ingress"]));
    let from = |peer: Value| json!({"podSelector": {}, "ingress": [{"from": [peer]}]});
    let port = |port: Value| json!({"podSelector": {}, "ingress": [{"ports": [port]}]});
    let cases = [
        (from(json!({})), "spec.ingress[0].from[0]: Required value: must specify a peer"),
        (
            from(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})),
            "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
        ),
        (
            from(json!({"ipBlock": {"cidr": "10.0.0/8"}})),
            "spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"10.0.0/8\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ),
        (
            from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})),
            "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
        ),
        (
            port(json!({"port": 0})),
            "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            port(json!({"port": "http", "endPort": 90})),
            "spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is non-numeric",
        ),
        (
            json!({"podSelector": {}, "policyTypes": ["Sideways"]}),
            "spec.policyTypes[0]: Unsupported value: \"Sideways\": supported values: \"Ingress\", \"Egress\"",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(create(policies, policy(spec)).1, [expected]);
    }
    let warnings = policies.warnings(&policy(from(json!({"ipBlock": {"cidr": "10.1.2.3/8"}}))));
    assert!(warnings[0].contains("does not enforce"));
    assert_eq!(
        warnings[1],
        "spec.ingress[0].from[0].ipBlock.cidr: CIDR value \"10.1.2.3/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.1.2.3/32\"?)"
    );
}

#[test]
fn service_ranges_and_addresses_keep_what_they_are() {
    let ranges = kind("networking.k8s.io/v1", "ServiceCIDR");
    let range = |cidrs: Value| json!({"metadata": {"name": "r"}, "spec": {"cidrs": cidrs}});
    let old = created(ranges, range(json!(["10.0.0.0/24"])));
    assert_eq!(create(ranges, range(json!([]))).1, ["spec.cidrs: Required value: at least one CIDR required"]);
    assert_eq!(
        create(ranges, range(json!(["10.0.0.1/24"]))).1,
        ["spec.cidrs[0]: Invalid value: \"10.0.0.1/24\": must not have bits set beyond the prefix length"]
    );
    assert_eq!(
        create(ranges, range(json!(["10.0.0.0/24", "10.1.0.0/24"]))).1,
        [
            "spec.cidrs: Invalid value: [\"10.0.0.0/24\",\"10.1.0.0/24\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
        ]
    );
    let (_, errors) = update(ranges, &old, |o| o["spec"]["cidrs"] = json!(["10.0.0.0/24", "fd00::/112"]));
    assert_eq!(errors, Vec::<String>::new());
    let (_, errors) = update(ranges, &old, |o| o["spec"]["cidrs"] = json!(["10.9.0.0/24"]));
    assert_eq!(errors, ["spec.cidrs[0]: Invalid value: \"10.9.0.0/24\": field is immutable"]);
    let addresses = kind("networking.k8s.io/v1", "IPAddress");
    let address = |name: &str| {
        create(addresses, json!({"metadata": {"name": name}, "spec": {"parentRef": {"resource": "services", "name": "s", "namespace": "n"}}})).1
    };
    assert_eq!(address("10.0.0.1"), Vec::<String>::new());
    assert_eq!(address("fd00::1"), Vec::<String>::new());
    assert_eq!(
        address("fd00:0::1"),
        ["metadata.name: Invalid value: \"fd00:0::1\": must be in canonical form (\"fd00::1\")"]
    );
    assert_eq!(
        address("host"),
        ["metadata.name: Invalid value: \"host\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]
    );
}

#[test]
fn flow_control_defaults_and_is_checked() {
    let schemas = kind("flowcontrol.apiserver.k8s.io/v1", "FlowSchema");
    let schema = |extra: Value| {
        let mut spec = json!({"priorityLevelConfiguration": {"name": "p"}, "rules": [{"subjects": [{"kind": "Group", "group": {"name": "*"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]});
        for (k, v) in extra.as_object().unwrap() {
            spec[k] = v.clone();
        }
        json!({"metadata": {"name": "f"}, "spec": spec})
    };
    assert_eq!(created(schemas, schema(json!({})))["spec"]["matchingPrecedence"], 1000);
    let rule = |rule: Value| schema(json!({"rules": [rule]}));
    let subject = json!([{"kind": "User", "user": {"name": "u"}}]);
    let cases = [
        (
            schema(json!({"matchingPrecedence": 1})),
            "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
        ),
        (
            schema(json!({"priorityLevelConfiguration": {"name": ""}})),
            "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
        ),
        (
            rule(json!({"subjects": subject})),
            "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
        ),
        (
            rule(json!({"subjects": subject, "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/a*b"]}]})),
            "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"/a*b\": wildcard can only do suffix matching",
        ),
        (
            rule(
                json!({"subjects": [{"kind": "User", "group": {"name": "g"}, "user": {"name": "u"}}], "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["*"]}]}),
            ),
            "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
        ),
        (
            rule(
                json!({"subjects": subject, "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
            ),
            "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
        ),
    ];
    for (object, expected) in cases {
        assert_eq!(create(schemas, object).1, [expected]);
    }
    let levels = kind("flowcontrol.apiserver.k8s.io/v1", "PriorityLevelConfiguration");
    let level = |name: &str, spec: Value| create(levels, json!({"metadata": {"name": name}, "spec": spec}));
    let (l, none) =
        level("p", json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}));
    assert_eq!(none, Vec::<String>::new());
    assert_eq!(
        l["spec"]["limited"],
        json!({"nominalConcurrencyShares": 30, "lendablePercent": 0,
            "limitResponse": {"type": "Queue", "queuing": {"handSize": 8, "queues": 64, "queueLengthLimit": 50}}})
    );
    assert_eq!(
        level("p", json!({"type": "Exempt"})).1,
        ["spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'"]
    );
    assert_eq!(
        level("p", json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {"handSize": 20, "queues": 1000}}}})).1,
        ["spec.limited.limitResponse.queuing.handSize: Invalid value: 20: required entropy bits of deckSize 1000 and handSize 20 should not be greater than 60"]
    );
}

#[test]
fn signing_requests_are_checked_and_stay() {
    let requests = kind("certificates.k8s.io/v1", "CertificateSigningRequest");
    let request = |spec: Value| {
        let mut full =
            json!({"request": "LS0t", "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]});
        for (k, v) in spec.as_object().unwrap() {
            full[k] = v.clone();
        }
        json!({"metadata": {"name": "c:1"}, "spec": full})
    };
    let old = created(requests, request(json!({"expirationSeconds": 600})));
    assert!(requests.is_selectable("spec.signerName"));
    let (new, _) = update(requests, &old, |o| o["spec"]["usages"] = json!(["server auth"]));
    assert_eq!(new["spec"], old["spec"]);
    let cases = [
        (json!({"usages": []}), "spec.usages: Required value"),
        (
            json!({"signerName": "kubernetes.io/legacy-unknown"}),
            "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
        ),
        (
            json!({"signerName": "nobody"}),
            "spec.signerName: Invalid value: \"nobody\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ),
        (
            json!({"expirationSeconds": 599}),
            "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
        ),
        (json!({"usages": ["client auth", "client auth"]}), "spec.usages[1]: Duplicate value: \"client auth\""),
    ];
    for (spec, expected) in cases {
        assert_eq!(create(requests, request(spec)).1, [expected]);
    }
}

#[test]
fn api_services_are_named_after_what_they_serve() {
    let services = kind("apiregistration.k8s.io/v1", "APIService");
    let service = |name: &str, spec: Value| create(services, json!({"metadata": {"name": name}, "spec": spec}));
    let spec = json!({"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
        "service": {"name": "s", "namespace": "n"}});
    let (o, none) = service("v1beta1.metrics.k8s.io", spec.clone());
    assert_eq!((none, &o["spec"]["service"]["port"]), (Vec::<String>::new(), &json!(443)));
    assert_eq!(o["status"], json!({}));
    let (_, errors) = service("metrics", spec);
    assert_eq!(
        errors,
        [
            "metadata.name: Invalid value: \"metrics\": must be `spec.version+\".\"+spec.group`: \"v1beta1.metrics.k8s.io\""
        ]
    );
    let (local, errors) = service("v1.", json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1}));
    assert_eq!((errors, &local["status"]["conditions"][0]["reason"]), (Vec::<String>::new(), &json!("Local")));
}

#[test]
fn csi_objects_default_and_are_checked() {
    let drivers = kind("storage.k8s.io/v1", "CSIDriver");
    let old = created(drivers, json!({"metadata": {"name": "d.example.com"}}));
    assert_eq!(
        old["spec"],
        json!({"attachRequired": true, "podInfoOnMount": false, "storageCapacity": false, "requiresRepublish": false,
            "seLinuxMount": false, "fsGroupPolicy": "ReadWriteOnceWithFSType", "volumeLifecycleModes": ["Persistent"]})
    );
    let (_, errors) = update(drivers, &old, |o| o["spec"]["attachRequired"] = false.into());
    assert_eq!(errors, ["spec.attachRequired: Invalid value: false: field is immutable"]);
    assert_eq!(
        super::infra::errors("storage.k8s.io/v1", "CSINode", json!({"drivers": [{"name": "d", "nodeID": ""}]})),
        ["spec.drivers[0].nodeID: Required value"]
    );
    assert_eq!(
        super::infra::errors(
            "storage.k8s.io/v1",
            "VolumeAttachment",
            json!({"attacher": "d", "nodeName": "n", "source": {}})
        ),
        ["spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"]
    );
    let classes = kind("storage.k8s.io/v1", "VolumeAttributesClass");
    let old = created(classes, json!({"metadata": {"name": "c"}, "driverName": "d", "parameters": {"iops": "1"}}));
    let (_, errors) = update(classes, &old, |o| o["parameters"]["iops"] = "2".into());
    assert_eq!(errors, ["parameters: Forbidden: updates to parameters are forbidden."]);
    created(
        kind("storage.k8s.io/v1", "CSIStorageCapacity"),
        json!({"metadata": {"name": "c"}, "storageClassName": "s", "capacity": "1024Mi"}),
    );
}

#[test]
fn device_claims_default_and_are_checked() {
    let claims = kind("resource.k8s.io/v1", "ResourceClaim");
    let claim = |devices: Value| json!({"metadata": {"name": "c"}, "spec": {"devices": devices}});
    let old = created(
        claims,
        claim(json!({"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}},
        {"name": "net", "firstAvailable": [{"name": "fast", "deviceClassName": "n"}]}],
        "constraints": [{"requests": ["gpu", "net/fast"], "matchAttribute": "example.com/numa"}],
        "config": [{"opaque": {"driver": "d", "parameters": {"a": 1}}}]})),
    );
    let requests = &old["spec"]["devices"]["requests"];
    assert_eq!(
        (&requests[0]["exactly"]["count"], &requests[0]["exactly"]["allocationMode"]),
        (&json!(1), &json!("ExactCount"))
    );
    assert_eq!(requests[1]["firstAvailable"][0]["count"], 1);
    let cases = [
        (
            json!({"requests": [{"name": "a"}]}),
            "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
        ),
        (
            json!({"requests": [{"name": "a", "exactly": {"deviceClassName": "c", "allocationMode": "Some"}}]}),
            "spec.devices.requests[0].exactly.allocationMode: Unsupported value: \"Some\": supported values: \"All\", \"ExactCount\"",
        ),
        (
            json!({"requests": [{"name": "a", "exactly": {}}]}),
            "spec.devices.requests[0].exactly.deviceClassName: Required value",
        ),
        (
            json!({"config": [{"requests": ["x"], "opaque": {"driver": "d", "parameters": {}}}]}),
            "spec.devices.config[0].requests[0]: Invalid value: \"x\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
        ),
    ];
    for (devices, expected) in cases {
        assert_eq!(create(claims, claim(devices)).1, [expected]);
    }
    let (_, errors) = update(claims, &old, |o| o["spec"]["devices"]["requests"] = json!([]));
    assert!(errors[0].starts_with("spec: Invalid value: ") && errors[0].ends_with("field is immutable"));
}

#[test]
fn device_slices_are_somewhere() {
    let slices = kind("resource.k8s.io/v1", "ResourceSlice");
    let slice = |extra: Value| {
        let mut spec = json!({"driver": "d.example.com", "pool": {"name": "n", "resourceSliceCount": 1}, "nodeName": "n",
            "devices": [{"name": "a", "attributes": {"model": {"string": "x"}}, "capacity": {"memory": {"value": "1Gi"}}}]});
        for (k, v) in extra.as_object().unwrap() {
            spec[k] = v.clone();
        }
        json!({"metadata": {"name": "s"}, "spec": spec})
    };
    let s = created(slices, slice(json!({})));
    assert_eq!(
        slices.selectable(&s)[1..],
        [("spec.nodeName", "n".to_owned()), ("spec.driver", "d.example.com".to_owned())]
    );
    assert_eq!(
        create(slices, slice(json!({"nodeName": null}))).1,
        [
            "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
        ]
    );
    assert_eq!(
        create(slices, slice(json!({"allNodes": true}))).1,
        [
            "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set"
        ]
    );
    created(
        kind("resource.k8s.io/v1", "DeviceClass"),
        json!({"metadata": {"name": "c"}, "spec": {"selectors": [{"cel": {"expression": "true"}}]}}),
    );
    created(
        kind("resource.k8s.io/v1", "ResourceClaimTemplate"),
        json!({"metadata": {"name": "t"}, "spec": {"spec": {"devices": {}}}}),
    );
}

#[test]
fn an_ingress_may_name_its_class_twice_if_it_agrees() {
    let ingress = |annotation: &str| {
        json!({"metadata": {"name": "i", "annotations": {"kubernetes.io/ingress.class": annotation}}, "spec":
            {"ingressClassName": "web", "defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}})
    };
    created(kind("networking.k8s.io/v1", "Ingress"), ingress("web"));
    assert_eq!(
        create(kind("networking.k8s.io/v1", "Ingress"), ingress("other")).1,
        [
            "annotations.kubernetes.io/ingress.class: Invalid value: \"other\": must match `ingressClassName` when both are specified"
        ]
    );
}
