use super::*;

fn workload(extra: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": "x"}}, "template": template()});
    for (k, v) in extra.as_object().unwrap() {
        spec[k] = v.clone();
    }
    json!({"metadata": {"name": "w"}, "spec": spec})
}

fn job(spec: Value) -> Value {
    let mut o = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec":
        {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    for (k, v) in spec.as_object().unwrap() {
        o["spec"][k] = v.clone();
    }
    o
}

#[test]
fn workloads_get_their_defaults() {
    let d = created(kind("apps/v1", "Deployment"), workload(json!({})));
    assert_eq!(d["spec"]["replicas"], 1);
    assert_eq!(
        d["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    assert_eq!((&d["spec"]["revisionHistoryLimit"], &d["spec"]["progressDeadlineSeconds"]), (&json!(10), &json!(600)));
    let pod_spec = &d["spec"]["template"]["spec"];
    assert_eq!(pod_spec["restartPolicy"], "Always");
    assert!(pod_spec.get("enableServiceLinks").is_none(), "pods get it, templates do not");
    let s = created(
        kind("apps/v1", "StatefulSet"),
        workload(json!({"volumeClaimTemplates": [{"metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Mi"}}}}],
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [
                {"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}}})),
    );
    assert_eq!(s["spec"]["podManagementPolicy"], "OrderedReady");
    assert_eq!(s["spec"]["updateStrategy"], json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}));
    assert_eq!(s["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"], "Retain");
    assert_eq!(
        s["spec"]["volumeClaimTemplates"][0],
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeMode": "Filesystem"},
            "status": {"phase": "Pending"}})
    );
}

#[test]
fn a_recreate_deployment_has_no_rolling_update() {
    let d = created(kind("apps/v1", "Deployment"), workload(json!({"strategy": {"type": "Recreate"}})));
    assert_eq!(d["spec"]["strategy"], json!({"type": "Recreate"}));
}

#[test]
fn bad_workloads_are_refused_in_kubernetes_words() {
    let cases = [
        (
            workload(json!({"selector": {"matchLabels": {"app": "y"}}})),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`",
        ),
        (workload(json!({"selector": null})), "spec.selector: Required value"),
        (
            workload(json!({"selector": {}})),
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
        ),
        (workload(json!({"replicas": -1})), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        (
            workload(json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}})),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
        (
            workload(json!({"strategy": {"rollingUpdate": {"maxUnavailable": "120%"}}})),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"120%\": must not be greater than 100%",
        ),
        (
            workload(json!({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}})),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            workload(json!({"minReadySeconds": 600})),
            "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
        ),
        (
            workload(json!({"template": {"metadata": {"labels": {"app": "x"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}})),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ),
    ];
    for (object, expected) in cases {
        let (_, errors) = create(kind("apps/v1", "Deployment"), object);
        assert!(errors.iter().any(|e| e == expected), "wanted {expected}\ngot {errors:#?}");
    }
}

#[test]
fn the_generation_counts_spec_changes_only() {
    let deployments = kind("apps/v1", "Deployment");
    let old = created(deployments, workload(json!({})));
    let (same, errors) = update(deployments, &old, |o| o["metadata"]["labels"] = json!({"a": "b"}));
    assert_eq!((meta::generation(&same), errors.len()), (1, 0));
    let (scaled, _) = update(deployments, &old, |o| o["spec"]["replicas"] = 3.into());
    assert_eq!(meta::generation(&scaled), 2);
    let (_, errors) = update(deployments, &old, |o| {
        o["spec"]["selector"] = json!({"matchLabels": {"app": "x", "b": "c"}});
        o["spec"]["template"]["metadata"]["labels"]["b"] = "c".into();
    });
    assert_eq!(
        errors,
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\",\"b\":\"c\"}}: field is immutable"]
    );
    let mut status = old.clone();
    status["status"] = json!({"replicas": 1});
    status["spec"]["replicas"] = 9.into();
    deployments.prepare_status_update(&mut status, &old);
    assert_eq!((&status["spec"]["replicas"], meta::generation(&status)), (&json!(1), 1));
}

#[test]
fn stateful_sets_refuse_to_change_identity() {
    let sets = kind("apps/v1", "StatefulSet");
    let old = created(sets, workload(json!({"serviceName": "s"})));
    let (_, errors) = update(sets, &old, |o| {
        o["spec"]["replicas"] = 2.into();
        o["spec"]["template"]["spec"]["containers"][0]["image"] = "j".into();
    });
    assert_eq!(errors, Vec::<String>::new());
    let (_, errors) = update(sets, &old, |o| o["spec"]["serviceName"] = "t".into());
    assert_eq!(
        errors,
        [
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
        ]
    );
}

#[test]
fn bad_stateful_sets_are_refused_in_kubernetes_words() {
    let sets = kind("apps/v1", "StatefulSet");
    let cases = [
        (
            json!({"podManagementPolicy": "Chaos"}),
            "spec.podManagementPolicy: Invalid value: \"Chaos\": must be 'OrderedReady' or 'Parallel'",
        ),
        (
            json!({"updateStrategy": {"type": "Never"}}),
            "spec.updateStrategy: Invalid value: {\"type\":\"Never\"}: must be 'RollingUpdate' or 'OnDelete'",
        ),
        (json!({"selector": {}}), "spec.selector: Invalid value: {}: empty selector is invalid for statefulset"),
    ];
    for (extra, expected) in cases {
        assert_eq!(create(sets, workload(extra)).1, [expected]);
    }
    let (_, errors) = create(sets, workload(json!({"serviceName": "a.b"})));
    assert!(
        errors[0].starts_with("spec.serviceName: Invalid value: \"a.b\": a lowercase RFC 1123 label"),
        "{errors:?}"
    );
    let mut dotted = workload(json!({}));
    dotted["metadata"]["name"] = "a.b".into();
    assert!(create(sets, dotted).1[0].starts_with("metadata.name: Invalid value: \"a.b\": a lowercase RFC 1123 label"));
}

#[test]
fn jobs_get_defaults_labels_and_a_selector() {
    let jobs = kind("batch/v1", "Job");
    let j = created(jobs, job(json!({})));
    assert_eq!(
        (&j["spec"]["completions"], &j["spec"]["parallelism"], &j["spec"]["backoffLimit"]),
        (&json!(1), &json!(1), &json!(6))
    );
    assert_eq!((&j["spec"]["completionMode"], &j["spec"]["suspend"]), (&json!("NonIndexed"), &json!(false)));
    assert_eq!(j["spec"]["podReplacementPolicy"], "TerminatingOrFailed");
    assert_eq!(j["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "uid-1"}}));
    assert_eq!(
        j["spec"]["template"]["metadata"]["labels"],
        json!({"batch.kubernetes.io/controller-uid": "uid-1", "controller-uid": "uid-1",
            "batch.kubernetes.io/job-name": "j", "job-name": "j"})
    );
    let parallel = created(jobs, job(json!({"parallelism": 3})));
    assert!(parallel["spec"].get("completions").is_none(), "a work queue has no completions");
    let manual = created(
        jobs,
        job(
            json!({"manualSelector": true, "selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}},
            "spec": {"restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "i"}]}}}),
        ),
    );
    assert_eq!(manual["spec"]["selector"], json!({"matchLabels": {"app": "x"}}));
}

#[test]
fn bad_jobs_are_refused_and_templates_stay() {
    let jobs = kind("batch/v1", "Job");
    let (_, errors) = create(jobs, job(json!({"template": template()})));
    assert_eq!(errors, ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""]);
    let (_, errors) = create(jobs, job(json!({"parallelism": 1, "completionMode": "Indexed"})));
    assert_eq!(errors, ["spec.completions: Required value: when completion mode is Indexed"]);
    let old = created(jobs, job(json!({})));
    let (_, errors) = update(jobs, &old, |o| {
        o["spec"]["parallelism"] = 2.into();
        o["spec"]["suspend"] = true.into();
    });
    assert_eq!(errors, Vec::<String>::new());
    let (_, errors) = update(jobs, &old, |o| o["spec"]["completions"] = 2.into());
    assert_eq!(errors, ["spec.completions: Invalid value: 2: field is immutable"]);
    let (_, errors) = update(jobs, &old, |o| o["spec"]["template"]["spec"]["containers"][0]["image"] = "j".into());
    assert!(errors[0].starts_with("spec.template: Invalid value: ") && errors[0].ends_with(": field is immutable"));
    let suspended = created(jobs, job(json!({"suspend": true})));
    let (_, errors) = update(jobs, &suspended, |o| {
        o["spec"]["template"]["spec"]["nodeSelector"] = json!({"zone": "a"});
    });
    assert_eq!(errors, Vec::<String>::new(), "a job that never started may still be steered");
}

#[test]
fn job_policies_are_checked() {
    let indexed = |extra: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 5});
        for (k, v) in extra.as_object().unwrap() {
            spec[k] = v.clone();
        }
        job(spec)
    };
    let failure = |rule: Value| job(json!({"podFailurePolicy": {"rules": [rule]}}));
    let success = |rule: Value| indexed(json!({"successPolicy": {"rules": [rule]}}));
    let codes = |operator: &str, values: Value| json!({"action": "FailJob", "onExitCodes": {"operator": operator, "values": values}});
    let cases = [
        (
            failure(json!({"action": "Explode", "onPodConditions": [{"type": "DisruptionTarget"}]})),
            "spec.podFailurePolicy.rules[0].action: Unsupported value: \"Explode\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
        ),
        (
            failure(json!({"action": "FailIndex", "onPodConditions": [{"type": "DisruptionTarget"}]})),
            "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
        ),
        (
            failure(codes("In", json!([0]))),
            "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
        ),
        (
            failure(codes("NotIn", json!([3, 2]))),
            "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [3,2]: must be ordered",
        ),
        (
            failure(codes("In", json!([]))),
            "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: []: at least one value is required",
        ),
        (
            job(json!({"successPolicy": {"rules": [{"succeededCount": 1}]}})),
            "spec.successPolicy: Invalid value: {\"rules\":[{\"succeededCount\":1}]}: requires indexed completion mode",
        ),
        (
            success(json!({})),
            "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
        ),
        (
            success(json!({"succeededIndexes": "0,5"})),
            "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"0,5\": error parsing succeededIndexes: too large index: \"5\"",
        ),
        (
            success(json!({"succeededIndexes": "0-1,3", "succeededCount": 4})),
            "spec.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of indexes in the specified succeededIndexes field)",
        ),
        (
            indexed(json!({"maxFailedIndexes": 6, "backoffLimitPerIndex": 1})),
            "spec.maxFailedIndexes: Invalid value: 6: must be less than or equal to completions",
        ),
        (
            indexed(json!({"maxFailedIndexes": 1})),
            "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
        ),
        (
            job(json!({"managedBy": "me"})),
            "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")",
        ),
    ];
    for (object, expected) in cases {
        let (_, errors) = create(kind("batch/v1", "Job"), object);
        assert_eq!(errors, [expected]);
    }
    created(kind("batch/v1", "Job"), failure(codes("In", json!([1, 42]))));
    created(kind("batch/v1", "Job"), success(json!({"succeededIndexes": "0,2-4", "succeededCount": 2})));
}

#[test]
fn controller_revisions_keep_their_data() {
    let revisions = kind("apps/v1", "ControllerRevision");
    let old = created(revisions, json!({"metadata": {"name": "r"}, "revision": 1, "data": {"a": 1}}));
    let (_, errors) = update(revisions, &old, |o| o["revision"] = 2.into());
    assert_eq!(errors, Vec::<String>::new());
    let (_, errors) = update(revisions, &old, |o| o["data"] = json!({"a": 2}));
    assert_eq!(errors, ["data: Invalid value: {\"a\":2}: field is immutable"]);
}
