use super::*;

fn limit(item: Value) -> Value {
    json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}})
}

#[test]
fn container_limits_fill_each_other_in() {
    let l = created(
        kind("v1", "LimitRange"),
        limit(json!({"type": "Container", "max": {"cpu": "2000m", "memory": "1Gi"}, "min": {"cpu": "0.1"},
            "default": {"cpu": 1}})),
    );
    let item = &l["spec"]["limits"][0];
    assert_eq!(item["max"], json!({"cpu": "2", "memory": "1Gi"}));
    assert_eq!(item["default"], json!({"cpu": "1", "memory": "1Gi"}));
    assert_eq!(item["defaultRequest"], json!({"cpu": "1", "memory": "1Gi"}));
    let l = created(kind("v1", "LimitRange"), limit(json!({"type": "Container", "min": {"cpu": "100m"}})));
    assert_eq!(l["spec"]["limits"][0]["defaultRequest"], json!({"cpu": "100m"}));
    assert!(l["spec"]["limits"][0].get("default").is_none());
}

#[test]
fn bad_limit_ranges_are_refused_in_kubernetes_words() {
    let cases = [
        (
            json!({"type": "Robot", "max": {"cpu": "1"}}),
            "spec.limits[0].type: Invalid value: \"Robot\": must be a standard limit type or fully qualified",
        ),
        (
            json!({"type": "Pod", "default": {"cpu": "1"}}),
            "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
        ),
        (
            json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}, "default": {"cpu": "2"}, "defaultRequest": {"cpu": "2"}}),
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
        ),
        (
            json!({"type": "Pod", "max": {"storage": "1"}}),
            "spec.limits[0].max[storage]: Invalid value: \"storage\": must be a standard resource for containers",
        ),
        (
            json!({"type": "PersistentVolumeClaim", "maxLimitRequestRatio": {"storage": "2"}}),
            "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
        ),
        (
            json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "500m"}}),
            "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
        ),
        (
            json!({"type": "Pod", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}}),
            "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
        ),
    ];
    for (item, expected) in cases {
        let (_, errors) = create(kind("v1", "LimitRange"), limit(item));
        assert!(errors.iter().any(|e| e == expected), "wanted {expected}\ngot {errors:#?}");
    }
}

#[test]
fn quotas_bound_known_resources_in_fitting_scopes() {
    let quotas = kind("v1", "ResourceQuota");
    let quota = |spec: Value| json!({"metadata": {"name": "q"}, "spec": spec});
    let q = created(
        quotas,
        quota(
            json!({"hard": {"requests.cpu": "1000m", "pods": "10", "count/deployments.apps": "2", "requests.nvidia.com/gpu": "4",
            "gold.storageclass.storage.k8s.io/requests.storage": "1Gi", "services.nodeports": 0, "requests.hugepages-2Mi": "4Mi"}}),
        ),
    );
    assert_eq!(q["spec"]["hard"]["requests.cpu"], "1");
    let cases = [
        (
            json!({"hard": {"bananas": "1"}}),
            "spec.hard[bananas]: Invalid value: \"bananas\": must be a standard resource type or fully qualified",
        ),
        (
            json!({"hard": {"storage": "1"}}),
            "spec.hard[storage]: Invalid value: \"storage\": must be a standard resource for quota",
        ),
        (json!({"hard": {"pods": "500m"}}), "spec.hard[pods]: Invalid value: \"500m\": must be an integer"),
        (json!({"hard": {"pods": "-1"}}), "spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0"),
        (
            json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}),
            "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
        ),
        (
            json!({"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}),
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
        ),
        (json!({"hard": {"pods": "1"}, "scopes": ["Odd"]}), "spec.scopes: Invalid value: [\"Odd\"]: unsupported scope"),
        (
            json!({"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}),
            "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        ),
    ];
    for (spec, expected) in cases {
        let (_, errors) = create(quotas, quota(spec));
        assert_eq!(errors, [expected]);
    }
    let old = created(quotas, quota(json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]})));
    let (_, errors) = update(quotas, &old, |o| o["spec"]["scopes"] = json!(["NotBestEffort"]));
    assert_eq!(errors, ["spec.scopes: Invalid value: [\"NotBestEffort\"]: field is immutable"]);
    assert_eq!(
        quotas.warnings(&quota(json!({"hard": {"cpu": "2", "limits.cpu": "1"}}))),
        ["ResourceQuota cpu (2) should be less than limits.cpu (1)"]
    );
}

