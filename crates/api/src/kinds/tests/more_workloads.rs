use super::*;

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn daemon_set(strategy: Value) -> Value {
    json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template(),
        "updateStrategy": strategy}})
}

#[test]
fn daemon_sets_get_their_defaults_and_count_their_templates() {
    let sets = kind("apps/v1", "DaemonSet");
    let old = created(sets, daemon_set(Value::Null));
    assert_eq!(
        old["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
    );
    assert_eq!(old["spec"]["revisionHistoryLimit"], 10);
    assert_eq!(old["metadata"]["annotations"][TEMPLATE_GENERATION], "1");
    let (same, _) = update(sets, &old, |o| o["spec"]["minReadySeconds"] = 3.into());
    assert_eq!((&same["metadata"]["annotations"][TEMPLATE_GENERATION], meta::generation(&same)), (&json!("1"), 2));
    let (new, errors) = update(sets, &old, |o| o["spec"]["template"]["spec"]["containers"][0]["image"] = "j".into());
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!((&new["metadata"]["annotations"][TEMPLATE_GENERATION], meta::generation(&new)), (&json!("2"), 2));
    let (_, errors) = update(sets, &old, |o| {
        o["spec"]["selector"]["matchLabels"]["b"] = "c".into();
        o["spec"]["template"]["metadata"]["labels"]["b"] = "c".into();
    });
    assert_eq!(
        errors,
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\",\"b\":\"c\"}}: field is immutable"]
    );
}

#[test]
fn bad_daemon_sets_are_refused() {
    let cases = [
        (
            json!({"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}}),
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
        ),
        (
            json!({"rollingUpdate": {"maxUnavailable": 0}}),
            "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
        ),
        (
            json!({"type": "Never"}),
            "spec.updateStrategy: Unsupported value: {\"type\":\"Never\"}: supported values: \"RollingUpdate\", \"OnDelete\"",
        ),
    ];
    for (strategy, expected) in cases {
        let (_, errors) = create(kind("apps/v1", "DaemonSet"), daemon_set(strategy));
        assert_eq!(errors, [expected]);
    }
    created(kind("apps/v1", "DaemonSet"), daemon_set(json!({"type": "OnDelete"})));
    created(
        kind("apps/v1", "DaemonSet"),
        daemon_set(json!({"rollingUpdate": {"maxSurge": "10%", "maxUnavailable": 0}})),
    );
}

fn cron_job(extra: Value) -> Value {
    let mut spec = json!({"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {"spec":
        {"restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "i"}]}}}}});
    for (k, v) in extra.as_object().unwrap() {
        spec[k] = v.clone();
    }
    json!({"metadata": {"name": "c"}, "spec": spec})
}

#[test]
fn cron_jobs_get_their_defaults() {
    let c = created(kind("batch/v1", "CronJob"), cron_job(json!({"timeZone": "Europe/Berlin"})));
    assert_eq!((&c["spec"]["concurrencyPolicy"], &c["spec"]["suspend"]), (&json!("Allow"), &json!(false)));
    assert_eq!(
        (&c["spec"]["successfulJobsHistoryLimit"], &c["spec"]["failedJobsHistoryLimit"]),
        (&json!(3), &json!(1))
    );
    let job = &c["spec"]["jobTemplate"]["spec"];
    assert_eq!(job["template"]["spec"]["containers"][0]["imagePullPolicy"], "Always");
    assert!(job.get("backoffLimit").is_none(), "the job gets its defaults when it is made");
}

#[test]
fn bad_cron_jobs_are_refused_in_kubernetes_words() {
    let job = |extra: Value| {
        let mut o = cron_job(json!({}));
        for (k, v) in extra.as_object().unwrap() {
            o["spec"]["jobTemplate"]["spec"][k] = v.clone();
        }
        o
    };
    let cases = [
        (cron_job(json!({"schedule": ""})), "spec.schedule: Required value"),
        (
            cron_job(json!({"schedule": "* * *"})),
            "spec.schedule: Invalid value: \"* * *\": expected exactly 5 fields, found 3: [* * *]",
        ),
        (
            cron_job(json!({"schedule": "TZ=UTC * * * * *"})),
            "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ),
        (
            cron_job(json!({"timeZone": "Mars/Base"})),
            "spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base",
        ),
        (
            cron_job(json!({"timeZone": "Local"})),
            "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        ),
        (
            cron_job(json!({"concurrencyPolicy": "Maybe"})),
            "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
        ),
        (
            cron_job(json!({"startingDeadlineSeconds": -1})),
            "spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            job(json!({"backoffLimit": -1})),
            "spec.jobTemplate.spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            job(json!({"template": template()})),
            "spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        ),
        (
            job(json!({"selector": {"matchLabels": {"a": "b"}}})),
            "spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated",
        ),
    ];
    for (object, expected) in cases {
        let (_, errors) = create(kind("batch/v1", "CronJob"), object);
        assert_eq!(errors, [expected]);
    }
    let mut long = cron_job(json!({}));
    long["metadata"]["name"] = "c".repeat(53).into();
    let (_, errors) = create(kind("batch/v1", "CronJob"), long);
    assert!(errors[0].ends_with("must be no more than 52 characters"), "{errors:?}");
}

#[test]
fn replication_controllers_take_selector_and_labels_from_the_template() {
    let controllers = kind("v1", "ReplicationController");
    let rc = created(controllers, json!({"metadata": {"name": "r"}, "spec": {"template": template()}}));
    assert_eq!((&rc["spec"]["selector"], &rc["metadata"]["labels"]), (&json!({"app": "x"}), &json!({"app": "x"})));
    assert_eq!(rc["spec"]["replicas"], 1);
    assert_eq!(
        controllers.selectable(&json!({"status": {"replicas": 2}})).last().unwrap(),
        &("status.replicas", "2".to_owned())
    );
    let (_, errors) = create(
        controllers,
        json!({"metadata": {"name": "r"}, "spec": {"selector": {"app": "y"}, "template": template()}}),
    );
    assert_eq!(
        errors,
        ["spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`"]
    );
    let (_, errors) = create(controllers, json!({"metadata": {"name": "r"}}));
    assert_eq!(errors, ["spec.selector: Required value", "spec.template: Required value"]);
    let t = created(kind("v1", "PodTemplate"), json!({"metadata": {"name": "t"}, "template": template()}));
    assert_eq!(t["template"]["spec"]["restartPolicy"], "Always");
}

#[test]
fn scales_show_any_notation_of_a_selector() {
    let text = |api_version: &str, k: &str, selector: Value| {
        let paths = kind(api_version, k).scale.unwrap();
        paths.selector_text(&json!({"spec": {"selector": selector}}))
    };
    let metav1 = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]});
    assert_eq!(text("apps/v1", "Deployment", metav1).unwrap(), "a=b,c");
    assert_eq!(text("v1", "ReplicationController", json!({"a": "b", "c": "d"})).unwrap(), "a=b,c=d");
    assert_eq!(text("apps/v1", "Deployment", json!("a in (b)")).unwrap(), "a in (b)");
    assert_eq!(text("apps/v1", "Deployment", Value::Null).unwrap(), "");
}
