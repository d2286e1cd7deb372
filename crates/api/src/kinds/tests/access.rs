use super::*;

#[test]
fn bindings_default_to_the_rbac_group() {
    let b = created(
        kind("rbac.authorization.k8s.io/v1", "RoleBinding"),
        json!({"metadata": {"name": "system:x"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [
            {"kind": "User", "name": "u"}, {"kind": "Group", "name": "g"},
            {"kind": "ServiceAccount", "name": "s"}]}),
    );
    assert_eq!(b["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(b["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(b["subjects"][1]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(b["subjects"][2], json!({"kind": "ServiceAccount", "name": "s"}));
}

#[test]
fn bad_rbac_objects_are_refused_in_kubernetes_words() {
    let rule = |extra: Value| json!({"metadata": {"name": "r"}, "rules": [extra]});
    let binding =
        |role: Value, subject: Value| json!({"metadata": {"name": "b"}, "roleRef": role, "subjects": [subject]});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"});
    let cases = [
        (
            "Role",
            rule(json!({"apiGroups": [""], "resources": ["pods"]})),
            "rules[0].verbs: Required value: verbs must contain at least one value",
        ),
        (
            "Role",
            rule(json!({"verbs": ["get"], "resources": ["pods"]})),
            "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
        ),
        (
            "Role",
            rule(json!({"verbs": ["get"], "apiGroups": [""]})),
            "rules[0].resources: Required value: resource rules must supply at least one resource",
        ),
        (
            "Role",
            rule(json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})),
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
        ),
        (
            "ClusterRole",
            rule(json!({"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]})),
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs",
        ),
        (
            "ClusterRole",
            json!({"metadata": {"name": "r"}, "aggregationRule": {"x": 1}}),
            "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil",
        ),
        (
            "ClusterRoleBinding",
            binding(json!({"kind": "Role", "name": "r"}), json!({"kind": "User", "name": "u"})),
            "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
        ),
        (
            "ClusterRoleBinding",
            binding(role.clone(), json!({"kind": "ServiceAccount", "name": "u"})),
            "subjects[0].namespace: Required value",
        ),
        (
            "RoleBinding",
            binding(role.clone(), json!({"kind": "Robot", "name": "u"})),
            "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
        ),
        (
            "RoleBinding",
            binding(role.clone(), json!({"kind": "User", "apiGroup": "x", "name": "u"})),
            "subjects[0].apiGroup: Unsupported value: \"x\": supported values: \"rbac.authorization.k8s.io\"",
        ),
        (
            "RoleBinding",
            binding(json!({"kind": "Role"}), json!({"kind": "User", "name": "u"})),
            "roleRef.name: Required value",
        ),
        ("Role", json!({"metadata": {"name": "a/b"}}), "metadata.name: Invalid value: \"a/b\": may not contain '/'"),
    ];
    for (k, object, expected) in cases {
        let (_, errors) = create(kind("rbac.authorization.k8s.io/v1", k), object);
        assert_eq!(errors, [expected]);
    }
}

#[test]
fn a_binding_keeps_its_role() {
    let bindings = kind("rbac.authorization.k8s.io/v1", "ClusterRoleBinding");
    let old = created(bindings, json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "view"}}));
    let (_, errors) = update(bindings, &old, |o| o["subjects"] = json!([{"kind": "User", "name": "u"}]));
    assert_eq!(errors, Vec::<String>::new());
    let (_, errors) = update(bindings, &old, |o| o["roleRef"]["name"] = "cluster-admin".into());
    assert!(errors[0].starts_with("roleRef: Invalid value: {") && errors[0].ends_with(": cannot change roleRef"));
}

fn webhook(extra: Value) -> Value {
    let mut hook = json!({"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"name": "s", "namespace": "n"}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
    for (k, v) in extra.as_object().unwrap() {
        hook[k] = v.clone();
    }
    json!({"metadata": {"name": "w"}, "webhooks": [hook]})
}

#[test]
fn webhooks_get_their_defaults() {
    let w = created(kind("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"), webhook(json!({})));
    let hook = &w["webhooks"][0];
    assert_eq!((&hook["failurePolicy"], &hook["matchPolicy"]), (&json!("Fail"), &json!("Equivalent")));
    assert_eq!((&hook["timeoutSeconds"], &hook["reinvocationPolicy"]), (&json!(10), &json!("Never")));
    assert_eq!((&hook["namespaceSelector"], &hook["objectSelector"]), (&json!({}), &json!({})));
    assert_eq!((&hook["rules"][0]["scope"], &hook["clientConfig"]["service"]["port"]), (&json!("*"), &json!(443)));
    let hooks = kind("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration");
    let v = created(hooks, webhook(json!({})));
    assert!(v["webhooks"][0].get("reinvocationPolicy").is_none());
    let (changed, errors) = update(hooks, &v, |o| o["webhooks"][0]["timeoutSeconds"] = 5.into());
    assert_eq!((meta::generation(&changed), errors.len()), (2, 0));
}

// allow-long: a table with one entry for each rule.
#[test]
fn bad_webhooks_are_refused_in_kubernetes_words() {
    let rule = |key: &str, value: Value| {
        let mut o = webhook(json!({}));
        o["webhooks"][0]["rules"][0][key] = value;
        o
    };
    let url = |u: &str| webhook(json!({"clientConfig": {"url": u}}));
    let cases = [
        (
            webhook(json!({"name": "a.b"})),
            "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
        ),
        (
            webhook(json!({"sideEffects": null})),
            "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
        ),
        (
            webhook(json!({"sideEffects": "Some"})),
            "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
        ),
        (
            webhook(json!({"timeoutSeconds": 31})),
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        ),
        (
            webhook(json!({"clientConfig": {}})),
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
        ),
        (
            webhook(json!({"admissionReviewVersions": []})),
            "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
        ),
        (
            webhook(json!({"admissionReviewVersions": ["v2"]})),
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
        ),
        (
            webhook(json!({"matchConditions": [{"name": "", "expression": "true"}]})),
            "webhooks[0].matchConditions[0].name: Required value",
        ),
        (
            url("http://x/y"),
            "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
        ),
        (
            url("https://x/y?a=b"),
            "webhooks[0].clientConfig.url: Invalid value: \"a=b\": query parameters are not permitted in the URL",
        ),
        (
            rule("operations", json!(["*", "CREATE"])),
            "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
        ),
        (
            rule("operations", json!(["PATCH"])),
            "webhooks[0].rules[0].operations[0]: Unsupported value: \"PATCH\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
        ),
        (
            rule("resources", json!(["*", "pods"])),
            "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
        ),
        (
            rule("resources", json!(["pods/*", "pods/log"])),
            "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
        ),
        (
            rule("scope", json!("Some")),
            "webhooks[0].rules[0].scope: Unsupported value: \"Some\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
        ),
    ];
    for (object, expected) in cases {
        let (_, errors) = create(kind("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"), object);
        assert_eq!(errors, [expected]);
    }
    for ok in ["https://x", "https://x:8443/y/z"] {
        created(kind("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"), url(ok));
    }
}

fn policy(extra: Value) -> Value {
    let mut spec = json!({"matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""],
        "apiVersions": ["v1"], "resources": ["pods"]}]}, "validations": [{"expression": "true"}]});
    for (k, v) in extra.as_object().unwrap() {
        spec[k] = v.clone();
    }
    json!({"metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn admission_policies_are_checked() {
    let policies = kind("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy");
    let p = created(policies, policy(json!({})));
    assert_eq!(p["spec"]["failurePolicy"], "Fail");
    assert_eq!(p["spec"]["matchConstraints"]["matchPolicy"], "Equivalent");
    assert_eq!(p["spec"]["matchConstraints"]["resourceRules"][0]["scope"], "*");
    let cases = [
        (json!({"matchConstraints": null}), "spec.matchConstraints: Required value"),
        (
            json!({"validations": [{"expression": " "}]}),
            "spec.validations[0].expression: Required value: expression is not specified",
        ),
        (
            json!({"validations": [{"expression": "true", "reason": "Sorry"}]}),
            "spec.validations[0].reason: Unsupported value: \"Sorry\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
        ),
        (
            json!({"variables": [{"name": "in", "expression": "1"}]}),
            "spec.variables[0].name: Invalid value: \"in\": must be a valid CEL identifier",
        ),
        (json!({"paramKind": {"apiVersion": "v1"}}), "spec.paramKind.kind: Required value"),
    ];
    for (extra, expected) in cases {
        let (_, errors) = create(policies, policy(extra));
        assert_eq!(errors, [expected]);
    }
}

#[test]
fn policy_bindings_are_checked() {
    let bindings = kind("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding");
    let binding = |spec: Value| create(bindings, json!({"metadata": {"name": "b"}, "spec": spec})).1;
    assert_eq!(binding(json!({"policyName": "p", "validationActions": ["Deny"]})), Vec::<String>::new());
    assert_eq!(
        binding(json!({"policyName": "p", "validationActions": ["Deny", "Warn"]})),
        [
            "spec.validationActions: Invalid value: [\"Deny\",\"Warn\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"
        ]
    );
    assert_eq!(
        binding(json!({"policyName": "p", "paramRef": {"name": "x"}})),
        [
            "spec.paramRef.parameterNotFoundAction: Required value",
            "spec.validationActions: Required value: at least one validation action is required"
        ]
    );
}

#[test]
fn a_mutation_is_of_one_kind() {
    let mutating = kind("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy");
    let (_, errors) = create(
        mutating,
        policy(json!({"reinvocationPolicy": "Never", "mutations": [{"patchType": "JSONPatch",
            "applyConfiguration": {"expression": "Object{}"}}]})),
    );
    assert_eq!(
        errors,
        [
            "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
            "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch"
        ]
    );
}