#[test]
fn priority_classes_stay_below_the_systems_and_keep_their_value() {
    let classes = kind("scheduling.k8s.io/v1", "PriorityClass");
    let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
    let old = created(classes, class("high", 1_000_000_000));
    assert_eq!((&old["preemptionPolicy"], meta::generation(&old)), (&json!("PreemptLowerPriority"), 1));
    created(classes, class("system-node-critical", 2_000_001_000));
    let (_, errors) = create(classes, class("high", 1_000_000_001));
    assert_eq!(errors, ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]);
    let (_, errors) = create(classes, class("system-mine", 1));
    assert_eq!(
        errors,
        [
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class"
        ]
    );
    let (_, errors) = update(classes, &old, |o| o["value"] = 5.into());
    assert_eq!(errors, ["value: Forbidden: may not be changed in an update."]);
    let (_, errors) = update(classes, &old, |o| o["preemptionPolicy"] = "Never".into());
    assert_eq!(errors, ["preemptionPolicy: Invalid value: \"Never\": field is immutable"]);
}

#[test]
fn runtime_classes_keep_their_handler() {
    let classes = kind("node.k8s.io/v1", "RuntimeClass");
    let old = created(
        classes,
        json!({"metadata": {"name": "r"}, "handler": "runsc", "overhead": {"podFixed": {"memory": "1024Mi"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "a", "operator": "Exists"}]}}),
    );
    assert_eq!(old["overhead"]["podFixed"]["memory"], "1Gi");
    let (_, errors) = update(classes, &old, |o| o["handler"] = "kata".into());
    assert_eq!(errors, ["handler: Invalid value: \"kata\": field is immutable"]);
    let (_, errors) = create(classes, json!({"metadata": {"name": "r"}}));
    assert_eq!(errors, ["handler: Required value"]);
}

#[test]
fn disruption_budgets_take_one_bound() {
    let budgets = kind("policy/v1", "PodDisruptionBudget");
    let budget = |spec: Value| create(budgets, json!({"metadata": {"name": "b"}, "spec": spec})).1;
    assert_eq!(budget(json!({"maxUnavailable": "50%", "selector": {"matchLabels": {"a": "b"}}})), Vec::<String>::new());
    assert_eq!(
        budget(json!({"minAvailable": 1, "maxUnavailable": 1})),
        [
            "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and maxUnavailable cannot be both set"
        ]
    );
    assert_eq!(
        budget(json!({"minAvailable": "101%"})),
        ["spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"]
    );
    assert_eq!(
        budget(json!({"minAvailable": -1})),
        ["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"]
    );
    assert_eq!(
        budget(json!({"unhealthyPodEvictionPolicy": "Never"})),
        [
            "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\""
        ]
    );
}

#[test]
fn conditions_of_a_status_are_checked() {
    let budgets = kind("policy/v1", "PodDisruptionBudget");
    let old = json!({"metadata": {"name": "b", "namespace": "ns"}, "spec": {}});
    let errors = |conditions: Value| {
        let mut new = old.clone();
        new["status"] = json!({"disruptionsAllowed": 1, "conditions": conditions});
        budgets.validate_status_update(&new, &old).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let good = json!({"type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods",
        "lastTransitionTime": "2026-01-01T00:00:00Z", "message": ""});
    assert_eq!(errors(json!([good])), Vec::<String>::new());
    assert_eq!(errors(json!([good, good])), ["status.conditions[1].type: Duplicate value: \"DisruptionAllowed\""]);
    assert_eq!(
        errors(json!([{"type": "A", "status": "Maybe", "reason": "why not"}])),
        [
            "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
            "status.conditions[0].lastTransitionTime: Required value",
            "status.conditions[0].reason: Invalid value: \"why not\": a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')"
        ]
    );
}
